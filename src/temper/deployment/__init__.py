"""A classifier in use: predict, export."""

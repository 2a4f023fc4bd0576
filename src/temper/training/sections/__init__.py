"""The parts of a fine-tuning configuration, by what they decide: each option stands once, near what it is about."""

"""A local page for one model: drop an image, and see what is decided, how near the next decision is, and why."""

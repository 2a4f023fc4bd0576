"""A result folder on disk, and what fills it: fine-tuning, evaluation, margins, corruptions, and their views."""

"""What trains for, scores with, or attacks the detector of brittle decisions."""

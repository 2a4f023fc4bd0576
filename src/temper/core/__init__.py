"""What every other room stands on: files, places, claims, signals, progress, precision, random numbers, calls."""

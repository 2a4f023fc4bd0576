"""Grids of runs, and what their results say."""

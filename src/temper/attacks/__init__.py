"""Attacks, their losses and suites, and the engine that runs them in batches."""

"""Brittle decisions of a model on data: scores, a detector, attacks on it, and the folder that keeps all that."""

"""Robust fine-tuning: epsilon schedules, objectives, protocols, the loop and its checkpoints."""

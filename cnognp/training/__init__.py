"""A training run: its configuration, its folder, its checkpoints, and what is recorded along it."""

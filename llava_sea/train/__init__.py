"""Training: arguments, the entry points, the trainer and its checkpoints."""

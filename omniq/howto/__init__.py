"""What to type: the command that a recipe stands for, and how each runtime loads and serves a checkpoint."""

"""Training: the loop, the optimiser's parameter groups, the EMA and the checkpoints."""

"""Training: the loop (read it top to bottom), the optimiser's groups, the EMA, checkpoints."""

"""Computations of notebook 02: loss curves, shares of a run's gradient, claims about MAL."""

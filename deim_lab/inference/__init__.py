"""Use a trained detector: predict, export it, measure its speed and cost."""

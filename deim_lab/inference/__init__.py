"""What one does with a trained detector: predict, export, measure its speed and cost."""

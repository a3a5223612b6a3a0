"""Weights in and out: what a file holds, how it fills a model, what a run starts from."""

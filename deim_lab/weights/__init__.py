"""Read, write and load weights, and choose the weights that a run starts from."""

"""The machine of a run: files, optional packages, GPUs."""

"""The machine a run is on: files, optional packages, GPUs."""

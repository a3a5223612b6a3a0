"""What the notebooks compute, one room a notebook; ``figures`` draws it."""

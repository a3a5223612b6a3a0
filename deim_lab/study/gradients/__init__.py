"""What notebook 02 computes: curves of the losses, shares of a run's gradient, statements checked
by autograd.
"""

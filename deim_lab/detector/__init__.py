"""The detector: backbone, hybrid encoder, decoder with edge distributions; its weights, predictions
and export.
"""

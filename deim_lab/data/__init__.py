"""Data sets: read, check, draw, report, load.

``annotations`` and ``coco`` read and check. ``synthetic`` draws the embedded default. ``doctor``
reports on a data set. ``loader`` makes batches.
"""

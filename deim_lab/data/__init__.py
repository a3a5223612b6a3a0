"""Data sets: read and check (``annotations``, ``coco``), the embedded default (``synthetic``), a
report (``doctor``), batches (``loader``).
"""

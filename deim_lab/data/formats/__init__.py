"""Readers of data sets that are not in COCO's format: YOLO, Pascal VOC and CSV."""

"""Localizers that work from bounding boxes."""

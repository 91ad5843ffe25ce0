"""Localizers that need only image-level tags."""

"""Localizers that work from scribbles."""

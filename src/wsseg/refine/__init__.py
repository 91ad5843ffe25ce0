"""Refiners: Scores and an image in, better Scores out; one file each, chained freely."""

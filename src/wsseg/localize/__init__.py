"""Localize: weak labels to scores."""

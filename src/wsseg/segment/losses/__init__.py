"""Losses for training on pseudo masks: one file per idea."""

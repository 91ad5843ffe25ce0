"""Pseudo masks: from scores to label maps, their clean-up, fusion and doubt."""

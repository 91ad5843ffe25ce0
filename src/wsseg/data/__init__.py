"""Samples, labels, images and masks: what wsseg knows about a data set."""

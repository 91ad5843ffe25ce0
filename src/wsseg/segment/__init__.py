"""Training a segmenter on pseudo masks, and predicting with it."""

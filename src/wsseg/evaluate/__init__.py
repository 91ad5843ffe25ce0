"""Numbers for every stage: confusion matrix, IoU, boundary IoU, sweeps, bootstrap, AP."""

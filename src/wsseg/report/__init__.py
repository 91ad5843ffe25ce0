"""The HTML report of a run: what ran, how good it is, and the images to look at first."""

"""wsseg: weakly supervised semantic segmentation, from cheap labels to pixel masks and a model."""

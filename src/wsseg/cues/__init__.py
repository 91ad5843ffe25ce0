"""Class-agnostic knowledge of images: what stands out, what belongs together."""

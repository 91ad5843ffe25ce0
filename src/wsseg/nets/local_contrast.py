"""Local contrast normalisation: every pixel measured against its surroundings.

Lighting that changes across a part, shading towards its border and differences between parts are
larger than many defects; a network trained from scratch on few parts learns those parts by heart.
With m and s the mean and the deviation of the box of side w around a pixel,

    y = (x - m) / sqrt(s^2 + epsilon^2),

so that what is left is how a place differs from what surrounds it. The colour channels share s,
which keeps hues. The idea is that of Jarrett, Kavukcuoglu, Ranzato and LeCun, "What is the Best
Multi-Stage Architecture for Object Recognition?", ICCV 2009 (from memory); the box, which takes
two passes whatever its side, replaces their Gaussian window, and epsilon the mean deviation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# In units of the normalised images, about 6 of 255 grey levels: weaker texture counts as flat.
EPSILON = 0.1


class LocalContrast(nn.Module):
    """Normalises images by the mean and deviation around each pixel; nothing is learned.

    Args:
        window_px: Side of the box, pixels; an even side is enlarged by one.

    Example:
        >>> flat = torch.full((1, 1, 8, 8), 3.0)
        >>> bool((LocalContrast(5)(flat).abs() < 1e-3).all())
        True
    """

    def __init__(self, window_px: int) -> None:
        super().__init__()
        self.window_px = window_px | 1

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            images: (N, C, H, W) float; boxes are cut at the border of the image.

        Returns:
            The same shape and type.
        """
        values = images.float()
        mean = self._box(values)
        # Around the image's own mean, so that the difference of squares keeps its digits.
        centred = values - values.mean(dim=(2, 3), keepdim=True)
        variance = self._box(centred.square()) - self._box(centred).square()
        shared = variance.clamp(min=0).mean(dim=1, keepdim=True)
        normalised = (values - mean) / torch.sqrt(shared + EPSILON**2)
        return normalised.to(images.dtype)

    def _box(self, values: Tensor) -> Tensor:
        """Average over the box, counting only what lies in the image."""
        side, reach = self.window_px, self.window_px // 2
        for kernel, padding in (((1, side), (0, reach)), ((side, 1), (reach, 0))):
            values = F.avg_pool2d(
                values, kernel, stride=1, padding=padding, count_include_pad=False
            )
        return values

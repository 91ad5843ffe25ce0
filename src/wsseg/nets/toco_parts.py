"""The parts of ToCo behind the transformer: segmentation decoder, projection and its teacher.

Reference: Ru, Zheng, Zhan and Du, "Token Contrast for Weakly-Supervised Semantic Segmentation",
CVPR 2023; the layers of both from memory, their widths are settings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

# Cells between the taps of the decoder's convolutions (DeepLab-LargeFOV, from memory).
_DILATION = 5


class Decoder(nn.Sequential):
    """Two dilated 3x3 convolutions and a classifier with a wide view.

    Args:
        in_channels: D, of the features.
        width: Channels in between.
        num_outputs: C + 1, background included.
    """

    def __init__(self, in_channels: int, width: int, num_outputs: int) -> None:
        first = nn.Conv2d(in_channels, width, 3, padding=_DILATION, dilation=_DILATION)
        second = nn.Conv2d(width, width, 3, padding=_DILATION, dilation=_DILATION)
        classify = nn.Conv2d(width, num_outputs, 1)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(classify.weight)
        for layer in (first, second, classify):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), classify)


class Projector(nn.Module):
    """From class tokens to vectors of length one, with a slowly following teacher of itself.

    The teacher's weights are buffers: they are stored in checkpoints and never trained.

    Args:
        in_channels: D, of the tokens.
        width: Width of the hidden layers.
        num_outputs: E.
        ema: What the teacher keeps of itself at each update.

    Example:
        >>> projector = Projector(8, 16, 4, ema=0.9)
        >>> torch.equal(projector.teacher(torch.ones(1, 8)), projector(torch.ones(1, 8)))
        True
    """

    def __init__(self, in_channels: int, width: int, num_outputs: int, *, ema: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, num_outputs),
        )
        self.ema = ema
        for name, weight in self.layers.named_parameters():
            self.register_buffer(_buffer_name(name), weight.detach().clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens.

        Args:
            tokens: (..., D).

        Returns:
            (..., E) of length one.
        """
        return F.normalize(self.layers(tokens), dim=-1)

    @torch.no_grad()
    def teacher(self, tokens: Tensor) -> Tensor:
        """Project tokens with the teacher's weights, without gradient.

        Args:
            tokens: (..., D).

        Returns:
            (..., E) of length one.
        """
        names = [name for name, _ in self.layers.named_parameters()]
        weights = {name: self.get_buffer(_buffer_name(name)) for name in names}
        projected: Tensor = functional_call(self.layers, weights, (tokens,))
        return F.normalize(projected, dim=-1)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher: ``teacher <- ema teacher + (1 - ema) weights``."""
        for name, weight in self.layers.named_parameters():
            self.get_buffer(_buffer_name(name)).lerp_(weight, 1 - self.ema)


def _buffer_name(name: str) -> str:
    # Names of buffers have no dots.
    return f"teacher_{name.replace('.', '_')}"

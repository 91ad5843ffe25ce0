"""Dropout of whole channels on features of any layout.

Reference: Tompson et al., "Efficient Object Localization Using Convolutional Networks", CVPR 2015.
It is `torch.nn.Dropout2d`, but for features whose channels may be the last axis, too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class ChannelDropout(nn.Module):
    """Drops channels while training and scales the others by ``1 / (1 - p)``.

    Args:
        p: Probability that a channel of an image is dropped.
        axis: Axis of the channels; the first axis is that of the images.
    """

    def __init__(self, p: float, axis: int = 1) -> None:
        super().__init__()
        self.p = p
        self.axis = axis

    def forward(self, features: Tensor) -> Tensor:
        """Drop channels.

        Args:
            features: (N, D, h, w), (N, h, w, D) or (N, tokens, D).

        Returns:
            Features of the same shape; the input itself in evaluation mode.
        """
        if not self.training:
            return features
        shape = [1] * features.ndim
        shape[0], shape[self.axis] = features.shape[0], features.shape[self.axis]
        kept = features.new_empty(shape).bernoulli_(1 - self.p)
        return features * kept / (1 - self.p)

    def hook(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        """Act on the output of another module, as a forward hook of it.

        Args:
            output: Features, or a tuple that begins with them.

        Returns:
            The same with channels dropped.
        """
        if isinstance(output, tuple):
            return (self(output[0]), *output[1:])
        return self(output)

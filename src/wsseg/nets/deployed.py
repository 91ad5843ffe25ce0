"""A segmentation network as it is used: bytes in, class probabilities out.

Normalisation and softmax are part of the network, so that prediction in Python and in an exported
file are the same computation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsseg.data.colour import GREY_MEAN, GREY_STD, IMAGENET_MEAN, IMAGENET_STD, LUMA


class DeployedNet(nn.Module):
    """A network from RGB bytes to class probabilities.

    Args:
        net: Module from normalised images (N, in_channels, H, W) to logits (N, K, H, W).
        in_channels: 3 for colour, 1 for grey networks.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, net: nn.Module, in_channels: int = 3) -> None:
        super().__init__()
        self.net = net
        self.in_channels = in_channels
        mean, std = (GREY_MEAN, GREY_STD) if in_channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute class probabilities.

        Args:
            images: (N, 3, H, W) uint8 RGB.

        Returns:
            (N, K, H, W) float32 in [0, 1], summing to 1 over K.
        """
        return self._probabilities(self.net(self._normalised(images)))

    def with_boxes(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Compute class probabilities of images whose boxes are known.

        Args:
            images: (N, 3, H, W) uint8 RGB.
            boxes: (N, M, 5) float, left, top, right, bottom in pixels of the images, half-open, and
                class id; class 0 is no box.

        Returns:
            (N, K, H, W) float32 in [0, 1], summing to 1 over K.
        """
        compute = self.net.with_boxes
        return self._probabilities(compute(self._normalised(images), boxes))  # type: ignore[operator]

    def _normalised(self, images: Tensor) -> Tensor:
        values = images.float()
        if self.in_channels == 1:
            # Rounded as the 8-bit grey images of training are.
            values = (values * self.luma).sum(dim=1, keepdim=True).round()
        return (values / 255 - self.mean) / self.std

    @staticmethod
    def _probabilities(logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)

"""A copy of a network that stays as the network once was, to judge it later.

Used by OC-CSE (`wsseg.localize.regularise.oc_cse`). The copy is made once, during the training;
whether that has happened is part of its state, so that an interrupted training goes on with the
same classifier.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from wsseg.nets.cam_head import ClassMapNet


class FrozenClassifier(nn.Module):
    """The classifier that a network was when it was copied.

    Args:
        net: The network, before regularisers act on it; left unchanged.

    Attributes:
        net: The copy, always in evaluation mode and never trained.
        is_copied: Whether `copy_once` has done its work.
    """

    is_copied: Tensor

    def __init__(self, net: ClassMapNet) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.register_buffer("is_copied", torch.zeros((), dtype=torch.bool))

    def train(self, mode: bool = True) -> FrozenClassifier:
        """Set the mode of this module; the copy stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    def copy_once(self, net: ClassMapNet) -> None:
        """Take over the weights of the network, the first time that this is called.

        Args:
            net: The network, trained so far.
        """
        if bool(self.is_copied):
            return
        trained = net.state_dict()
        self.net.load_state_dict({name: trained[name] for name in self.net.state_dict()})
        self.is_copied.fill_(True)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """Classify images.

        Args:
            images: (N, 3 or 1, H, W) float, normalised.
            valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.

        Returns:
            (N, C) float32; gradients go to the images only.
        """
        return self.net.logits(images, valid)

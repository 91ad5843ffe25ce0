from __future__ import annotations

import pytest
import torch

from wsseg.errors import RecipeError
from wsseg.nets.segmentation import SegmentationNet


@pytest.mark.parametrize("architecture", ["unet", "linknet"])
def test_a_shallow_encoder_gives_logits_of_full_size_with_fewer_weights(architecture: str) -> None:
    full = SegmentationNet(architecture, "resnet18", 3, weights="none")
    shallow = SegmentationNet(architecture, "resnet18", 3, weights="none", encoder_depth=3).eval()
    with torch.no_grad():
        assert shallow(torch.zeros(1, 3, 37, 50)).shape == (1, 3, 37, 50)
    assert shallow.multiple_px == 8

    def decoder_size(net: SegmentationNet) -> int:
        return sum(parameter.numel() for parameter in net.head_parameters())

    assert decoder_size(shallow) < decoder_size(full) / 4


def test_an_architecture_of_fixed_depth_says_which_ones_are_not() -> None:
    with pytest.raises(RecipeError, match="linknet, manet, unet"):
        SegmentationNet("deeplabv3plus", "resnet18", 3, weights="none", encoder_depth=3)

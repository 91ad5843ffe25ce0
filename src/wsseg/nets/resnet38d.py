"""ResNet-38: the wide, shallow residual network of the image-label literature, at stride 8.

Reference: Wu, Shen and van den Hengel, "Wider or Deeper: Revisiting the ResNet Model for Visual
Recognition", Pattern Recognition 2019 (model A1), in the dilated form of Ahn and Kwak, "Learning
Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018, and its successors (SEAM,
SC-CAM, OC-CSE, EPS, S2C). Parameters are named as in those systems, so that their published
weight files load; the MXNet file of the authors loads as well.

Blocks normalise and rectify before they convolve. Nothing is frozen here: `Backbone` does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# (name, in, middle, out, stride, first dilation, dilation) of the plain blocks, in order.
_PLAIN = [
    ("b2", 64, 128, 128, 2, 1, 1),
    ("b2_1", 128, 128, 128, 1, 1, 1),
    ("b2_2", 128, 128, 128, 1, 1, 1),
    ("b3", 128, 256, 256, 2, 1, 1),
    ("b3_1", 256, 256, 256, 1, 1, 1),
    ("b3_2", 256, 256, 256, 1, 1, 1),
    ("b4", 256, 512, 512, 2, 1, 1),
    ("b4_1", 512, 512, 512, 1, 1, 1),
    ("b4_2", 512, 512, 512, 1, 1, 1),
    ("b4_3", 512, 512, 512, 1, 1, 1),
    ("b4_4", 512, 512, 512, 1, 1, 1),
    ("b4_5", 512, 512, 512, 1, 1, 1),
    ("b5", 512, 512, 1024, 1, 1, 2),
    ("b5_1", 1024, 512, 1024, 1, 2, 2),
    ("b5_2", 1024, 512, 1024, 1, 2, 2),
]
# The output named in the dictionary is the normalised input of the block.
_TAPS = {"b4": "conv3", "b5": "conv4", "b6": "conv5"}
_BATCHNORM_NAMES = {
    "beta": "bias",
    "gamma": "weight",
    "mean": "running_mean",
    "moving_mean": "running_mean",
    "var": "running_var",
    "moving_var": "running_var",
}


class ResBlock(nn.Module):
    """Two 3x3 convolutions, normalised and rectified before each.

    Args:
        in_channels: Channels of the input.
        middle: Channels between the convolutions.
        out_channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        first_dilation: Dilation of the first convolution.
        dilation: Dilation of the second one.
    """

    def __init__(
        self,
        in_channels: int,
        middle: int,
        out_channels: int,
        *,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(in_channels)
        self.conv_branch2a = nn.Conv2d(
            in_channels,
            middle,
            3,
            stride,
            padding=first_dilation,
            dilation=first_dilation,
            bias=False,
        )
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(
            middle, out_channels, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.has_projection = in_channels != out_channels or stride != 1
        if self.has_projection:
            self.conv_branch1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the normalised, rectified input."""
        before = F.relu(self.bn_branch2a(x))
        shortcut = self.conv_branch1(before) if self.has_projection else x
        h = self.conv_branch2a(before)
        h = self.conv_branch2b1(F.relu(self.bn_branch2b1(h)))
        return shortcut + h, before


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolution with dropout of whole channels before the last two.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; the middle ones are a quarter and a half of them.
        dilation: Dilation of the 3x3 convolution.
        dropout: Probability of dropping a channel.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        quarter, half = out_channels // 4, out_channels // 2
        self.bn_branch2a = nn.BatchNorm2d(in_channels)
        self.conv_branch2a = nn.Conv2d(in_channels, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(
            quarter, half, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(half, out_channels, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and the normalised, rectified input."""
        before = F.relu(self.bn_branch2a(x))
        h = self.conv_branch2a(before)
        h = self.conv_branch2b1(self.dropout_2b1(F.relu(self.bn_branch2b1(h))))
        h = self.conv_branch2b2(self.dropout_2b2(F.relu(self.bn_branch2b2(h))))
        return self.conv_branch1(before) + h, before


class ResNet38d(nn.Module):
    """The network without its classifier.

    Args:
        in_channels: 3, or 1 for grey images.
        dropout: Probabilities of dropping a channel in the last two blocks (S2C: 0.2, 0.2).
    """

    num_features = 4096
    feature_info = (
        {"module": "b2_2", "reduction": 2, "num_chs": 128},
        {"module": "b3_2", "reduction": 4, "num_chs": 256},
        {"module": "b4_5", "reduction": 8, "num_chs": 512},
        {"module": "b5_2", "reduction": 8, "num_chs": 1024},
        {"module": "bn7", "reduction": 8, "num_chs": 4096},
    )

    def __init__(self, in_channels: int = 3, dropout: tuple[float, float] = (0.3, 0.5)) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        for name, inputs, middle, outputs, stride, first_dilation, dilation in _PLAIN:
            block = ResBlock(
                inputs,
                middle,
                outputs,
                stride=stride,
                first_dilation=first_dilation,
                dilation=dilation,
            )
            self.add_module(name, block)
        self.b6 = BottleneckBlock(1024, 2048, dilation=4, dropout=dropout[0])
        self.b7 = BottleneckBlock(2048, 4096, dilation=4, dropout=dropout[1])
        self.bn7 = nn.BatchNorm2d(4096)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the named features.

        Args:
            images: (N, in_channels, H, W) normalised.

        Returns:
            ``conv3`` (N, 256, H/4, W/4), ``conv4`` (N, 512, H/8, W/8), ``conv5``
            (N, 1024, H/8, W/8) and ``conv6`` (N, 4096, H/8, W/8), all rectified.
        """
        outputs: dict[str, Tensor] = {}
        x = self.conv1a(images)
        for name in (*(row[0] for row in _PLAIN), "b6", "b7"):
            x, before = self.get_submodule(name)(x)
            if name in _TAPS:
                outputs[_TAPS[name]] = before
        outputs["conv6"] = F.relu(self.bn7(x))
        return outputs

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute ``conv6`` alone."""
        return self(images)["conv6"]

    @staticmethod
    def convert_state(state: Mapping[str, Any]) -> dict[str, Any]:
        """Rename the keys of the MXNet file; other files come back as they are.

        Args:
            state: Tensors by name.

        Returns:
            Tensors by the names of this network; the 1000-class classifier is left out.
        """
        if not any(key.startswith("res2a_branch") for key in state):
            return dict(state)
        renamed = ((_torch_name(key), value) for key, value in state.items())
        return {key: value for key, value in renamed if key is not None}


def _torch_name(key: str) -> str | None:
    """Translate one MXNet key; None for the classifier.

    ``res<stage><suffix>_<branch>_weight`` and ``bn<stage><suffix>_<branch>_<statistic>``, suffix
    ``a`` for block ``b<stage>``, ``b<i>`` for ``b<stage>_<i>``.
    """
    if key.startswith("linear1000"):
        return None
    tokens = key.split("_")
    if tokens[0] == "conv1a":
        return "conv1a.weight"
    statistic = _BATCHNORM_NAMES.get("_".join(tokens[2:])) or _BATCHNORM_NAMES.get(tokens[-1])
    if not any(token.startswith("branch") for token in tokens):
        return f"bn7.{statistic}"
    is_conv = tokens[0].startswith("res")
    place = tokens[0].removeprefix("res" if is_conv else "bn")
    stage, suffix = place[0], place[1:]
    block = f"b{stage}" if suffix == "a" else f"b{stage}_{suffix.removeprefix('b')}"
    if is_conv:
        return f"{block}.conv_{tokens[1]}.weight"
    return f"{block}.bn_{tokens[1]}.{statistic}"

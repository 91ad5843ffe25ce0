"""BB-UNet: a U-Net whose skip connections are multiplied by what boxes let through.

Three levels with 64, 128 and 256 channels and 256 at the bottom; each has two 3x3 convolutions with
batch norm, ReLU and channel dropout; the way up is bilinear. At each level the boxes, drawn as
filled maps, go through a maximum over r x r pixels, a 3x3 convolution and a sigmoid, with
r = 4, 2, 1 from the coarsest; the result multiplies the features that skip the bottom. Without
boxes the skips are as in a U-Net.

El Jurdi, Petitjean, Honeine and Abdallah, "BB-UNet: U-Net With Bounding Box Prior", IEEE Journal of
Selected Topics in Signal Processing 2020. It differs in that images of any size are taken, and in
that gates may be open for some images of a batch and closed for others, so that one network learns
to work with boxes and without.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.nets.feature_map import FeatureMap

_CHANNELS = (64, 128, 256)
_BOTTOM_CHANNELS = 256


class BbUNet(nn.Module):
    """A U-Net with gates made of boxes.

    Args:
        num_outputs: Number of logits per pixel: background and the C classes.
        in_channels: 3 for colour, 1 for grey images.
        box_maps: B, number of maps that boxes are drawn on.
        dropout: Probability that a channel is dropped while training.
        channels: Channels of the three levels, finest first.
        bottom_channels: Channels at the bottom.

    Attributes:
        use_gates: Whether boxes are looked at; False bypasses the gates, whatever is given.
        feature_channels: Channels of the features that `with_features` returns.
    """

    def __init__(
        self,
        num_outputs: int,
        *,
        in_channels: int = 3,
        box_maps: int = 1,
        dropout: float = 0.6,
        channels: tuple[int, ...] = _CHANNELS,
        bottom_channels: int = _BOTTOM_CHANNELS,
    ) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        self.box_maps = box_maps
        self.use_gates = True
        self.feature_channels = channels[0]
        self.multiple_px = 2 ** len(channels)
        down, width = [], in_channels
        for wide in channels:
            down.append(_double(width, wide, dropout))
            width = wide
        self.down = nn.ModuleList(down)
        self.bottom = _double(width, bottom_channels, dropout)
        up, width = [], bottom_channels
        for wide in reversed(channels):
            up.append(_double(width + wide, wide, dropout))
            width = wide
        self.up = nn.ModuleList(up)
        # The finest level sees the boxes as they are, each coarser one at half the size.
        self.gates = nn.ModuleList(
            BoxGate(box_maps, wide, 2**level) for level, wide in enumerate(channels)
        )
        self.head = nn.Conv2d(width, num_outputs, 1)

    def forward(
        self, images: Tensor, boxes: Tensor | None = None, has_boxes: Tensor | None = None
    ) -> Tensor:
        """Compute class logits.

        Args:
            images: (N, in_channels, H, W) float, normalised; any H, W >= 1.
            boxes: (N, B, H, W) float, 1 inside of boxes and 0 outside; None bypasses the gates.
            has_boxes: (N,) bool, the images whose gates are used; None: all.

        Returns:
            (N, num_outputs, H, W) logits.
        """
        return self.with_features(images, boxes, has_boxes)[0]

    def with_boxes(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Compute class logits of images whose boxes are known; `forward` alone goes by the gates.

        Args:
            images: (N, in_channels, H, W) float, normalised.
            boxes: (N, M, 5) float, left, top, right, bottom in pixels of ``images``, half-open,
                and class id; class 0 is no box.

        Returns:
            (N, num_outputs, H, W) logits.
        """
        return self(images, self.drawn(boxes, (images.shape[-2], images.shape[-1])))

    def drawn(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Draw boxes (N, M, 5) on the maps (N, B, H, W) that the gates look at."""
        num_classes = self.num_outputs - 1
        return draw_boxes(boxes, size, num_classes, per_class=self.box_maps == num_classes)

    def with_features(
        self, images: Tensor, boxes: Tensor | None = None, has_boxes: Tensor | None = None
    ) -> tuple[Tensor, FeatureMap]:
        """Compute class logits, and the features from which they are made; see `forward`."""
        height, width = images.shape[-2:]
        values = self._padded(images)
        maps = None if boxes is None or not self.use_gates else self._padded(boxes)
        skips = []
        for level, (block, gate) in enumerate(zip(self.down, self.gates, strict=True)):
            values = block(values if level == 0 else F.max_pool2d(values, 2))
            skips.append(values if maps is None else gate(values, maps, has_boxes))
        values = self.bottom(F.max_pool2d(values, 2))
        for block, skip in zip(self.up, reversed(skips), strict=True):
            larger = F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            values = block(torch.cat([larger, skip], dim=1))
        logits: Tensor = self.head(values)[..., :height, :width]
        return logits, FeatureMap(values, (values.shape[-2], values.shape[-1]))

    def freeze_gates(self) -> None:
        """Keep the gates as they are in further training.

        Each parameter is frozen: an attribute ``requires_grad`` on a module freezes nothing.
        """
        for parameter in self.gates.parameters():
            parameter.requires_grad_(False)

    def _padded(self, values: Tensor) -> Tensor:
        """Fill up to the right and below with zeros, the mean colour and no box."""
        height, width = values.shape[-2:]
        multiple = self.multiple_px
        wanted = [(length + multiple - 1) // multiple * multiple for length in (height, width)]
        return F.pad(values, (0, wanted[1] - width, 0, wanted[0] - height))


class BoxGate(nn.Module):
    """Multiplies features by what the boxes let through.

    Args:
        box_maps: B, number of maps that boxes are drawn on.
        channels: Channels of the features.
        factor: r, how many times coarser the features are than the maps.
    """

    def __init__(self, box_maps: int, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(box_maps, channels, 3, padding=1)

    def forward(self, values: Tensor, boxes: Tensor, has_boxes: Tensor | None = None) -> Tensor:
        """Gate features.

        Args:
            values: (N, c, h, w).
            boxes: (N, B, r h, r w) float in {0, 1}.
            has_boxes: (N,) bool, the images that are gated; None: all.

        Returns:
            (N, c, h, w).
        """
        gate = self.conv(F.max_pool2d(boxes, self.factor)).sigmoid()
        if has_boxes is not None:
            gate = torch.where(has_boxes[:, None, None, None], gate, torch.ones_like(gate))
        gated: Tensor = values * gate
        return gated


def draw_boxes(
    boxes: Tensor, size: tuple[int, int], num_classes: int, *, per_class: bool
) -> Tensor:
    """Draw boxes as filled maps.

    Args:
        boxes: (N, M, 5) float, left, top, right, bottom in pixels, half-open, and class id; class
            0 is no box.
        size: (H, W) of the maps.
        num_classes: C.
        per_class: One map per class; else one map for all.

    Returns:
        (N, C or 1, H, W) float32 of 0 and 1; a pixel is inside where its centre is.

    Example:
        >>> box = torch.tensor([[[1.0, 0.0, 3.0, 1.0, 2.0]]])
        >>> draw_boxes(box, (2, 4), 2, per_class=True)[0].tolist()[1]
        [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    height, width = size
    y = torch.arange(height, device=boxes.device) + 0.5
    x = torch.arange(width, device=boxes.device) + 0.5
    x0, y0, x1, y1, class_ids = boxes.unbind(dim=2)
    in_rows = (y >= y0[..., None]) & (y < y1[..., None])
    in_columns = (x >= x0[..., None]) & (x < x1[..., None])
    # One map per box.
    inside = (in_rows[..., None] & in_columns[..., None, :]).float()
    if per_class:
        ids = torch.arange(1, num_classes + 1, device=boxes.device)
        members = (class_ids[:, None, :] == ids[:, None]).float()
    else:
        members = (class_ids[:, None, :] > 0).float()
    # (N, C or 1, H, W): the number of boxes at each pixel.
    return torch.einsum("ncm,nmhw->nchw", members, inside).clamp(max=1)


def _double(in_channels: int, channels: int, dropout: float) -> nn.Sequential:
    """Two convolutions, each with batch norm, ReLU and channel dropout."""
    layers: list[nn.Module] = []
    for width in (in_channels, channels):
        layers += [
            nn.Conv2d(width, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
        ]
    return nn.Sequential(*layers)

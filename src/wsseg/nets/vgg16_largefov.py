"""VGG16 with a large field of view at stride 8, the first backbone of the field.

References: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015; the large field of view is that of Chen et al., "Semantic Image
Segmentation with Deep Convolutional Nets and Fully Connected CRFs", ICLR 2015; the form is that
of Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018.

It wants BGR images in [0, 255] minus a mean, without division. `Backbone` takes images normalised
like all others and converts them; the square root that the authors take of its class maps is
applied where maps are extracted (`map_exponent`).
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

# Caffe's mean colour, here in the order red, green, blue.
CAFFE_MEAN = (122.675, 116.669, 104.008)
# (number of convolutions, channels, stride of the pooling behind them, dilation)
_GROUPS = ((2, 64, 2, 1), (2, 128, 2, 1), (3, 256, 2, 1), (3, 512, 1, 1), (3, 512, 1, 2))


class Vgg16LargeFov(nn.Module):
    """The network without its classifier.

    Args:
        in_channels: 3 (blue, green, red), or 1 for grey images.
        fc6_dilation: Dilation of the first of the two wide layers.
        dropout: Probability of dropping a channel behind each of them.
    """

    num_features = 1024
    map_exponent = 0.5
    is_bgr = True
    pretrained_cfg = {  # noqa: RUF012 - read only, the form timm gives it
        "mean": tuple(value / 255 for value in CAFFE_MEAN),
        "std": (1 / 255, 1 / 255, 1 / 255),
    }
    feature_info = (
        {"module": "conv2_2", "reduction": 2, "num_chs": 128},
        {"module": "conv3_3", "reduction": 4, "num_chs": 256},
        {"module": "conv4_3", "reduction": 8, "num_chs": 512},
        {"module": "conv5_3", "reduction": 8, "num_chs": 512},
        {"module": "fc7", "reduction": 8, "num_chs": 1024},
    )

    def __init__(
        self, in_channels: int = 3, *, fc6_dilation: int = 1, dropout: float = 0.5
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = in_channels
        for group, (count, channels, stride, dilation) in enumerate(_GROUPS, start=1):
            for index in range(1, count + 1):
                layers[f"conv{group}_{index}"] = nn.Conv2d(
                    inputs, channels, 3, padding=dilation, dilation=dilation
                )
                inputs = channels
            layers[f"pool{group}"] = nn.MaxPool2d(3, stride, padding=1)
        layers["fc6"] = nn.Conv2d(512, 1024, 3, padding=fc6_dilation, dilation=fc6_dilation)
        layers["drop6"] = nn.Dropout2d(dropout)
        layers["fc7"] = nn.Conv2d(1024, 1024, 1)
        layers["drop7"] = nn.Dropout2d(dropout)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._order = tuple(layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the named features.

        Args:
            images: (N, in_channels, H, W), BGR in [0, 255] minus the mean.

        Returns:
            ``conv3`` (N, 256, H/4, W/4), ``conv4``, ``conv5`` (N, 512, H/8, W/8) and ``conv6``
            (N, 1024, H/8, W/8): the last layer of each group, rectified.
        """
        taps = {"conv3_3": "conv3", "conv4_3": "conv4", "conv5_3": "conv5", "drop7": "conv6"}
        outputs: dict[str, Tensor] = {}
        x = images
        for name in self._order:
            x = self.get_submodule(name)(x)
            if name.startswith(("conv", "fc")):
                x = F.relu(x)
            if name in taps:
                outputs[taps[name]] = x
        return outputs

    def forward_features(self, images: Tensor) -> Tensor:
        """Compute ``conv6`` alone."""
        return self(images)["conv6"]

"""CAM: the class maps of a multi-label classifier, the baseline of all localizers from tags.

Reference: Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning Deep Features for Discriminative
Localization", CVPR 2016; training and multi-scale extraction as in Ahn and Kwak, "Learning
Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018, and Ahn, Cho and Kwak,
"Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019.

Differences: any backbone and output stride, poolings for small objects, padding that does not
count, tiles for large images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from wsseg.localize.config import TagLocalizerConfig

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet


class Cam(TagLocalizerConfig):
    """A classifier with class maps."""

    name: Literal["cam"] = Field("cam", description="Class activation maps.")


def cam(*, config: Cam = Cam(), num_classes: int, load_weights: bool = True) -> ClassMapNet:
    """Make the classifier.

    Args:
        config: Its settings.
        num_classes: C, foreground classes.
        load_weights: Load the weights that the settings name. False builds the same network with
            random ones, to load a checkpoint into it.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When the backbone does not exist or cannot do what is asked.
        MissingWeightsError: When its weights cannot be had or do not fit.

    Example:
        >>> net = cam(config=Cam(backbone="test_resnet"), num_classes=2)
        >>> net.num_classes, net.backbone.stride
        (2, 8)
    """
    from wsseg.localize.tags.backbone import class_map_net

    return class_map_net(config, num_classes, load_weights=load_weights)

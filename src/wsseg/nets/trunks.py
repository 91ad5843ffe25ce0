"""Make the bare networks: timm's and our own, with random, published or own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from wsseg.errors import MissingWeightsError, RecipeError, unknown_name
from wsseg.nets.resnet38d import ResNet38d
from wsseg.nets.vgg16_largefov import Vgg16LargeFov
from wsseg.nets.weights import load_backbone_state, read_state_dict

OWN = {"resnet38d": ResNet38d, "vgg16_largefov": Vgg16LargeFov}
# The published files of our own networks; they are on no hub.
_PUBLISHED = {
    "resnet38d": "ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
    "vgg16_largefov": "vgg16_20M.pth",
}


def create_trunk(name: str, *, weights: str = "none", in_channels: int = 3) -> nn.Module:
    """Make a network without classifier.

    Args:
        name: A timm network, optionally with its tag (``resnet50.a1_in1k``), or one of `OWN`.
        weights: ``imagenet``, ``none`` or the path of a weight file.
        in_channels: 3, or 1 for grey images.

    Returns:
        The network; ``forward_features`` gives its features, ``feature_info`` its stages.

    Raises:
        RecipeError: When there is no such network.
        MissingWeightsError: When the weights cannot be had or do not fit.
    """
    if name in OWN:
        if weights == "imagenet":
            raise MissingWeightsError(
                f'Backbone "{name}" has no weights on the hub. Fetch its published file '
                f"{_PUBLISHED[name]} and give its path (--set localize.weights=PATH), or train "
                "from scratch (--set localize.weights=none)."
            )
        trunk: nn.Module = OWN[name](in_channels)
    else:
        trunk = _create_timm(name, in_channels, pretrained=False)
        if weights == "imagenet":
            trunk = _create_pretrained(trunk, name, in_channels)
    if weights not in ("imagenet", "none"):
        path = Path(weights).expanduser()
        load_backbone_state(
            trunk,
            read_state_dict(path),
            source=str(path),
            name=name,
            convert=getattr(trunk, "convert_state", None),
        )
    return trunk


def _create_timm(name: str, in_channels: int, *, pretrained: bool) -> nn.Module:
    import timm

    architecture = name.partition(".")[0]
    known = timm.list_models()
    if architecture not in known:
        near = [model for model in known if model[:4] == architecture[:4]][:8]
        raise RecipeError(unknown_name("backbone", name, [*near, *OWN, "resnet18", "resnet50"]))
    # Transformers take images of any size only when told so at their making.
    attempts: tuple[dict[str, Any], ...] = (
        {"dynamic_img_size": True},
        {"strict_img_size": False},
        {},
    )
    for options in attempts:
        try:
            made: nn.Module = timm.create_model(
                name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **options
            )
            return made
        except TypeError as error:
            if not options or not any(key in str(error) for key in options):
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _create_pretrained(untrained: nn.Module, name: str, in_channels: int) -> nn.Module:
    try:
        return _create_timm(name, in_channels, pretrained=True)
    # The hub client raises errors of several libraries when it cannot reach its server.
    except Exception as error:
        raise _missing(untrained, name, error) from error


def _missing(untrained: nn.Module, name: str, error: Exception) -> MissingWeightsError:
    from huggingface_hub import constants

    settings = getattr(untrained, "pretrained_cfg", None) or {}
    hub_id = settings.get("hf_hub_id")
    scratch = "or train from scratch (--set localize.weights=none)"
    if not hub_id:
        return MissingWeightsError(
            f'timm has no ImageNet weights for "{name}". Choose another backbone, give a file '
            f"(--set localize.weights=PATH), {scratch}."
        )
    folder = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return MissingWeightsError(
        f'The ImageNet weights of "{name}" are neither cached nor reachable ({reason}). They are '
        f"the file model.safetensors of {hub_id} on the Hugging Face hub. On a machine with "
        f"network run `hf download {hub_id}` and copy the folder that it makes to {folder}; or "
        f"copy that one file and give its path (--set localize.weights=PATH); {scratch}."
    )

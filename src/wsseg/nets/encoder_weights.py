"""First weights of segmentation encoders: ImageNet, none, or a file, never silently another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wsseg import console
from wsseg.errors import MissingWeightsError, RecipeError
from wsseg.nets.backbones import Backbone
from wsseg.nets.weights import load_backbone_state, read_state_dict, sum_colours

# Where encoders lie within networks that may have been saved whole; the empty one comes first.
_PREFIXES = (
    "",
    "model.",
    "encoder.",
    "encoder.model.",
    "backbone.",
    "trunk.",
    "net.encoder.",
    "net.encoder.model.",
    "net.net.encoder.",
    "net.net.encoder.model.",
)


def load_encoder_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Load the first weights of an encoder of segmentation-models-pytorch.

    Args:
        encoder: The encoder, with random weights; changed in place.
        name: Its name; ``tu-`` marks networks of timm.
        weights: ``"imagenet"``, ``"none"``, ``"localizer"`` (nothing is loaded here, see
            `start_from_backbone`) or the path of a weight file of the encoder alone or of a
            network that contains it. Three-channel first layers are summed for a grey
            encoder.

    Raises:
        MissingWeightsError: When the weights cannot be had or do not fit.
    """
    if weights in ("none", "localizer"):
        return
    trunk = encoder.get_submodule("model") if name.startswith("tu-") else encoder
    try:
        if weights == "imagenet":
            state, source = _imagenet_state(name)
        else:
            state, source = read_state_dict(Path(weights)), weights
        load_backbone_state(trunk, match_names(state, trunk.state_dict()), source=source, name=name)
    except MissingWeightsError as error:
        text = str(error).replace("localize.weights", "segment.weights")
        text = text.replace("localize.backbone", "segment.encoder")
        raise MissingWeightsError(text) from error
    console.once(f"encoder {name}: weights from {source}")


def start_from_backbone(encoder: nn.Module, name: str, backbone: Backbone) -> int:
    """Copy the weights of a trained backbone into an encoder of the same kind.

    The two may end at different stages, so that only what both have is copied; and a network
    that reads colours may start one that reads grey.

    Args:
        encoder: The encoder; changed in place.
        name: Its name; ``tu-`` marks networks of timm.
        backbone: A localizer's backbone.

    Returns:
        Number of tensors that were copied.

    Raises:
        RecipeError: When the two are not the same kind of network.
    """
    trunk = encoder.get_submodule("model") if name.startswith("tu-") else encoder
    target = trunk.state_dict()
    found = match_names(backbone.trunk.state_dict(), target)
    sum_colours(found, target)
    first = next(key for key, value in target.items() if value.ndim == 4)
    fits = {key: value for key, value in found.items() if target.get(key) is not None}
    if first not in fits or any(value.shape != target[key].shape for key, value in fits.items()):
        raise RecipeError(
            f"segment.weights is localizer, but the encoder {name} cannot start from the "
            f"localizer's backbone {backbone.name}: their layers differ. Set segment.encoder to "
            f"{backbone.name} or tu-{backbone.name}, segment.in_channels to "
            f"{backbone.in_channels}, or segment.weights to none."
        )
    trunk.load_state_dict(fits, strict=False)
    return len(fits)


def match_names(state: Mapping[str, Tensor], target: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename a network's tensors to the names of the encoder cut out of it.

    timm writes ``stages_0`` for ``stages.0`` when it cuts a network down to its feature maps;
    prefixes of enclosing networks are removed, and layers behind the encoder are left out.

    Args:
        state: Tensors of the whole network by name.
        target: The encoder's own state.

    Returns:
        The tensors that the encoder has, under its names; everything when none is found.
    """
    wanted = {_flat(key): key for key in target}
    best: dict[str, Tensor] = {}
    for prefix in _PREFIXES:
        found = {
            wanted[flat]: value
            for key, value in state.items()
            if key.startswith(prefix) and (flat := _flat(key.removeprefix(prefix))) in wanted
        }
        if len(found) > len(best):
            best = found
    return best or dict(state)


def _flat(key: str) -> str:
    return key.replace("_", ".")


def _imagenet_state(name: str) -> tuple[dict[str, Tensor], str]:
    """Fetch ImageNet weights through the Hugging Face cache; return them and their source."""
    if name.startswith("tu-"):
        return _timm_state(name.removeprefix("tu-"))
    import segmentation_models_pytorch as smp
    from huggingface_hub import hf_hub_download

    settings = smp.encoders.encoders[name]["pretrained_settings"].get("imagenet")
    if settings is None:
        raise MissingWeightsError(_no_weights(name))
    repository, revision = settings["repo_id"], settings["revision"]
    try:
        path = hf_hub_download(repository, filename="model.safetensors", revision=revision)
    # The hub's client raises its own, the HTTP library's and the operating system's errors.
    except Exception as error:
        raise MissingWeightsError(_unreachable(name, repository, error)) from error
    return read_state_dict(Path(path)), f"{repository} (ImageNet)"


def _timm_state(name: str) -> tuple[dict[str, Tensor], str]:
    import timm

    if not timm.is_model_pretrained(name):
        raise MissingWeightsError(_no_weights(f"tu-{name}"))
    settings = timm.get_pretrained_cfg(name)
    source = getattr(settings, "hf_hub_id", None) or getattr(settings, "url", None) or name
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:
        raise MissingWeightsError(_unreachable(f"tu-{name}", source, error)) from error
    return dict(network.state_dict()), f"{source} (timm)"


def _no_weights(name: str) -> str:
    return (
        f"The encoder {name} has no ImageNet weights. Choose another encoder, give a weight file "
        "with --set segment.weights=PATH, or train from scratch with --set segment.weights=none."
    )


def _unreachable(name: str, source: str, error: Exception) -> str:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"The ImageNet weights of the encoder {name} ({source}, file model.safetensors) are "
        f"neither cached nor reachable: {reason[0]} Fetch that file on a machine with network and "
        "give its path with --set segment.weights=PATH, copy the Hugging Face cache folder, or "
        "train from scratch with --set segment.weights=none."
    )

"""Weight files: read them without executing anything, and load them only where they fit.

`weights` of every backbone is ``imagenet`` (timm's own, through the Hugging Face cache), ``none``
(random) or the path of a file: ``.safetensors``, ``.pth``/``.pt``/``.bin`` (tensors only) or
MXNet's ``.params``. A file that fits only partly is an error: weights that silently stay random
are the commonest reason for a network that learns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsseg.errors import MissingWeightsError
from wsseg.nets.mxnet_params import read_mxnet_params

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".params")
# Keys under which training scripts keep the weights within a checkpoint.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params")
# Classifiers of the published networks; a backbone neither has nor needs them.
HEAD_NAMES = (
    "aux_logits",
    "classifier",
    "classif",
    "cls_head",
    "fc",
    "fc8",
    "fc9",
    "f8",
    "f9",
    "fc_norm",
    "head",
    "head_dist",
    "last_linear",
    "linear1000",
)
_SHOWN_KEYS = 6


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file.

    Args:
        path: A ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.params`` file. Checkpoints
            that keep the weights under ``state_dict`` or ``model`` are unwrapped, and the prefix
            ``module.`` of data-parallel training is removed.

    Returns:
        ``{name: tensor}`` on the CPU.

    Raises:
        MissingWeightsError: When the file is missing, damaged, of another kind, or holds anything
            but tensors that would have to be executed to be read.
    """
    if not path.is_file():
        raise MissingWeightsError(
            f"Weights file {path} does not exist. Give the path of a file "
            f"({', '.join(SUFFIXES)}), `imagenet`, or `none` to train from scratch "
            "(--set localize.weights=none)."
        )
    suffix = path.suffix.lower()
    if suffix == ".params":
        arrays = read_mxnet_params(path)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    if suffix == ".safetensors":
        content = _read_safetensors(path)
    elif suffix in SUFFIXES:
        content = _read_torch(path)
    else:
        raise MissingWeightsError(
            f'Weights file {path} has the suffix "{path.suffix}"; expected one of '
            f"{', '.join(SUFFIXES)}."
        )
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise MissingWeightsError(
            f"Weights file {path} holds no tensors, only {_shown(map(str, content))}. Save the "
            "network's state_dict() into it."
        )
    return {name.removeprefix("module."): value for name, value in state.items()}


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MissingWeightsError(
            f"Weights file {path} is not a complete .safetensors file ({error}). Fetch it again."
        ) from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load answers a damaged file with whatever its unpickler stumbles over.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MissingWeightsError(
            f"Weights file {path} cannot be read as plain tensors ({reason[0]}). It is damaged, "
            "or holds Python objects, which are never executed here. Save it again with "
            "torch.save(network.state_dict(), path), or as .safetensors."
        ) from error
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if _is_mapping(content, key)), None)
        if inner is None:
            return content
        content = inner
    raise MissingWeightsError(
        f"Weights file {path} holds a {type(content).__name__}; expected a dictionary of tensors."
    )


def _is_mapping(content: Mapping[str, Any], key: str) -> bool:
    return isinstance(content.get(key), Mapping)


def load_backbone_state(
    trunk: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    name: str,
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None,
) -> None:
    """Load a state dictionary into a backbone, with heads the only part that may not fit.

    A common prefix (``backbone.``, ``encoder.``, ...) is found and removed. A first convolution
    for three channels is summed over them for a grey backbone.

    Args:
        trunk: The network without its classifier; changed in place.
        state: Tensors by name.
        source: Where they come from, for messages.
        name: The backbone's name, for messages.
        convert: Renames published keys into the trunk's, where they differ.

    Raises:
        MissingWeightsError: When other keys than those of a head are missing, left over or of
            another shape.
    """
    target = trunk.state_dict()
    converted = convert(state) if convert is not None else dict(state)
    converted = _without_prefix(converted, target)
    sum_colours(converted, target)
    missing = [key for key in target if key not in converted and not _is_optional(key)]
    unexpected = [key for key in converted if key not in target and not _is_optional(key)]
    misshapen = [
        f"{key} {tuple(converted[key].shape)} instead of {tuple(target[key].shape)}"
        for key in target
        if key in converted and converted[key].shape != target[key].shape
    ]
    if missing or unexpected or misshapen:
        problems = [
            f"{len(keys)} {what}: {_shown(keys)}"
            for what, keys in (
                ("missing", missing),
                ("left over", unexpected),
                ("of another shape", misshapen),
            )
            if keys
        ]
        raise MissingWeightsError(
            f'The weights in {source} do not fit the backbone "{name}"; '
            f"{'; '.join(problems)}. They look like {guess_architecture(state)}. Choose that "
            "backbone (--set localize.backbone=NAME), another file, or --set "
            "localize.weights=none to train from scratch."
        )
    trunk.load_state_dict({key: converted.get(key, value) for key, value in target.items()})


def _without_prefix(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix under which most of the wanted keys are found."""
    probes = [key for key in target if not _is_optional(key)][:8]
    prefixes = {
        key.removesuffix(probe)
        for key in state
        for probe in probes
        if key.endswith(probe) and (key == probe or key.removesuffix(probe).endswith("."))
    }
    if not prefixes:
        return state
    best = max(sorted(prefixes), key=lambda prefix: sum(prefix + key in state for key in target))
    return {key.removeprefix(best): value for key, value in state.items()}


def sum_colours(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Sum a three-channel first convolution for a grey backbone, as timm does.

    Args:
        state: Tensors by name; changed in place.
        target: The tensors of the grey network.
    """
    for key, wanted in target.items():
        given = state.get(key)
        if given is None or given.ndim != 4 or wanted.ndim != 4:
            continue
        is_grey = wanted.shape[1] == 1 and given.shape[1] == 3
        if is_grey and given.shape[::2] == wanted.shape[::2] and given.shape[3] == wanted.shape[3]:
            state[key] = given.sum(dim=1, keepdim=True)


def _is_optional(key: str) -> bool:
    parts = key.split(".")
    # BatchNorm counts its batches; the count changes nothing in inference.
    return parts[-1] == "num_batches_tracked" or any(part in HEAD_NAMES for part in parts[:2])


def _shown(keys: Iterable[str]) -> str:
    names = list(keys)
    more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
    return ", ".join(names[:_SHOWN_KEYS]) + more


def guess_architecture(state: Mapping[str, Any]) -> str:
    """Say which network the names of a state dictionary belong to.

    Args:
        state: Tensors by name.

    Returns:
        A phrase for a message.

    Example:
        >>> guess_architecture({"b4_5.conv_branch2a.weight": 0, "bn7.weight": 0})
        'ResNet-38 (backbone resnet38d)'
    """
    names = list(state)

    def has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    if has(r"(^|\.)b\d(_\d)?\.conv_branch") or has(r"^res\d[a-z]\d*_branch"):
        return "ResNet-38 (backbone resnet38d)"
    if has(r"(^|\.)conv1_1\.weight"):
        return "VGG16-LargeFOV (backbone vgg16_largefov)"
    if has(r"(^|\.)layer4\.\d+\.conv\d"):
        return _guess_resnet(names)
    if has(r"(^|\.)features\.\d+\.weight"):
        return "a torchvision VGG"
    if has(r"(^|\.)patch_embed\.") and has(r"(^|\.)layers\.\d+\.blocks\."):
        return "a Swin transformer"
    if has(r"(^|\.)patch_embed\."):
        depth = len({m[1] for name in names if (m := re.search(r"blocks\.(\d+)\.", name))})
        return f"a vision transformer with {depth} blocks"
    if has(r"stages\.\d+\.blocks\.\d+\.(conv_dw|dwconv)"):
        return "a ConvNeXt"
    if has(r"(^|\.)conv_stem\.weight"):
        return "an EfficientNet or MobileNet of timm"
    return f"no architecture known here (first keys: {_shown(names[:3])})"


def _guess_resnet(names: list[str]) -> str:
    """Count the blocks of a ResNet and name its depth."""
    found = (re.search(r"(layer\d)\.(\d+)\.", name) for name in names)
    blocks = len({match.groups() for match in found if match})
    is_bottleneck = any(re.search(r"layer4\.\d+\.conv3\.", name) for name in names)
    depths = {(8, False): 18, (16, False): 34, (16, True): 50, (33, True): 101, (50, True): 152}
    depth = depths.get((blocks, is_bottleneck))
    return f"ResNet-{depth} (backbone resnet{depth})" if depth else "a ResNet of unusual depth"

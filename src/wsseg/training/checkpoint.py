"""Files of a training that are whole or absent and hold no pickled object.

A checkpoint is one safetensors file: weights, moving average and optimiser state are its tensors,
and everything that is a number or a word is JSON in its header. One file is replaced by one
rename, so there is always exactly one complete checkpoint. The state of random-number generators
is not in it: they are seeded anew for every update (see `wsseg.training.seeds`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from wsseg.atomic import atomic_path
from wsseg.errors import MissingWeightsError, OutputError
from wsseg.training.ema import WeightAverage, copy_into

_HEADER_KEY = "wsseg"
_MODEL, _EMA, _OPTIMIZER = "model", "ema", "optimizer"


@dataclass
class Position:
    """How far a training is.

    Args:
        epoch: Complete epochs.
        step: Updates in all.
        epoch_step: Updates in the running epoch.
        sums: Sums over those updates of everything that is logged.
        epoch_seconds: Time spent in the running epoch.
        best_value: Best validation so far, larger is better.
        best_epoch: The number of complete epochs when it was reached.
    """

    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    epoch_seconds: float = 0.0
    best_value: float | None = None
    best_epoch: int | None = None


@dataclass(frozen=True)
class Trained:
    """The objects whose state a checkpoint holds."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    ema: WeightAverage | None = None
    scaler: Any = None


def save_weights(
    path: Path, weights: nn.Module | Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a network's weights and buffers as safetensors, atomically.

    Args:
        path: The file.
        weights: The network, or its tensors by name.
        metadata: Words to store in the header.

    Raises:
        OutputError: When the file cannot be written; it is then as it was before.
        ValueError: When the network's state holds something other than tensors.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    _save(path, _tensors_only(state), dict(metadata or {}))


def load_weights(path: Path, module: nn.Module) -> dict[str, str]:
    """Read weights that `save_weights` wrote into a network of the same shape.

    Args:
        path: The file.
        module: The network; it keeps its device and memory format.

    Returns:
        The words stored in the header.

    Raises:
        MissingWeightsError: When the file is missing, broken, or made by another network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            metadata: dict[str, str] = stored.metadata() or {}
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        module.load_state_dict(state)
    except (OSError, safetensors.SafetensorError) as error:
        raise MissingWeightsError(
            f"Cannot read the weights {path}: {error}. Train again, or give another file."
        ) from error
    except RuntimeError as error:
        raise MissingWeightsError(
            f"The weights {path} belong to another network than {type(module).__name__}: {error}"
        ) from error
    return metadata


def save_checkpoint(path: Path, trained: Trained, position: Position, fingerprint: str) -> None:
    """Write everything that is needed to continue a training.

    Args:
        path: The file; the one before it stays until the new one is complete.
        trained: Network, optimiser, moving average, gradient scaler.
        position: How far the training is.
        fingerprint: What the training depends on; see `load_checkpoint`.

    Raises:
        OutputError: When the file cannot be written.
        ValueError: When the network's state holds something other than tensors.
    """
    tensors = _prefixed(_MODEL, _tensors_only(trained.module.state_dict()))
    if trained.ema is not None:
        tensors |= _prefixed(_EMA, trained.ema.tensors)
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in trained.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}/{index}/{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    header = {
        "fingerprint": fingerprint,
        "position": asdict(position),
        "optimizer": numbers,
        "scaler": None if trained.scaler is None else trained.scaler.state_dict(),
    }
    _save(path, tensors, {_HEADER_KEY: json.dumps(header, allow_nan=False)})


def load_checkpoint(path: Path, trained: Trained, fingerprint: str) -> Position | None:
    """Read a checkpoint into the objects of a training, down to the last bit.

    Args:
        path: The file.
        trained: Network, optimiser, moving average and gradient scaler, built as for a new
            training.
        fingerprint: Must be the one it was written with.

    Returns:
        How far the training was; None when there is no checkpoint, or it belongs to another
        training, and nothing was read.

    Raises:
        safetensors.SafetensorError: When the file is broken.
    """
    if not path.is_file():
        return None
    with safetensors.safe_open(path, framework="pt") as stored:
        header = json.loads((stored.metadata() or {}).get(_HEADER_KEY, "{}"))
        if header.get("fingerprint") != fingerprint:
            return None
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    trained.module.load_state_dict(_without_prefix(_MODEL, tensors))
    if trained.ema is not None:
        copy_into(trained.ema.tensors, _without_prefix(_EMA, tensors))
    _load_optimizer(trained.optimizer, tensors, header["optimizer"])
    if trained.scaler is not None:
        trained.scaler.load_state_dict(header["scaler"])
    return Position(**header["position"])


def _load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    state: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in numbers.items()}
    for key, tensor in _without_prefix(_OPTIMIZER, tensors).items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    # The groups hold settings only, which the recipe gives again.
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Same memory format as without the interruption: vectorised and scalar code
                # round differently, and which one meets an element depends on the layout.
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _tensors_only(state: Mapping[str, Any]) -> dict[str, Tensor]:
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"Expected a network whose state is tensors only, but {others} are not. Keep numbers "
            "in buffers."
        )
    return dict(state)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    # Copies, because safetensors takes neither shared nor channels-last memory.
    copies = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        try:
            safetensors.torch.save_file(copies, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:
            raise OutputError(
                f"Cannot write {path}: {error} - free some space, or choose another folder with "
                "--out, and run the same command again."
            ) from error

"""Optimisers, their parameter groups, and the learning-rate schedules.

Reference for ``psa_poly``: Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level
Supervision for Weakly Supervised Semantic Segmentation", CVPR 2018, and the systems that
inherited its optimiser (IRN, SEAM, ReCAM, PuzzleCAM, OC-CSE, S2C, EPS, AdvCAM). Their settings
speak of a momentum of 0.9, but that number is the exponent of the schedule

    lr(t) = lr * (1 - t / T)^0.9,      t = 0 .. T-1

while the momentum of the SGD is the weight decay, by the position of an argument: practically
zero. Here it is zero. Adding a momentum of 0.9 to such a recipe multiplies its effective step by
ten and can make it diverge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from wsseg.training.config import TrainingConfig

_INITIAL_LR = "initial_lr"


def lr_factor(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Say by what the learning rate is multiplied at one update.

    The warm-up rises linearly, and the last of its updates has the factor 1; the schedule runs
    over the rest.

    Args:
        step: Number of the update, from 0.
        total_steps: Number of updates T in the whole training.
        config: Schedule, power and warm-up.

    Returns:
        0 to 1.

    Example:
        >>> lr_factor(50, 100, TrainingConfig(schedule="poly", poly_power=1.0))
        0.5
        >>> lr_factor(0, 100, TrainingConfig(warmup_frac=0.1))
        0.1
    """
    warmup_steps = round(config.warmup_frac * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.schedule == "poly":
        return float((1 - done) ** config.poly_power)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its highest one."""
    for group in optimizer.param_groups:
        group["lr"] = group[_INITIAL_LR] * factor


def build_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimiser of a module.

    Args:
        module: Its ``parameter_groups(config)``, where it has one, makes the groups: torch-style
            dictionaries with ``params`` and, if wanted, ``lr`` and ``weight_decay``. Otherwise
            `parameter_groups` does.
        config: Optimiser, rates and rules.

    Returns:
        The optimiser; every group carries its highest learning rate as ``initial_lr``.

    Raises:
        ValueError: When the module has nothing to train, or a weight that is trainable is in no
            group.
    """
    own_groups = getattr(module, "parameter_groups", None)
    groups = own_groups(config) if own_groups is not None else parameter_groups(module, config)
    groups = [_completed(group, config) for group in groups]
    groups = [group for group in groups if group["params"]]
    _check_groups(module, groups)
    # On a CPU one pass over each weight in place of a dozen. Elsewhere torch chooses: it is fast
    # there, and a fused step hides from the loop that float16 overflowed and nothing was changed.
    fused = None if torch.accelerator.is_available() else True
    if config.optimiser == "adamw":
        return torch.optim.AdamW(
            groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
    is_plain = config.optimiser == "psa_poly"
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=0.0 if is_plain else config.momentum,
        nesterov=False if is_plain else config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def parameter_groups(module: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Split the trainable weights into backbone and head, and each into weights and biases.

    Args:
        module: Its ``head_parameters()``, where it has one, names the head.
        config: Learning rates, decay and the rule for biases.

    Returns:
        Up to four torch-style groups, in the order backbone weights, backbone biases, head
        weights, head biases; empty ones are left out.
    """
    head_of = getattr(module, "head_parameters", None)
    head = {id(parameter) for parameter in head_of()} if head_of is not None else set()
    rule = config.bias_rule
    if rule == "auto":
        rule = "double_lr" if config.optimiser == "psa_poly" else "no_decay"
    split: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (id(parameter) in head, _is_bias(name, parameter, rule))
            split.setdefault(key, []).append(parameter)
    groups = []
    for in_head, is_bias in sorted(split):
        lr = config.lr * (config.head_lr_factor if in_head else 1.0)
        groups.append(
            {
                "params": split[in_head, is_bias],
                "lr": lr * (2.0 if is_bias and rule == "double_lr" else 1.0),
                "weight_decay": 0.0 if is_bias else config.weight_decay,
            }
        )
    return groups


def _is_bias(name: str, parameter: nn.Parameter, rule: str) -> bool:
    if rule == "same":
        return False
    if rule == "double_lr":
        return name.rpartition(".")[2].endswith("bias")
    return parameter.ndim <= 1


def _completed(group: dict[str, Any], config: TrainingConfig) -> dict[str, Any]:
    """Fill in what a group leaves open, and drop frozen weights from it."""
    params: Iterable[nn.Parameter] = group["params"]
    completed = {"lr": config.lr, "weight_decay": config.weight_decay, **group}
    completed["params"] = [parameter for parameter in params if parameter.requires_grad]
    completed[_INITIAL_LR] = completed["lr"]
    return completed


def _check_groups(module: nn.Module, groups: list[dict[str, Any]]) -> None:
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    if not grouped:
        raise ValueError("Expected a module with trainable weights, but all are frozen.")
    forgotten = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) not in grouped
    ]
    if forgotten:
        raise ValueError(
            f"Expected parameter_groups() to hold every trainable weight, but {forgotten[:5]} "
            f"({len(forgotten)} in all) are in no group. Freeze them with requires_grad_(False)."
        )

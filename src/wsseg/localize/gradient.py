"""Class maps from gradients, for networks whose head is not a linear layer behind an average.

References:
    Grad-CAM: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", ICCV 2017.
    Grad-CAM++: Chattopadhyay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations
    for Deep Convolutional Networks", WACV 2018.
    LayerCAM: Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for
    Localization", TIP 2021; the fusion of stages is from memory.

With A (D, h, w) the features of a layer, s the logit of a class and G = ds/dA:

    Grad-CAM     M = ReLU(sum_k w_k A_k),  w_k = mean_ij G_kij
    Grad-CAM++   the same with w_k = sum_ij alpha_kij ReLU(G_kij),
                 alpha = G^2 / (2 G^2 + (sum_ab A_kab) G^3), 0 where G is 0
    LayerCAM     M = ReLU(sum_k ReLU(G_k) A_k), place by place

Difference: the network runs without gradients up to the first layer asked for, and the gradients
are taken from the logits back to that layer only, so that nothing below it is kept or computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def run_with_layers(
    network: nn.Module, images: Tensor, layers: Sequence[nn.Module]
) -> tuple[list[Tensor], Tensor]:
    """Run a network and keep some layers' outputs, ready to be differentiated for.

    Args:
        network: Maps images to (N, C) logits; in evaluation mode.
        images: Its input.
        layers: Modules of the network.

    Returns:
        The outputs of the layers and the logits, connected by a graph that starts at the first
        layer. No hook stays behind.
    """
    kept: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, _inputs: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        if not kept:
            value = value.detach().requires_grad_(True)
            # Everything before this layer ran without a graph; from here on there is one.
            torch.set_grad_enabled(True)
        kept[layer] = value
        # Later layers may write in place into what they are given.
        copy = value.clone()
        return (copy, *output[1:]) if isinstance(output, tuple) else copy

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with torch.no_grad():
            logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [kept[layer] for layer in layers], logits


def class_gradients(logits: Tensor, class_index: int, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Differentiate one class's logits for layers' outputs.

    Args:
        logits: (N, C) from `run_with_layers`.
        class_index: 0 to C - 1.
        outputs: The layers' outputs from the same run.

    Returns:
        One gradient per output, of its shape; images do not mix.
    """
    score = logits[:, class_index].sum()
    return list(torch.autograd.grad(score, list(outputs), retain_graph=True))


def grad_cam_map(features: Tensor, gradients: Tensor) -> Tensor:
    """Weight the features by their mean gradients.

    Args:
        features: (N, D, h, w).
        gradients: (N, D, h, w), of a class's logit for the features.

    Returns:
        (N, h, w), not negative.

    Example:
        >>> features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[2.0, 4.0]], [[-1.0, -1.0]]]])
        >>> grad_cam_map(features, gradients).tolist()
        [[[0.0, 6.0]]]
    """
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1).relu()


def grad_cam_pp_map(features: Tensor, gradients: Tensor) -> Tensor:
    """Weight the features by their positive gradients, each place by its own coefficient.

    Args:
        features: (N, D, h, w).
        gradients: (N, D, h, w), of a class's logit for the features.

    Returns:
        (N, h, w), not negative.
    """
    # G^2 / (2 G^2 + s G^3) = 1 / (2 + s G): no cube that underflows where gradients are small.
    denominator = 2 + features.sum(dim=(2, 3), keepdim=True) * gradients
    usable = (gradients != 0) & (denominator.abs() > torch.finfo(features.dtype).eps)
    alpha = torch.where(usable, 1 / torch.where(usable, denominator, 1), 0)
    weights = (alpha * gradients.relu()).sum(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1).relu()


def layer_cam_map(features: Tensor, gradients: Tensor) -> Tensor:
    """Weight every place of every channel by its own positive gradient.

    Args:
        features: (N, D, h, w).
        gradients: (N, D, h, w), of a class's logit for the features.

    Returns:
        (N, h, w), not negative.

    Example:
        >>> features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[2.0, 4.0]], [[-1.0, -1.0]]]])
        >>> layer_cam_map(features, gradients).tolist()
        [[[2.0, 8.0]]]
    """
    return (gradients.relu() * features).sum(dim=1).relu()


def fuse_stages(maps: Sequence[Tensor], is_shallow: Sequence[bool], gamma: float) -> Tensor:
    """Fuse the LayerCAM maps of several stages: the highest at each place (from memory).

    Each map is divided by its maximum; those of shallow stages, which are weak, are raised to
    ``tanh(gamma M / max M)``.

    Args:
        maps: (N, h_i, w_i) per stage, not negative.
        is_shallow: Whether each is of a shallow stage.
        gamma: Strength of the raise.

    Returns:
        (N, h, w) in [0, 1], at the finest of the sizes.
    """
    size = max((tuple(one.shape[1:]) for one in maps), key=lambda shape: shape[0] * shape[1])
    fused = []
    for one, shallow in zip(maps, is_shallow, strict=True):
        highest = one.amax(dim=(1, 2), keepdim=True)
        scaled = torch.where(highest > 0, one / torch.where(highest > 0, highest, 1), 0)
        scaled = torch.tanh(gamma * scaled) if shallow else scaled
        resized = F.interpolate(scaled[:, None], size=size, mode="bilinear", align_corners=False)
        fused.append(resized[:, 0])
    return torch.stack(fused).amax(dim=0)

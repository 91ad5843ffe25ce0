"""Self-attention of vision transformers: which patch looks at which, layer by layer.

    A = softmax(Q K^T / sqrt(d)), rows: the patch that looks, columns: the patch that is looked at

Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; attention as affinity
of patches as in AFA (Ru et al., CVPR 2022), MCTformer (Xu et al., CVPR 2022) and CLIP-ES (Lin et
al., CVPR 2023). Networks are not rebuilt: the weights are taken where each attention layer of
timm hands them to its dropout. Fused kernels never form them, so they are switched off meanwhile.
Class, distillation and register tokens, and patches that show padding, are left out; what the
others gave to them is missing from the rows, which therefore sum to less than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.nets.backbones import Backbone


def num_attention_layers(backbone: Backbone) -> int:
    """Count the layers whose attention can be read.

    Args:
        backbone: Any backbone.

    Returns:
        L, at least 1.

    Raises:
        RecipeError: When the backbone has no attention between all its patches.
    """
    return len(_layers(backbone))


def attention_maps(
    backbone: Backbone,
    images: Tensor,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Read the self-attention between the patches of images, averaged over heads.

    Set the backbone to evaluation mode, and use ``torch.no_grad()`` where no gradient is wanted;
    otherwise gradients flow. One layer's heads are held at a time: (N, heads, T, T) float.

    Args:
        backbone: A plain vision transformer (ViT, DeiT, DINO, EVA and the like).
        images: (N, in_channels, H, W) float, normalised as for the backbone.
        layers: Which layers, in the order wanted; negative numbers count from the last. None: all.
        heads: Which heads are averaged; negative numbers count from the last. None: all.

    Returns:
        (N, L, n, n) float32 in [0, 1], n = ceil(H / stride) ceil(W / stride) patches row by row:
        ``[..., i, j]`` is how much patch i looks at patch j. Rows sum to at most 1.

    Raises:
        RecipeError: When the backbone has no attention between all its patches, or no such layer
            or head.

    Example:
        >>> from wsseg.nets.build import build_backbone
        >>> vit = build_backbone("test_vit", output_stride=16).eval()
        >>> attention_maps(vit, torch.zeros(1, 3, 32, 48), layers=[-2, -1]).shape
        torch.Size([1, 2, 6, 6])
    """
    modules = _layers(backbone)
    chosen = _chosen(layers, len(modules), "layer", backbone.name)
    wanted = list(dict.fromkeys(modules[index] for index in chosen))
    size = (images.shape[-2], images.shape[-1])
    with _unfused(wanted), _weights_of(wanted, heads, backbone.name) as found:
        tokens = backbone.trunk.forward_features(backbone.prepared(images))
    num_tokens = tokens.shape[1] if tokens.ndim == 3 else -1
    if any(module not in found for module in wanted) or any(
        weights.shape != (len(images), num_tokens, num_tokens) for weights in found.values()
    ):
        raise _no_attention(backbone.name)
    # Numbering the tokens shows which of them the grid of features keeps.
    numbers = torch.arange(num_tokens, device=images.device)[None, :, None]
    kept = backbone.as_grid(numbers, size).flatten()
    patches = {module: weights[:, kept][:, :, kept] for module, weights in found.items()}
    return torch.stack([patches[modules[index]] for index in chosen], dim=1)


def _layers(backbone: Backbone) -> list[nn.Module]:
    """Find the attention layers, first to last: modules that drop out attention weights."""
    if backbone.layout != "tokens":
        raise _no_attention(backbone.name)
    blocks = getattr(backbone.trunk, "blocks", None)
    inside = blocks.modules() if isinstance(blocks, nn.Module) else ()
    found = [m for m in inside if isinstance(getattr(m, "attn_drop", None), nn.Module)]
    if not found:
        raise _no_attention(backbone.name)
    return found


def _no_attention(name: str) -> RecipeError:
    return RecipeError(
        f'Backbone "{name}" has no self-attention between all its patches that could be read. '
        "Choose a plain vision transformer, e.g. --set localize.backbone=deit_small_patch16_224 "
        "--set localize.output_stride=16, or a refiner that needs none, e.g. dense_crf."
    )


def _chosen(wanted: Sequence[int] | None, count: int, what: str, name: str) -> list[int]:
    """Resolve None and negative numbers to indices from 0."""
    if wanted is None:
        return list(range(count))
    outside = [index for index in wanted if not -count <= index < count]
    if outside or not wanted:
        seen = f"{outside} is none of them" if outside else "none is named"
        raise RecipeError(
            f'Backbone "{name}" has {count} attention {what}s, numbered 0 to {count - 1}, or -1 '
            f"to -{count} from the last; {seen}."
        )
    return [index % count for index in wanted]


@contextmanager
def _unfused(modules: list[nn.Module]) -> Iterator[None]:
    """Let attention layers compute their weights openly while the block runs."""
    known: list[Any] = [module for module in modules if hasattr(module, "fused_attn")]
    kept = [module.fused_attn for module in known]
    for module in known:
        module.fused_attn = False
    try:
        yield
    finally:
        for module, is_fused in zip(known, kept, strict=True):
            module.fused_attn = is_fused


@contextmanager
def _weights_of(
    modules: list[nn.Module], heads: Sequence[int] | None, name: str
) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect the attention weights (N, T, T) float32 of layers, averaged over heads."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, weights: Any) -> None:
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise _no_attention(name)
        index = _chosen(heads, weights.shape[1], "head", name)
        every = index == list(range(weights.shape[1]))
        found[module] = (weights if every else weights[:, index]).float().mean(dim=1)

    def hook_for(module: nn.Module) -> Any:
        return lambda _dropout, inputs: keep(module, inputs[0] if inputs else None)

    dropouts: list[Any] = [module.attn_drop for module in modules]
    handles = [
        dropout.register_forward_pre_hook(hook_for(module))
        for module, dropout in zip(modules, dropouts, strict=True)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

"""Tree energy loss: unlabelled pixels should agree with what a spanning tree brings them.

With p the probabilities on a grid, F_low the filter along the minimum spanning tree of the image's
colours and F_high that of the network's own features (`wsseg.kernels.tree_filter`):

    target = F_high(F_low(p)),    L = (1 / |U|) sum over i in U of sum_k |p_ik - target_ik|

over the cells U that have no label and are not padding. Two neighbours are tied by
``exp(-|colour difference|^2 / sigma)`` in the first tree, with colours in [0, 1], and by
``exp(-|feature difference|^2)`` in the second. The gradient flows through p on both sides, and
through the features; the image has none, and neither has the choice of the tree's edges.

Liang, Wang, Zhang, Sun and Shen, "Tree Energy Loss: Towards Sparsely Annotated Semantic
Segmentation", CVPR 2022, with the numbers of its code. It differs in that padding is left out of
the trees, and in that cells are means of the finer output of today's networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsseg.data.labels import IGNORE
from wsseg.segment.losses.grid import at_centres, grid_size, rectangle, to_grid
from wsseg.segment.term_config import TreeEnergyConfig

if TYPE_CHECKING:
    from wsseg.kernels.tree_filter import GridTree


class TreeFilter(torch.autograd.Function):
    """`wsseg.kernels.tree_filter.tree_filter` with gradients of values and weights."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, tree: GridTree) -> Tensor:
        """Filter values (n, k) by the weights (n,) of each cell's edge to its parent."""
        from wsseg.kernels.tree_filter import tree_filter

        ctx.save_for_backward(values, weights)
        ctx.tree = tree
        result = tree_filter(_numbers(values), _numbers(weights), tree)
        return torch.from_numpy(result).to(values)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Carry the gradient (n, k) back to values and weights."""
        from wsseg.kernels.tree_filter import tree_filter_gradients

        values, weights = ctx.saved_tensors
        of_values, of_weights = tree_filter_gradients(
            _numbers(gradient), _numbers(values), _numbers(weights), ctx.tree
        )
        return (
            torch.from_numpy(of_values).to(values),
            torch.from_numpy(of_weights).to(weights),
            None,
        )


class FeatureEmbedding(nn.Sequential):
    """What the second tree sees: 1x1 convolution, batch norm and ReLU on the network's features.

    Args:
        in_channels: Channels of the features.
        channels: Channels that the tree sees.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )


def tree_energy(
    logits: Tensor,
    batch: dict[str, Tensor],
    config: TreeEnergyConfig,
    features: Tensor | None = None,
) -> Tensor:
    """Compute the loss of a batch.

    Args:
        logits: (N, K, H, W) float.
        batch: ``image`` (N, 1 or 3, H, W) float normalised; ``guide``, the same without changes of
            colour, where there is one; ``mask`` (N, H, W) integer, 255 unlabelled; ``valid``
            (N, H, W) bool where there is padding.
        config: Grid and affinity; its weight is left to the caller.
        features: (N, c, h, w) for the second tree, on the grid; None: there is none.

    Returns:
        Scalar in [0, 2]; 0 where every cell is labelled.
    """
    picture = batch.get("guide", batch["image"])
    grid = to_grid(logits, batch | {"image": picture}, config.grid_px)
    predicted = grid.logits.softmax(dim=1)
    colours = grid.images.movedim(-1, 1).to(predicted.dtype) / 255
    target = filtered(predicted, colours / config.sigma**0.5, grid.valid)
    if features is not None:
        target = filtered(target, features.to(predicted.dtype), grid.valid)
    counted = (at_centres(batch["mask"], config.grid_px) == IGNORE) & grid.valid
    cells = (predicted - target).abs().sum(dim=1)
    return (cells * counted).sum() / counted.sum().clamp(min=1)


def filtered(values: Tensor, guide: Tensor, valid: Tensor) -> Tensor:
    """Filter each image along the spanning tree of its guide, padding left out.

    Args:
        values: (N, K, h, w).
        guide: (N, c, h, w); the affinity of neighbours is exp(-|difference|^2).
        valid: (N, h, w) bool, a rectangle of each image.

    Returns:
        (N, K, h, w); padding keeps its values.
    """
    from wsseg.kernels.tree_filter import spanning_tree

    results = []
    for plane, picture, shown in zip(values, guide, valid.cpu().numpy(), strict=True):
        if not shown.any():
            results.append(plane)
            continue
        window = (slice(None), *rectangle(shown))
        part, cells = plane[window], picture[window].flatten(1).T
        height, width = part.shape[1:]
        tree = spanning_tree(_numbers(cells).reshape(height, width, -1))
        parents = torch.from_numpy(tree.parents).to(cells.device)
        weights = torch.exp(-(cells - cells[parents]).square().sum(dim=1))
        found: Tensor = TreeFilter.apply(part.flatten(1).T, weights, tree)  # type: ignore[no-untyped-call]
        result = plane.clone()
        result[window] = found.T.reshape(part.shape)
        results.append(result)
    return torch.stack(results)


def features_on_grid(features: Tensor, size: tuple[int, int], view: Tensor, grid_px: int) -> Tensor:
    """Read features at the centres of the cells.

    Args:
        features: (N, c, h', w'), over an area of ``size``.
        size: (H', W') in pixels of what the features cover: the view, perhaps with more below
            and to the right of it.
        view: (N, K, H, W), of which the grid is made.
        grid_px: Cells along the longer side of the view.

    Returns:
        (N, c, h, w), bilinear.
    """
    height, width = view.shape[-2:]
    rows, columns = grid_size(height, width, grid_px)
    y = (torch.arange(rows, device=features.device) + 0.5) * (2 * height / rows / size[0]) - 1
    x = (torch.arange(columns, device=features.device) + 0.5) * (2 * width / columns / size[1]) - 1
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).to(features.dtype)
    return F.grid_sample(
        features,
        places.expand(len(features), -1, -1, -1),
        padding_mode="border",
        align_corners=False,
    )


def _numbers(values: Tensor) -> Any:
    return values.detach().cpu().double().numpy()

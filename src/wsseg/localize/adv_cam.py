"""AdvCAM: class maps of an image that is changed step by step in favour of the class.

Reference: Lee, Kim and Yoon, "Anti-Adversarially Manipulated Attributions for Weakly and
Semi-Supervised Semantic Segmentation", CVPR 2021, and its code for the numbers. The network stays
as it is. With x the image and its mirror image, y = pool ReLU(M) the class scores and A the
Grad-CAM of y_c (both views, turned back and added), T times:

    S = sum of A so far
    L = (2 y_c - sum_k y_k) - mask_weight sum_u |A - A_0| [A / max A > mask_threshold]
    x <- clip(x + step_size g / max |g|, min x, max x),      g = dL/dx

The image becomes more like the class and less like the others, so that more of the object takes
part; the mask keeps what is found already from growing on and on. S is the map. At scales of 0.5
and below half of the steps are made, and count twice.

Differences: A_c = ReLU(sum_k w_k F_k) has w_k = mean gradient, where the code divides by a count
of positive gradients, which is one constant per image; S is multiplied by the number of cells, so
that scales weigh alike. Any pooling takes the place of the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wsseg import console
from wsseg.data.dataset import Sample
from wsseg.localize.config import AdvCamExtractor, InferenceConfig
from wsseg.localize.extract import Explainable, Extraction, class_indices, target_layers
from wsseg.nets.backbones import captured
from wsseg.nets.cam_head import ClassMapNet

# At this scale and below the code makes half of the steps and counts them twice.
SMALL_SCALE = 0.5

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
ToGrid = Callable[[Tensor, tuple[int, int]], Tensor]


def adv_cam(
    network: Explainable,
    images: Tensor,
    class_ids: Sequence[int],
    config: AdvCamExtractor,
    *,
    scale: float = 1.0,
) -> Extraction:
    """Extract the maps of one image at one scale.

    Args:
        network: In evaluation mode; it is not changed.
        images: (1, 3 or 1, h, w) float, normalised: the image; or (2, ...): the image and its
            mirror image.
        class_ids: Foreground ids from 1 to C.
        config: Steps and weights.
        scale: Size of the image relative to the original.

    Returns:
        Maps (V, K, h, w), those of the mirror image turned back, and logits (V, C) of the images
        as they came. Nothing in it has a gradient.

    Raises:
        RecipeError: When the network has no layer to take gradients for.
        ValueError: When a class id is out of range.
    """
    with torch.no_grad():
        logits: Tensor = network(images).float()
    chosen = class_indices(class_ids, logits.shape[1])
    if not chosen:
        return Extraction(logits.new_zeros(len(images), 0, 1, 1), logits)
    steps, weight = steps_at(config, scale)
    run, to_grid = scores_of(network, config)
    maps = [climb(run, images, index, config, steps=steps, to_grid=to_grid) for index in chosen]
    factor = weight * maps[0].shape[1] * maps[0].shape[2] / config.iterations
    return Extraction(factor * torch.stack(maps, dim=1), logits)


def steps_at(config: AdvCamExtractor, scale: float) -> tuple[int, int]:
    """Tell how many maps are added up at a scale, and how much each counts.

    Args:
        config: The settings.
        scale: Size of the image relative to the original.

    Example:
        >>> steps_at(AdvCamExtractor(), 1.0), steps_at(AdvCamExtractor(), 0.5)
        ((27, 1), (13, 2))
    """
    if scale > SMALL_SCALE:
        return config.iterations, 1
    return max(1, config.iterations // 2), 2


def climb(
    run: Run,
    images: Tensor,
    class_index: int,
    config: AdvCamExtractor,
    *,
    steps: int,
    to_grid: ToGrid = lambda features, _size: features,
) -> Tensor:
    """Change the images step by step and add up their Grad-CAMs.

    Args:
        run: From images to features and class scores (V, C), with a graph.
        images: (V, c, H, W), V being 1, or 2 for the image and its mirror image.
        class_index: 0 to C - 1.
        config: Step size and mask.
        steps: How many maps are added up; the images are changed ``steps - 1`` times.
        to_grid: From features, or their gradient, and the size (H, W) of the images to
            (V, D, h, w).

    Returns:
        (V, h, w), that of the mirror image turned back; not negative, without gradient.
    """
    size = (images.shape[-2], images.shape[-1])

    def on_cells(features: Tensor) -> Tensor:
        return to_grid(features, size)

    total: Tensor | None = None
    first: Tensor | None = None
    for step in range(steps):
        with torch.enable_grad():
            images = images.detach().requires_grad_(True)
            features, scores = run(images)
            target = scores[:, class_index].sum()
            maps = _upright(_grad_cam(target, features, on_cells))
            found = maps.detach()
            total = found if total is None else total + found
            regions = maps.sum(dim=0)
            first = regions.detach() if first is None else first
            if step + 1 == steps:
                break
            gain = 2 * target - scores.sum()
            gain = gain - config.mask_weight * grown(regions, first, config.mask_threshold)
            (gradient,) = torch.autograd.grad(gain, images)
        images = climbed(images.detach(), gradient, config.step_size)
    if total is None:
        raise ValueError(f"Expected at least one step, but got {steps}.")
    return total.float()


def grown(regions: Tensor, first: Tensor, threshold: float) -> Tensor:
    """Sum up by how much salient cells have changed.

    Args:
        regions: (h, w), not negative, with gradient.
        first: (h, w), those of the image as it came.
        threshold: Part of the maximum above which a cell is salient.

    Returns:
        A scalar.

    Example:
        >>> grown(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.5, 1.0]]), 0.5).item()
        3.0
    """
    highest = regions.detach().max()
    salient = regions.detach() > threshold * highest
    return ((regions - first).abs() * salient).sum()


def climbed(images: Tensor, gradient: Tensor, step_size: float) -> Tensor:
    """Go one step up.

    Args:
        images: (V, c, H, W).
        gradient: The same shape.
        step_size: Largest change of a value.

    Returns:
        The images, changed in proportion to the gradient and kept within their range.

    Example:
        >>> climbed(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([4.0, -2.0, 1.0]), 0.5).tolist()
        [0.5, 0.75, 2.0]
    """
    largest = gradient.abs().max()
    if not largest > 0:
        return images
    return (images + step_size * gradient / largest).clamp(images.min(), images.max())


def scores_of(network: Explainable, config: AdvCamExtractor) -> tuple[Run, ToGrid]:
    """Give what computes features and class scores of a network, with a graph.

    Args:
        network: In evaluation mode.
        config: For the message about the layer.

    Returns:
        From images to features and scores (V, C): the pooled rectified class maps of a
        `ClassMapNet`, the rectified logits of another classifier. And what brings these features
        to (V, D, h, w).

    Raises:
        RecipeError: When the network has no layer to take gradients for.
    """
    target = target_layers(network, config)[0]

    def to_grid(features: Tensor, size: tuple[int, int]) -> Tensor:
        return features if target.is_grid else network.backbone.as_grid(features, size)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(network, ClassMapNet):
            step = network.step({"image": images})
            return step.features, network.pooled(step.maps.relu())
        with captured([target.module]) as outputs:
            logits = network(images)
        return outputs[target.module], logits.relu()

    return run, to_grid


def announce(config: InferenceConfig, samples: Sequence[Sample]) -> None:
    """Say before the first image how much work the extraction is; nothing for other extractors.

    Args:
        config: How maps are extracted.
        samples: The images that get maps.
    """
    extractor = config.extractor
    if not isinstance(extractor, AdvCamExtractor):
        return
    steps = sum(steps_at(extractor, scale)[0] for scale in config.scales)
    passes = steps * (2 if config.flip else 1)
    tagged = [sample.labels.tags or frozenset() for sample in samples]
    maps = f"{sum(map(len, tagged))} class maps of {len(samples)} images"
    if config.tags == "predicted":
        maps = f"every class found in {len(samples)} images"
    console.info(
        f"adv_cam: {passes} passes there and back through the network for each map, at scales "
        f"{', '.join(f'{scale:g}' for scale in config.scales)}; {maps}. This is slow on a CPU; "
        "fewer localize.inference.scales and localize.inference.extractor.iterations are faster."
    )


def _grad_cam(target: Tensor, features: Tensor, to_grid: Callable[[Tensor], Tensor]) -> Tensor:
    """Weight features by the mean gradient of the score: (V, h, w) with graph."""
    (gradient,) = torch.autograd.grad(target, features, create_graph=True)
    weights = to_grid(gradient).mean(dim=(2, 3), keepdim=True)
    return (weights * to_grid(features)).sum(dim=1).relu()


def _upright(maps: Tensor) -> Tensor:
    """Turn the map of the mirror image back."""
    return maps if len(maps) == 1 else torch.stack([maps[0], maps[1].flip(-1)])

"""The losses of token contrast (ToCo), and the labels and crops that they need.

Reference: Ru, Zheng, Zhan and Du, "Token Contrast for Weakly-Supervised Semantic Segmentation",
CVPR 2023; see `wsseg.localize.tags.toco` for the method, its formulas and the differences.
Labels and crops are targets: no gradient goes through them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wsseg.data.colour import GREY_STD, IMAGENET_STD
from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.kernels.pamr_config import PamrConfig
from wsseg.kernels.pamr_torch import pamr
from wsseg.nets.cam_head import valid_cells

# Keeps a map without any evidence at zero (as in IRN and PSA).
EPSILON = 1e-5
# Stands for the logarithm of nothing; infinity would make gradients of 0 times infinity.
_NOTHING = -1e9


@torch.no_grad()
def stretched_maps(maps: Tensor, present: Tensor, valid: Tensor | None = None) -> Tensor:
    """Stretch the rectified maps of the present classes to [0, 1].

    Args:
        maps: (N, C, h, w), raw class maps.
        present: (N, C) bool.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.

    Returns:
        (N, C, h, w) float32; 0 in maps of absent classes and in padding.

    Example:
        >>> maps = torch.tensor([[[[-1.0, 2.0, 4.0]], [[9.0, 1.0, 0.0]]]])
        >>> stretched_maps(maps, torch.tensor([[True, False]])).round(decimals=2).tolist()
        [[[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]]
    """
    positive = maps.float().relu()
    inside = torch.ones_like(positive[:, :1], dtype=torch.bool)
    if valid is not None:
        inside = valid_cells(valid, maps)
    low = positive.masked_fill(~inside, torch.inf).amin(dim=(2, 3), keepdim=True)
    high = positive.masked_fill(~inside, -torch.inf).amax(dim=(2, 3), keepdim=True)
    scores = (positive - low) / (high - low + EPSILON)
    return scores * inside * present[:, :, None, None]


@torch.no_grad()
def confidence_labels(scores: Tensor, *, high: float, low: float) -> Tensor:
    """Label what is clear: the strongest class above ``high``, background up to ``low``.

    Args:
        scores: (N, C, h, w) in [0, 1], 0 for absent classes.
        high: Score above which a cell belongs to its strongest class.
        low: Score up to which a cell is background.

    Returns:
        (N, h, w) int64: 0 background, 1..C, 255 in between.

    Example:
        >>> scores = torch.tensor([[[[0.1, 0.5, 0.8]], [[0.2, 0.0, 0.9]]]])
        >>> confidence_labels(scores, high=0.7, low=0.25).tolist()
        [[[0, 255, 2]]]
    """
    strongest, index = scores.max(dim=1)
    labels = torch.where(strongest > high, index + 1, IGNORE)
    return torch.where(strongest <= low, BACKGROUND, labels)


@torch.no_grad()
def region_codes(scores: Tensor, *, high: float, low: float) -> Tensor:
    """Tell background, uncertain and foreground cells apart.

    Args:
        scores: (N, C, h, w) in [0, 1].
        high: Score above which a cell is foreground.
        low: Score up to which a cell is background.

    Returns:
        (N, h, w) float32: 0 background, 1 uncertain, 2 foreground.

    Example:
        >>> region_codes(torch.tensor([[[[0.1, 0.5, 0.8]]]]), high=0.7, low=0.25).tolist()
        [[[0.0, 1.0, 2.0]]]
    """
    strongest = scores.amax(dim=1)
    return (strongest > low).float() + (strongest > high).float()


def patch_contrast(features: Tensor, labels: Tensor) -> Tensor:
    """Compute the patch token contrast (PTC): like tokens for like labels.

    Args:
        features: (N, D, h, w), of the last layer.
        labels: (N, h, w) integer class ids, 255 unknown; no gradient.

    Returns:
        Scalar ``1/2 (1 - mean_same |cos|) + 1/2 mean_different |cos|`` over the pairs of
        different cells of one image with known labels; both means have their number plus one as
        the denominator, so that a batch without such pairs is no division by zero.
    """
    tokens = F.normalize(features.float().flatten(2), dim=1, eps=1e-8)
    likeness = torch.einsum("ndi,ndj->nij", tokens, tokens).abs()
    flat = labels.flatten(1)
    known = flat != IGNORE
    pairs = known[:, :, None] & known[:, None, :]
    pairs = pairs & ~torch.eye(flat.shape[1], dtype=torch.bool, device=flat.device)
    is_same = flat[:, :, None] == flat[:, None, :]
    means = [
        (likeness * chosen).sum() / (chosen.sum() + 1)
        for chosen in (pairs & is_same, pairs & ~is_same)
    ]
    return 0.5 * (1 - means[0]) + 0.5 * means[1]


@torch.no_grad()
def draw_crops(
    images: Tensor,
    codes: Tensor,
    valid: Tensor | None,
    *,
    num_crops: int,
    side_px: int,
    max_negative_code: float,
) -> tuple[Tensor, Tensor]:
    """Draw local crops whose centres are not sure foreground, and tell which show the object.

    Args:
        images: (N, D, H, W).
        codes: (N, h, w) of `region_codes`.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.
        num_crops: L, crops per image.
        side_px: Side of a crop, pixels; at most H and W.
        max_negative_code: Crops with a mean code up to this are background.

    Returns:
        Crops (N, L, D, side, side), and (N, L) bool: True where a crop shows more than
        background. Where an image has too few centres that are not sure foreground, other ones
        of the image are drawn, and padding last.

    Raises:
        ValueError: When the images are smaller than the crops.
    """
    height, width = images.shape[2:]
    rows, columns = height - side_px + 1, width - side_px + 1
    if rows < 1 or columns < 1:
        raise ValueError(
            f"Images of {height} x {width} pixels have no crops of {side_px}; use larger images."
        )
    pixel_codes = F.interpolate(codes[:, None], size=(height, width), mode="nearest")
    half = side_px // 2
    centres = (slice(None), 0, slice(half, half + rows), slice(half, half + columns))
    inside = torch.ones_like(pixel_codes) if valid is None else (valid > 0).float()
    wanted = inside * (1 + (pixel_codes <= 1).float())
    order = torch.rand(len(images), rows, columns, device=images.device) + wanted[centres]
    num_places = rows * columns
    found = order.flatten(1).topk(min(num_crops, num_places), dim=1).indices
    found = found[:, torch.arange(num_crops, device=found.device) % found.shape[1]]
    top, left = found // columns, found % columns
    offsets = torch.arange(side_px, device=found.device)
    image = torch.arange(len(images), device=found.device)[:, None, None, None]
    where = (
        image,
        slice(None),
        (top[:, :, None] + offsets)[..., None],
        (left[:, :, None] + offsets)[:, :, None, :],
    )
    crops = images[where].permute(0, 1, 4, 2, 3)
    mean_codes = (pixel_codes * inside)[where][..., 0].mean(dim=(2, 3))
    return crops, mean_codes > max_negative_code


def class_contrast(
    teacher: Tensor, student: Tensor, is_positive: Tensor, *, temperature: float
) -> Tensor:
    """Compute the class token contrast (CTC): the image's token against those of its crops.

    Args:
        teacher: (N, T, E) of length one, from the whole image; no gradient is wanted.
        student: (N, S, E) of length one.
        is_positive: (N, T, S): 1 positive pairs, 0 negative ones, -1 pairs that do not count.
        temperature: tau.

    Returns:
        Scalar ``mean_{p, q+} -log( e^{p q+ / tau} / (e^{p q+ / tau} + sum_{q-} e^{p q- / tau}) )``:
        the mean over the positive pairs of each image, then over the images that have any; 0
        where none has.
    """
    logits = torch.einsum("nte,nse->nts", teacher.float(), student.float()) / temperature
    negatives = logits.masked_fill(is_positive != 0, _NOTHING).logsumexp(dim=2, keepdim=True)
    positive = is_positive == 1
    # softplus(b - a) is -log(e^a / (e^a + e^b)).
    losses = (F.softplus(negatives - logits) * positive).sum(dim=(1, 2))
    counts = positive.sum(dim=(1, 2))
    per_image = losses / counts.clamp(min=1)
    return per_image.sum() / (counts > 0).sum().clamp(min=1)


@torch.no_grad()
def refined_labels(
    images: Tensor,
    scores: Tensor,
    present: Tensor,
    valid: Tensor | None,
    *,
    limits: tuple[float, float],
    config: PamrConfig,
) -> Tensor:
    """Bring class scores to the edges of the image by PAR, and label what is clear.

    The released code refines the scores twice, with a constant background score of each limit.
    The weights of PAR sum to one here, so that constants stay what they are and one refinement of
    the classes, compared with both limits, is the same.

    Args:
        images: (N, D, H, W), normalised.
        scores: (N, C, h, w) of `stretched_maps`.
        present: (N, C) bool.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.
        limits: Scores for foreground (high) and background (low).
        config: PAR.

    Returns:
        (N, ceil(H / 2), ceil(W / 2)) int64: 0 background, 1..C, 255 unknown or padding.
    """
    high, low = limits
    size = (math.ceil(images.shape[2] / 2), math.ceil(images.shape[3] / 2))
    small = F.interpolate(images.float(), size=size, mode="area")
    enlarged = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    labels = torch.zeros(len(images), *size, dtype=torch.int64, device=images.device)
    for index in range(len(images)):
        classes = present[index].nonzero().flatten()
        if len(classes) == 0:
            continue  # tagged as without any class: background everywhere
        one = slice(index, index + 1)
        full = torch.zeros_like(enlarged[one])
        full[0, classes] = _by_colour(small[index], enlarged[index, classes], config)
        labels[one] = confidence_labels(full, high=high, low=low)
    if valid is None:
        return labels
    inside = F.interpolate((valid > 0).float(), size=size, mode="area")[:, 0] >= 0.5
    return torch.where(inside, labels, IGNORE)


def _by_colour(image: Tensor, scores: Tensor, config: PamrConfig) -> Tensor:
    """Average scores (K, H, W) over neighbours of like colour in an image (D, H, W)."""
    if image.device.type != "cpu":
        return pamr(image[None], scores[None], config)[0]
    # The same numbers up to rounding, at a fraction of the cost.
    from wsseg.kernels.pamr import pamr_planes

    averaged = pamr_planes(
        image.numpy(), scores.numpy(), config=config, threads=torch.get_num_threads()
    )
    return torch.from_numpy(averaged)


def dense_energy(
    logits: Tensor,
    images: Tensor,
    valid: Tensor | None,
    *,
    sigma_rgb: float = 15.0,
    sigma_xy_px: float = 100.0,
) -> Tensor:
    """Compute how often alike cells get unlike labels, exactly, on the grid of the decoder.

    Reference: Tang et al., "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV
    2018, whose energy is a sum over all pairs of pixels, filtered approximately; this is a mean.

    Args:
        logits: (N, K, h, w).
        images: (N, 3 or 1, H, W), normalised.
        valid: (N, 1, H, W), non-zero where a pixel belongs to the image; None: everywhere.
        sigma_rgb: Colour difference that still counts as alike, of 0 to 255.
        sigma_xy_px: Distance that still counts as near, pixels of the images.

    Returns:
        Scalar in [0, 1]: the mean over pairs i, j of different cells of ``1 - sum_k p_ik p_jk``,
        weighted by ``a_ij = exp(-|rgb_i - rgb_j|^2 / (2 sigma_rgb^2) - |xy_i - xy_j|^2 /
        (2 sigma_xy^2))``.
    """
    height, width = logits.shape[2:]
    probabilities = logits.float().softmax(dim=1).flatten(2)
    affinity = _colour_affinity(images, (height, width), sigma_rgb, sigma_xy_px)
    if valid is not None:
        inside = valid_cells(valid, logits).flatten(1).float()
        affinity = affinity * inside[:, :, None] * inside[:, None, :]
    disagreement = 1 - torch.einsum("nki,nkj->nij", probabilities, probabilities)
    return (affinity * disagreement).sum() / affinity.sum().clamp(min=EPSILON)


@torch.no_grad()
def _colour_affinity(
    images: Tensor, grid: tuple[int, int], sigma_rgb: float, sigma_xy_px: float
) -> Tensor:
    """Weigh all pairs of cells by colour and distance: (N, n, n) with a diagonal of zeros."""
    std = IMAGENET_STD if images.shape[1] == 3 else (GREY_STD,)
    scale = torch.tensor(std, device=images.device)[:, None, None] * 255 / sigma_rgb
    if images.shape[1] == 1:
        scale = scale * math.sqrt(3)  # as if the grey value stood in three channels
    colours = F.interpolate(images.float() * scale, size=grid, mode="area").flatten(2)
    rows = torch.arange(grid[0], device=images.device) * (images.shape[2] / grid[0] / sigma_xy_px)
    columns = torch.arange(grid[1], device=images.device) * (
        images.shape[3] / grid[1] / sigma_xy_px
    )
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)
    points = torch.cat([colours, places.expand(len(images), -1, -1)], dim=1).transpose(1, 2)
    affinity = torch.exp(-0.5 * torch.cdist(points, points) ** 2)
    return affinity * (1 - torch.eye(affinity.shape[1], device=images.device))

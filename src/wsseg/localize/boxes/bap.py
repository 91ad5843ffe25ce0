"""Background-aware pooling (BAP): a network learns from boxes which of their pixels are object.

A classifier learns the class of every box from the pixels that look unlike the outside of all boxes
(`wsseg.nets.bap`). Then, with A the similarity of a pixel to the background and w_c the weights of
the class of a box B,

    e_B(p) = (1 - A(p)) / max_{p in B} (1 - A(p))
    u_B(p) = ReLU(f(p) . w_c) / max_{p in B} ReLU(f(p) . w_c)

e_B is the score of the class; where boxes of several classes overlap, the one with the largest u_B
has the pixel. The background has ``t / (1 - t) * (1 - e)``, which is as much as the class at e = t
(`threshold`), and all that is outside of boxes.

Reference: Y. Oh, B. Kim, B. Ham, "Background-Aware Pooling and Noise-Aware Loss for
Weakly-Supervised Semantic Segmentation", CVPR 2021 (authors, title and formulas from memory).
Differences: those of `wsseg.nets.bap`; 1 - A is divided by its largest value in each box and
decides what is object, where the paper compares u with A in a dense CRF; maps are averaged over
scales and the mirrored image; the second kind of pseudo labels (nearest prototypes) and the
noise-aware loss are not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsseg.config import MethodConfig
from wsseg.data.image_io import image_size
from wsseg.data.labels import BACKGROUND, IGNORE, WeakLabels
from wsseg.data.scores import Scores
from wsseg.errors import DataError, RecipeError
from wsseg.localize.boxes.bap_config import Bap
from wsseg.localize.boxes.windows import BoxWindow, boxed_classes, front_last, outside_of_boxes
from wsseg.localize.direct import (
    LearnInputs,
    LocalizeContext,
    is_empty,
    scaled_labels,
    scores_of_mask,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsseg.data.dataset import Sample
    from wsseg.nets.bap import BapNet

__all__ = ["Bap", "BapLocalizer", "BoxMaps", "bap", "box_scores", "make_net"]

Floats = npt.NDArray[np.float32]

VERSION = 1
# Smaller images are enlarged to this side, so that the network has something to look at.
_LEAST_SIDE_PX = 32
_NOTHING = 1e-6
# Share of a box, in its middle, that is object where the network tells nothing.
_INNER_FRAC = 0.2
# Codes of boxes, as in `wsseg.nets.bap`.
_NUM_CODES = 256


def make_net(config: Bap, num_classes: int, *, load_weights: bool = True) -> BapNet:
    """Make the network.

    Args:
        config: Its settings.
        num_classes: C, foreground classes.
        load_weights: Load the weights that the settings name; False: for a checkpoint.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When the backbone does not exist or cannot do what is asked.
        MissingWeightsError: When its weights cannot be had or do not fit.
    """
    from wsseg.nets.bap import BapNet
    from wsseg.nets.build import build_backbone

    backbone = build_backbone(
        config.backbone,
        weights=config.weights if load_weights else "none",
        output_stride=config.output_stride,
        in_channels=1 if config.grey else 3,
        freeze_batchnorm=config.freeze_batchnorm,
    )
    return BapNet(backbone, num_classes, grid=config.grid).train()


@dataclass
class BoxMaps:
    """Maps of boxes beside the training images: an `wsseg.localize.aligned.AlignedMap`.

    Args:
        max_side_px: Longest side that images are shrunk to when read.
    """

    max_side_px: int | None = None

    def prepare(self, samples: Iterable[Sample]) -> None:
        """Do nothing: maps are drawn when they are asked for."""

    def map(self, sample: Sample, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """Draw the boxes of an image.

        Args:
            sample: The image with its labels.
            image: (H, W, 3) uint8 RGB before any random change.

        Returns:
            (H, W) int32, 256 * (1 + number of the box) + class, smaller boxes in front; 0 outside
            of all boxes, 255 where that is unknown.
        """
        size = (image.shape[0], image.shape[1])
        drawn = size
        if self.max_side_px is not None and max(size) >= self.max_side_px:
            drawn = image_size(sample.image_path)
        labels = scaled_labels(sample.labels, drawn, size)
        codes = np.full(size, outside_of_boxes(labels, size), np.int32)
        for number, window in enumerate(front_last(labels, size), start=1):
            codes[window.slices] = _NUM_CODES * number + window.class_id
        return codes


class BapLocalizer:
    """Trains on the boxes of the train split, then cuts objects out of the boxes of each image."""

    config_class: type[MethodConfig] = Bap

    def fit(self, inputs: LearnInputs, *, config: Bap) -> dict[str, Any]:
        """Train the network, continue, or find it trained.

        Args:
            inputs: The labelled images of the train split and what belongs to the run.
            config: Network and training.

        Returns:
            JSON-able: ``weights``, the path in the stage's folder, and ``num_classes``.

        Raises:
            DataError: When no image has a box in it.
            RecipeError: When a setting is wrong, or the loss stops being a number.
            MissingWeightsError: When the first weights cannot be had.
        """
        from wsseg.localize.data import TagData
        from wsseg.rundir import fingerprint
        from wsseg.training.loop import fit
        from wsseg.training.seeds import seed_everything

        num_classes = inputs.dataset.classes.num_classes
        learners = [one for one in map(_learner, inputs.samples) if one is not None]
        if not any(sample.labels.boxes is not None for sample in learners):
            raise DataError(
                "bap has no box to learn from: those of the train split all lie off their images."
            )
        seed_everything(inputs.seed)
        net = make_net(config, num_classes)
        data = TagData(
            learners,
            num_classes,
            config.augment,
            in_channels=1 if config.grey else 3,
            max_side_px=inputs.max_side_px,
            aligned={"boxes": BoxMaps(inputs.max_side_px)},
        )
        result = fit(
            net,
            data,
            config.training,
            inputs.folder / "training",
            seed=inputs.seed,
            title="bap: train",
            fingerprint=fingerprint("bap", VERSION, inputs.fingerprint),
        )
        weights = result.weights_path.relative_to(inputs.folder).as_posix()
        return {"weights": weights, "num_classes": num_classes}

    def __call__(
        self,
        image: np.ndarray,
        labels: WeakLabels,
        *,
        config: Bap = Bap(),
        context: LocalizeContext | None = None,
    ) -> Scores:
        """Cut the objects out of the boxes of one image.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            labels: Labels with boxes, in pixels of the image.
            config: The settings that the network was trained with.
            context: ``state`` is what `fit` returned, ``folder`` where its files are; takes notes.

        Returns:
            Scores (K, H, W); 0 in all rows where nothing is known.

        Raises:
            RecipeError: When the network was not trained.
        """
        context = context or LocalizeContext()
        size = (image.shape[0], image.shape[1])
        outside = outside_of_boxes(labels, size, context)
        windows = front_last(labels, size, context)
        if not windows:
            return scores_of_mask(np.full(size, outside, np.uint8))
        attention, maps = _maps(_network(config, context), image, windows, config, context.device)
        class_ids = np.array([0, *sorted({window.class_id for window in windows})], np.uint8)
        values, empty = box_scores(attention, maps, windows, class_ids, config.threshold)
        if empty:
            context.note(f"{empty} box(es) look like their outside; their inner fifth is taken")
        if outside == IGNORE:
            values[:, values.argmax(axis=0) == 0] = 0.0
        return Scores(values, class_ids, size)


bap = BapLocalizer()


def box_scores(
    attention: Floats,
    maps: list[Floats],
    windows: list[BoxWindow],
    class_ids: npt.NDArray[np.uint8],
    threshold: float,
) -> tuple[Floats, int]:
    """Make scores of the similarity to the background and the map of every box.

    Args:
        attention: (H, W) in [0, 1], A.
        maps: (h, w) in [0, 1] of each box, u_B.
        windows: The boxes.
        class_ids: (K,) classes of the rows, background first.
        threshold: t in (0, 1).

    Returns:
        (K, H, W) float32 in [0, 1], and how many boxes look like their outside everywhere; of
        those the inner fifth has the class.

    Example:
        >>> attention = np.array([[1.0, 0.9, 0.2, 0.6]], np.float32)
        >>> window = BoxWindow(5, 0, 1, 1, 4)
        >>> ids = np.array([0, 5], np.uint8)
        >>> values, _ = box_scores(attention, [np.ones((1, 3), np.float32)], [window], ids, 0.5)
        >>> [f"{value:.1f}" for value in values[1, 0]], [f"{value:.1f}" for value in values[0, 0]]
        (['0.0', '0.1', '1.0', '0.5'], ['1.0', '0.9', '0.0', '0.5'])
    """
    evidence = np.zeros((len(class_ids), *attention.shape), np.float32)
    # -1 where there is no box of the class, so that it cannot win.
    strength = np.full(evidence.shape, -1.0, np.float32)
    bare = []
    for window, found in zip(windows, maps, strict=True):
        row = int(np.searchsorted(class_ids, window.class_id))
        unlike = _by_its_largest(1 - attention[window.slices])
        if not unlike.any():
            bare.append(window)
        for kept, new in ((evidence, unlike), (strength, found)):
            part = kept[row][window.slices]
            np.maximum(part, new, out=part)
    wins = strength.argmax(axis=0) == np.arange(len(class_ids))[:, None, None]
    values = np.where(wins, evidence, np.float32(0))
    ratio = threshold / (1 - threshold)
    values[0] = np.clip(ratio * (1 - values.max(axis=0)), 0, 1)
    values[0, ~(strength >= 0).any(axis=0)] = 1.0
    for window in bare:
        is_class = (class_ids == window.class_id)[:, None, None]
        values[:, *window.inner(_INNER_FRAC).slices] = is_class
    return values, len(bare)


def _learner(sample: Sample) -> Sample | None:
    """Give an image the tags of its boxes; None where it has neither boxes nor is empty."""
    if is_empty(sample.labels):
        return replace(sample, labels=WeakLabels(tags=frozenset()))
    found = boxed_classes(sample.labels, image_size(sample.image_path))
    if not found:
        return None
    tags = sample.labels.tags or found
    return replace(sample, labels=WeakLabels(tags=tags, boxes=sample.labels.boxes))


def _network(config: Bap, context: LocalizeContext) -> BapNet:
    """Load the trained network once per stage."""
    from wsseg.training.checkpoint import load_weights

    key = ("bap", context.folder, context.device)
    if key not in context.shared:
        if context.folder is None or "weights" not in context.state:
            raise RecipeError(
                "bap must learn from the data set first: call bap.fit, and pass its result as "
                "context.state and its folder as context.folder."
            )
        net = make_net(config, int(context.state["num_classes"]), load_weights=False)
        load_weights(context.folder / context.state["weights"], net)
        context.shared[key] = net.to(context.device).eval()
    loaded: BapNet = context.shared[key]
    return loaded


def _maps(
    net: BapNet, image: np.ndarray, windows: list[BoxWindow], config: Bap, device: str
) -> tuple[Floats, list[Floats]]:
    """Compute (H, W) similarity to the background, and the map of every box, (h, w) of the box."""
    import torch
    import torch.nn.functional as F

    from wsseg.data.colour import normalise
    from wsseg.nets.bap import attention_to, background_queries, shares

    size = (image.shape[0], image.shape[1])
    pixels = torch.from_numpy(normalise(image, 1 if config.grey else 3))[None].to(device)
    outside = torch.ones(size, dtype=torch.bool, device=device)
    for window in windows:
        outside[window.slices] = False
    ids = sorted({window.class_id for window in windows})
    total = torch.zeros((1 + len(ids), *size), device=device)
    mirrors = (False, True) if config.flip else (False,)
    with torch.inference_mode():
        for scale in config.scales:
            view = F.interpolate(
                pixels, _view_size(size, scale, net.backbone.stride), mode="bilinear"
            )
            for is_mirrored in mirrors:
                features = net.features(view.flip(-1) if is_mirrored else view)[0]
                features = features.flip(-1) if is_mirrored else features
                cells = (features.shape[1], features.shape[2])
                queries = background_queries(features, shares(outside, cells), net.grid)
                maps = torch.einsum("cd,dhw->chw", net.classifier.weight[ids], features).relu()
                both = torch.cat([attention_to(features, queries)[None], maps])
                total += F.interpolate(both[None], size, mode="bilinear")[0]
    averaged = (total / (len(config.scales) * len(mirrors))).cpu().numpy()
    rows = {class_id: row for row, class_id in enumerate(ids, start=1)}
    attention = np.clip(averaged[BACKGROUND], 0, 1).astype(np.float32)
    return attention, [_by_its_largest(averaged[rows[w.class_id]][w.slices]) for w in windows]


def _view_size(size: tuple[int, int], scale: float, stride: int) -> tuple[int, int]:
    """Resize (H, W) to whole cells, at least 32 pixels."""
    height, width = (
        max(_LEAST_SIDE_PX, stride * max(1, round(side * scale / stride))) for side in size
    )
    return height, width


def _by_its_largest(values: np.ndarray) -> Floats:
    """Divide a map by its largest value; a map of zeros, but for rounding, becomes zero."""
    found = np.asarray(values, np.float32)
    largest = float(found.max())
    return np.zeros_like(found) if largest < _NOTHING else np.clip(found / largest, 0, 1)

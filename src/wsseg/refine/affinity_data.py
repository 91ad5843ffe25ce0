"""What an AffinityNet learns from: the confident areas of the training images, cell by cell.

The two CRFs of the rule of two alphas run once per image; their marginals are kept in a folder of
their own, so that a killed run does not do them again. A training item is a random view of an
image, and the marginals seen through the same view, averaged over grid cells and then labelled.

Reference: J. Ahn, S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision
for Weakly Supervised Semantic Segmentation", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsseg.data.dataset import Sample
from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.data.scores import Scores, load_scores, save_scores
from wsseg.data.transforms import AugmentConfig, augment
from wsseg.data.working import read_working_image
from wsseg.errors import DataError
from wsseg.kernels.dense_crf_config import CrfConfig
from wsseg.refine.confident import Marginals, labels_from_marginals, two_alpha_marginals
from wsseg.refine.protocol import FitInputs
from wsseg.rundir import StageDir

FOLDER = "confident"


@dataclass(frozen=True)
class TwoAlphas:
    """The rule that tells confident pixels; see `wsseg.refine.confident`."""

    alpha_low: float
    alpha_high: float
    crf: CrfConfig


@dataclass(frozen=True)
class Shares:
    """How much of the training images is confident.

    Args:
        num_images: Images with confident areas on file.
        num_mixed: Images that show two labels, without which there is nothing to tell apart.
        background: Mean share of confident background, 0 to 1.
        foreground: Mean share of confident foreground, 0 to 1.
    """

    num_images: int
    num_mixed: int
    background: float
    foreground: float

    def text(self) -> str:
        """Say it in one sentence."""
        unknown = max(0.0, 1 - self.background - self.foreground)
        return (
            f"of the pixels of {self.num_images} training images {self.foreground:.1%} are "
            f"confident foreground, {self.background:.1%} confident background, and {unknown:.1%} "
            "are left out"
        )


def make_confident(inputs: FitInputs, rule: TwoAlphas, stage: StageDir) -> list[Sample]:
    """Write the marginals of every training image, ``low/ID.npz`` and ``high/ID.npz``.

    Args:
        inputs: The data set with its scores; only the train split is looked at.
        rule: Exponents and CRF.
        stage: Where they go; images that are there already are not done again.

    Returns:
        The training samples whose marginals are there; an image that cannot be read is left out
        with a warning.

    Raises:
        OutputError: When they cannot be written.
    """
    samples = inputs.split("train").samples
    if not stage.begin():
        stage.for_each(
            samples,
            lambda sample: _make_one(sample, inputs, rule, stage),
            title="refine: confident areas",
        )
        stage.finish()
    return stage.usable(samples)


def _make_one(
    sample: Sample, inputs: FitInputs, rule: TwoAlphas, stage: StageDir
) -> dict[str, Any]:
    scores = inputs.load(sample)
    image = read_working_image(sample.image_path, inputs.max_side_px)
    if inputs.knows_background:
        marginals = _known(scores)
    else:
        marginals = two_alpha_marginals(
            image,
            scores,
            alpha_low=rule.alpha_low,
            alpha_high=rule.alpha_high,
            crf=rule.crf,
            device=inputs.device,
        )
    save_scores(stage.file("low", sample.id, ".npz"), marginals.low)
    save_scores(stage.file("high", sample.id, ".npz"), marginals.high)
    labels = labels_from_marginals(marginals.low.values, marginals.high.values, scores.class_ids)
    counts = np.bincount(labels.ravel(), minlength=256)
    foreground = int(counts[BACKGROUND + 1 : IGNORE].sum())
    return {
        "background": round(int(counts[BACKGROUND]) / labels.size, 5),
        "foreground": round(foreground / labels.size, 5),
        "num_labels": int(np.count_nonzero(counts[:IGNORE])),
    }


def confident_shares(samples: Sequence[Sample], stage: StageDir) -> Shares:
    """Sum up how much is confident, and refuse what nothing can be learned from.

    Args:
        samples: What `make_confident` returned.
        stage: Where the marginals are.

    Returns:
        The shares.

    Raises:
        DataError: When there is no image, or none of them shows two different labels.
    """
    if not samples:
        raise DataError(
            "affinity_net has no training image: the train split has no scores, or none of its "
            "images could be read. Tag images of the train split and run localize again."
        )
    manifest = stage.manifest()
    lines = [manifest[sample.id] for sample in samples]
    shares = Shares(
        num_images=len(lines),
        num_mixed=sum(line["num_labels"] > 1 for line in lines),
        background=float(np.mean([line["background"] for line in lines])),
        foreground=float(np.mean([line["foreground"] for line in lines])),
    )
    if shares.num_mixed:
        return shares
    if shares.foreground == 0:
        advice = "The maps are too weak: check the classifier, or raise alpha_low, so that more "
        advice += "is confident foreground."
    elif shares.background == 0:
        advice = "The maps are too wide: lower alpha_high, so that more is confident background."
    else:
        advice = "Lower alpha_high for more background, raise alpha_low for more foreground."
    raise DataError(
        f"affinity_net finds no training image with two labels to tell apart: {shares.text()}. "
        f"{advice} Or leave affinity_net out (--set refine.steps=...)."
    )


def _known(scores: Scores) -> Marginals:
    """Take what a localizer knows as it is: sure of its classes, sure of its background."""
    full = replace(scores, values=scores.resized())
    return Marginals(full, full)


class AffinityData:
    """Training items: views of images with the confident label of every grid cell.

    Args:
        samples: Training samples whose marginals are there.
        stage: Where the marginals are.
        config: How images are augmented; ``crop_px`` is a multiple of ``stride_px``.
        stride_px: Pixels per grid cell.
        in_channels: 3 for colour, 1 for grey networks.
        max_side_px: Longest side that images are shrunk to before anything else.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        stage: StageDir,
        config: AugmentConfig,
        *,
        stride_px: int,
        in_channels: Literal[1, 3] = 3,
        max_side_px: int | None = None,
    ) -> None:
        self.samples = tuple(samples)
        self.stage = stage
        self.config = config
        self.stride_px = stride_px
        self.in_channels: Literal[1, 3] = in_channels
        self.max_side_px = max_side_px

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Read and augment one image with its marginals.

        Args:
            index: Position of the item.
            rng: Source of all randomness.

        Returns:
            ``image`` (3 or 1, h, w) float32 normalised, ``labels`` (h / stride, w / stride) uint8:
            0, a class id, or 255 where nothing is confident and on padding.

        Raises:
            DataError: When a file cannot be read.
        """
        sample = self.samples[index]
        image = read_working_image(sample.image_path, self.max_side_px)
        view = augment(image, None, rng, self.config, in_channels=self.in_channels)
        to_view = view.geometry.inverse()
        marginals = [
            load_scores(self.stage.file(kind, sample.id, ".npz")) for kind in ("low", "high")
        ]
        low, high = (
            pool_cells(to_view.maps_to_source(scores.values)[0], self.stride_px)
            for scores in marginals
        )
        return {
            "image": view.image,
            "labels": labels_from_marginals(low, high, marginals[0].class_ids),
        }

    def sample_id(self, index: int) -> str:
        """Name an item for messages."""
        return self.samples[index].id


def pool_cells(values: npt.NDArray[np.float32], stride: int) -> npt.NDArray[np.float32]:
    """Average maps over grid cells; cells that stick out on the right or below are filled with 0.

    Args:
        values: (K, H, W) float32.
        stride: Pixels per cell.

    Returns:
        (K, ceil(H / stride), ceil(W / stride)) float32.

    Example:
        >>> pool_cells(np.ones((1, 2, 3), np.float32), 2).tolist()
        [[[1.0, 0.5]]]
    """
    num_rows, height, width = values.shape
    padding = ((0, 0), (0, -height % stride), (0, -width % stride))
    padded = np.pad(values, padding)
    cells = padded.reshape(
        num_rows, padded.shape[1] // stride, stride, padded.shape[2] // stride, stride
    )
    return cells.mean(axis=(2, 4), dtype=np.float32)

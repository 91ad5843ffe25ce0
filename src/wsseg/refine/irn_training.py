"""How `wsseg.refine.irn` learns: confident labels of the train images, then both heads.

Labels are made once per image and kept; a killed training goes on from its checkpoint.

Reference: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from wsseg.data.dataset import Sample
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.labels import BACKGROUND, IGNORE
from wsseg.data.transforms import AugmentConfig, augment
from wsseg.data.working import read_working_image
from wsseg.errors import DataError, RecipeError
from wsseg.nets.irn_losses import label_pairs, smallest_grid
from wsseg.nets.irn_net import IrnNet
from wsseg.refine.confident import affinity_labels_two_thresholds
from wsseg.refine.irn_config import STRIDE, Irn
from wsseg.refine.known_labels import labels_of_known
from wsseg.refine.protocol import FitInputs
from wsseg.rundir import StageDir, fingerprint

if TYPE_CHECKING:
    from wsseg.nets.backbones import Backbone
    from wsseg.nets.cam_head import ClassMapNet

LABELS_FOLDER = "confident"
TRAINING_FOLDER = "training"
_LABELS_VERSION = 1


class IrnData:
    """Training items of IRNet: augmented images with their confident labels.

    Args:
        samples: Samples whose labels are in `labels`.
        labels: The stage of `write_labels`.
        config: How images are augmented.
        in_channels: 3 for colour, 1 for grey networks.
        max_side_px: Longest side that images are shrunk to before anything else.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: StageDir,
        config: AugmentConfig,
        *,
        in_channels: Literal[1, 3] = 3,
        max_side_px: int | None = None,
    ) -> None:
        self.samples = tuple(samples)
        self.labels = labels
        self.config = config
        self.in_channels: Literal[1, 3] = in_channels
        self.max_side_px = max_side_px

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        """Read and augment one image with its labels.

        Returns:
            ``image`` (3 or 1, h, w) float32 normalised, ``labels`` (ceil(h / 4), ceil(w / 4))
            uint8: 0 background, class ids, 255 where nothing is sure and on padding.
        """
        sample = self.samples[index]
        image = read_working_image(sample.image_path, self.max_side_px)
        mask = read_mask(self.labels.file("labels", sample.id, ".png"))
        view = augment(image, mask, rng, self.config, in_channels=self.in_channels)
        if view.mask is None:
            raise DataError(f"{sample.id}: its confident labels were lost.")
        return {"image": view.image, "labels": cells_of(view.mask)}

    def sample_id(self, index: int) -> str:
        """Name an item for messages."""
        return self.samples[index].id


def cells_of(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Take the label of the middle of every cell of 4 pixels.

    Args:
        mask: (H, W) uint8.

    Returns:
        (ceil(H / 4), ceil(W / 4)) uint8.

    Example:
        >>> cells_of(np.arange(6, dtype=np.uint8).reshape(1, 6)).tolist()
        [[2, 5]]
    """
    rows, columns = (
        np.minimum(np.arange(-(-side // STRIDE)) * STRIDE + STRIDE // 2, side - 1)
        for side in mask.shape
    )
    return np.ascontiguousarray(mask[np.ix_(rows, columns)])


def write_labels(inputs: FitInputs, config: Irn) -> StageDir:
    """Write the confident labels of the train images, ``confident/labels/ID.png``.

    Args:
        inputs: The data set with its scores.
        config: The rule.

    Returns:
        Their stage folder. Its manifest counts, per image, the confident pixels and the training
        pairs of each kind.

    Raises:
        DataError: When the train split has no scores, or no image can be read.
        OutputError: When the labels cannot be written.
    """
    samples = inputs.split("train").samples
    rule = config.model_dump(
        mode="json", include={"min_foreground", "max_background", "crf", "gt_prob", "pair_radius"}
    )
    scores = inputs.scores_fingerprint or inputs.fingerprint
    mark = fingerprint("irn labels", _LABELS_VERSION, scores, rule)
    stage = StageDir(inputs.folder / LABELS_FOLDER, mark)
    if not stage.begin():
        stage.for_each(
            samples,
            lambda sample: _label_one(sample, inputs, config, stage),
            title="irn: confident areas",
        )
        stage.finish()
    if not stage.usable(samples):
        raise DataError(
            f"irn has nothing to learn from: none of the {len(samples)} images of the train split "
            "has maps and can be read. Run localize again, or leave irn out."
        )
    return stage


def _label_one(sample: Sample, inputs: FitInputs, config: Irn, stage: StageDir) -> dict[str, int]:
    image = read_working_image(sample.image_path, inputs.max_side_px)
    scores = inputs.load(sample)
    if inputs.knows_background:
        mask = labels_of_known(scores, config.min_foreground)
    else:
        mask = affinity_labels_two_thresholds(
            image,
            scores,
            fg_threshold=config.min_foreground,
            bg_threshold=config.max_background,
            crf=config.crf,
            gt_prob=config.gt_prob,
            device=inputs.device,
        )
    write_mask(stage.file("labels", sample.id, ".png"), mask)
    num_background = int((mask == BACKGROUND).sum())
    num_unknown = int((mask == IGNORE).sum())
    return {
        "pixels": mask.size,
        "background": num_background,
        "foreground": mask.size - num_background - num_unknown,
        **count_pairs(mask, config.pair_radius),
    }


def count_pairs(mask: npt.NDArray[np.uint8], radius: int) -> dict[str, int]:
    """Count the training pairs of a label map.

    Args:
        mask: (H, W) uint8 confident labels.
        radius: Longest distance of a pair in cells, exclusive.

    Returns:
        ``same_pairs`` of equal labels and ``different_pairs``.

    Example:
        >>> mask = np.zeros((4, 8), np.uint8)
        >>> mask[:, 4:] = 7
        >>> count_pairs(mask, radius=2)
        {'same_pairs': 0, 'different_pairs': 1}
    """
    cells = cells_of(mask)
    height, width = smallest_grid(radius)
    # A frame of unknown cells gives every cell all of its neighbours.
    framed = np.pad(cells, ((0, height), (width, width)), constant_values=IGNORE)
    pairs = label_pairs(torch.from_numpy(framed)[None], radius)
    same = int(pairs.background.sum()) + int(pairs.foreground.sum())
    return {"same_pairs": same, "different_pairs": int(pairs.different.sum())}


def confident_facts(labels: StageDir, config: Irn) -> dict[str, float]:
    """Sum up what there is to learn, and refuse when it is nothing.

    Args:
        labels: What `write_labels` returned.
        config: The rule, for the message.

    Returns:
        ``foreground`` and ``background``: shares of the pixels that are confident, 0 to 1.

    Raises:
        DataError: When no pairs of different labels, or none of equal labels, are left.
    """
    lines = [line for line in labels.manifest().values() if line["status"] == "ok"]
    total = {
        key: sum(line[key] for line in lines)
        for key in ("pixels", "foreground", "background", "same_pairs", "different_pairs")
    }
    shares = {key: total[key] / max(1, total["pixels"]) for key in ("foreground", "background")}
    if total["same_pairs"] == 0 or total["different_pairs"] == 0:
        raise DataError(
            f"irn cannot learn boundaries: in {len(lines)} train images "
            f"{shares['foreground']:.1%} of the pixels are confident foreground (min_foreground="
            f"{config.min_foreground}) and {shares['background']:.1%} confident background "
            f"(max_background={config.max_background}), and no two of different labels lie within "
            f"{config.pair_radius} cells of 4 pixels. Lower min_foreground or raise "
            "max_background, check the maps of the localizer, or leave irn out."
        )
    return shares


def new_net(
    config: Irn,
    localizer: Callable[[], ClassMapNet] | None,
    *,
    seed: int = 0,
    load_weights: bool = True,
) -> IrnNet:
    """Make IRNet with untrained heads.

    Args:
        config: Which features it reads.
        localizer: Loads the trained localizer.
        seed: Seed of the heads.
        load_weights: Load the weights that ``config.init`` names; False to load a checkpoint of
            the whole network instead.

    Returns:
        The network in training mode.

    Raises:
        RecipeError: When the localizer is wanted and there is none, or the backbone has no stages.
        MissingWeightsError: When weights cannot be had or do not fit.
    """
    from wsseg.training.seeds import isolated_rng, seed_everything

    with isolated_rng():
        # Features without weights are drawn at random.
        seed_everything(seed)
        backbone = _features(config, localizer, load_weights=load_weights)
        # Once more: loading a localizer may draw random numbers or not.
        seed_everything(seed)
        net = IrnNet(
            backbone,
            radius=config.pair_radius,
            train_backbone=config.train_backbone,
            train_norms=config.init == "none",
            align_cells=config.align_cells,
        )
        return net.train()


def _features(
    config: Irn, localizer: Callable[[], ClassMapNet] | None, *, load_weights: bool
) -> Backbone:
    from wsseg.nets.build import build_backbone

    if config.init != "localizer":
        return build_backbone(
            config.backbone,
            weights=config.init if load_weights else "none",
            output_stride=config.output_stride,
            dilate=False,
            freeze_batchnorm=config.init != "none",
        )
    if localizer is None:
        raise RecipeError(
            "irn starts from the trained localizer and was given none. Use it in a run, pass "
            "context.localizer, or set init to imagenet or the path of a weight file."
        )
    return deepcopy(localizer().backbone)


class Learned(NamedTuple):
    """What training came to.

    Attributes:
        net: The network in evaluation mode.
        data: What it was trained on.
        weights: Path of its weights relative to the stage's folder.
        mark: Fingerprint of everything that the weights depend on.
    """

    net: IrnNet
    data: IrnData
    weights: str
    mark: str


def train(inputs: FitInputs, config: Irn, labels: StageDir) -> Learned:
    """Train both heads, continue, or find them trained.

    Args:
        inputs: The data set.
        config: How to train.
        labels: What `write_labels` returned.

    Returns:
        The network, its data and its weights.

    Raises:
        RecipeError: When a setting is wrong, or the loss stops being a number.
        MissingWeightsError: When the first weights cannot be had.
    """
    from wsseg.training.loop import fit

    net = new_net(config, inputs.localizer, seed=inputs.seed)
    data = IrnData(
        labels.usable(inputs.split("train").samples),
        labels,
        config.augment,
        in_channels=1 if net.backbone.in_channels == 1 else 3,
        max_side_px=inputs.max_side_px,
    )
    learned_from = config.model_dump(
        mode="json", include={"init", "backbone", "output_stride", "pair_radius", "augment"}
    )
    mark = fingerprint("irn", labels.fingerprint, inputs.fingerprint, learned_from)
    result = fit(
        net,
        data,
        config.training,
        inputs.folder / TRAINING_FOLDER,
        seed=inputs.seed,
        title="irn: train",
        fingerprint=mark,
    )
    weights = result.weights_path.relative_to(inputs.folder).as_posix()
    whole = config.training.result_fingerprint(mark, str(inputs.seed))
    return Learned(result.module, data, weights, whole)

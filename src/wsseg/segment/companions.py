"""What goes with a training image besides its mask: boxes, a cue, its colours as they are.

Each follows the random view of the image. Only what the loss or the network looks at is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg import console
from wsseg.context import RunContext
from wsseg.cues.protocol import CueConfig, CueInputs
from wsseg.cues.source import CueSource, check_cue, open_cue
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import image_size, read_mask
from wsseg.data.transforms import Augmented
from wsseg.errors import DataError, RecipeError
from wsseg.processes import from_main_process
from wsseg.pseudo.corrections import Given
from wsseg.rundir import StageDir
from wsseg.segment.boxed import network_takes_boxes
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.loss_config import FillingRateLoss, PointLoss
from wsseg.segment.said import Said
from wsseg.segment.views import all_boxes, boxes_of_view, guide_of_view, said_of_view

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet


def uses_boxes(config: SegmenterConfig) -> bool:
    """Tell whether the loss or the network looks at boxes."""
    return config.loss.needs_boxes or network_takes_boxes(config)


def loss_cue(config: SegmenterConfig) -> CueConfig | None:
    """Find the cue that the loss looks at; None where it looks at none."""
    loss = config.loss
    if not isinstance(loss, PointLoss) or loss.objectness_weight == 0 or loss.cue is None:
        return None
    if not isinstance(loss.cue, CueConfig):
        raise TypeError(f"{type(loss.cue).__name__} must derive from CueConfig.")
    return loss.cue


def check_companions(dataset: Dataset, config: SegmenterConfig) -> None:
    """Refuse before a run what the data cannot give.

    Args:
        dataset: The data set.
        config: The segmenter's settings.

    Raises:
        DataError: When boxes are looked at and no image to train on has any, or the cue lacks maps.
        RecipeError: When something would change masks that the loss does not look at.
        MissingExtraError: When the cue needs an optional package.
        MissingWeightsError: When its network is not at hand.
    """
    cue = loss_cue(config)
    if cue is not None:
        check_cue(cue, dataset)
    check_boxed_targets(dataset, config)
    if not uses_boxes(config) or any(all_boxes(s.labels) for s in dataset.split("train")):
        return
    who = (
        f"segment.loss.name is {config.loss.name}"
        if config.loss.needs_boxes
        else f"segment.name is {config.name}"  # type: ignore[attr-defined]
    )
    raise DataError(
        f"{who}, which looks at boxes, but no image of the train split has a box of every class "
        "that it is tagged with. Add boxes (see docs/formats.md), or choose another recipe."
    )


def check_boxed_targets(dataset: Dataset, config: SegmenterConfig) -> None:
    """Refuse what would change masks that the loss does not look at.

    The loss `filling_rate` makes its targets from boxes; pseudo masks are those of the images
    without boxes, and the measure of its rates.

    Args:
        dataset: The data set.
        config: The segmenter's settings.

    Raises:
        RecipeError: When a correction, or rounds, would do nothing at all.
    """
    loss = config.loss
    if not isinstance(loss, FillingRateLoss):
        return
    relabels = config.rounds.count > 0 and config.rounds.masks == "predictions"
    changes = {"segment.correction": config.correction is not None, "segment.rounds": relabels}
    idle = [name for name, is_used in changes.items() if is_used]
    if not idle:
        return
    train = dataset.split("train")
    num_boxed = sum(all_boxes(sample.labels) is not None for sample in train)
    reason = (
        f"{' and '.join(idle)} changes pseudo masks, but segment.loss.name is filling_rate, which "
        f"makes the targets of images with boxes anew from the boxes ({num_boxed} of {len(train)} "
        "images of the train split)"
    )
    only_rates = loss.rates is None and idle == ["segment.rounds"]
    if num_boxed == len(train) and not only_rates:
        raise RecipeError(
            f"{reason}, so nothing would change. Set segment.loss.name=cross_entropy, or leave "
            f"{' and '.join(idle)} out."
        )
    if num_boxed:
        rates = ", and the rates that are measured in them" if loss.rates is None else ""
        console.warning(f"{reason}: it acts on the others alone{rates}.")


class SaidOfMasks(NamedTuple):
    """What people said of the images of a training.

    Attributes:
        said: Where it is found.
        masks: The pseudo mask of each image, by the image's file.
    """

    said: Said
    masks: Mapping[Path, Path]

    def of(self, sample: Sample) -> Given:
        """Find what was said of an image."""
        if self.said.is_silent(sample):
            return Given.nothing((1, 1))
        return self.said.pixels(sample, read_mask(self.masks[sample.image_path]))


class Companions:
    """Makes what goes with the images of a training.

    Args:
        samples: The images.
        config: The segmenter's settings, which say what is looked at.
        cue: Maps of the loss's cue; None where it has none.
        said: What people said of pixels, for losses that do not look at the masks; None: nothing.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        config: SegmenterConfig,
        cue: CueSource | None = None,
        said: SaidOfMasks | None = None,
    ) -> None:
        self._samples: Mapping[Path, Sample] = {s.image_path: s for s in samples}
        self._config = config
        self._cue = cue
        self._said = said
        self._with_boxes = uses_boxes(config)
        # All items of a batch need the same shape.
        counts = [len(sample.labels.boxes or ()) for sample in samples]
        self._num_boxes = max([1, *counts])

    def of(
        self, image_path: Path, image: NDArray[np.uint8], view: Augmented
    ) -> dict[str, NDArray[Any]]:
        """Make what goes with a view.

        Args:
            image_path: Which image it is.
            image: (H, W, 3) uint8 RGB at working size, as it is before any random change.
            view: The random view.

        Returns:
            Where they are looked at: ``boxes`` (M, 5) float32 and ``has_boxes`` () bool of
            `boxes_of_view`, and for losses that make targets of them ``said`` (h, w) int16 of
            `said_of_view`; ``cue`` (h, w) float32 in [0, 1], 0 at padding; ``guide``
            (in_channels, h, w) float32, the view without random changes of colour.

        Raises:
            DataError: When the map of the cue cannot be had or has another size.
        """
        found: dict[str, NDArray[Any]] = {}
        if self._config.loss.needs_guide:
            found["guide"] = guide_of_view(image, view.geometry, self._config.in_channels)
        sample = self._samples[image_path]
        if self._with_boxes:
            found["boxes"] = boxes_of_view(sample, view.geometry, self._num_boxes)
            found["has_boxes"] = np.array(all_boxes(sample.labels) is not None)
        if self._config.loss.needs_boxes and self._said is not None:
            found["said"] = said_of_view(self._said.of(sample), view.geometry)
        if self._cue is not None:
            values = self._cue.map(sample, image)
            if values.shape != image.shape[:2]:
                raise DataError(
                    f"{sample.id}: its cue has shape {values.shape}, but the image has "
                    f"{image.shape[:2]} (H, W). Make the maps for the images as they are now."
                )
            found["cue"] = view.geometry.view_of(values)
        return found


def make_companions(
    dataset: Dataset,
    samples: Sequence[Sample],
    config: SegmenterConfig,
    context: RunContext,
    *,
    cues_dir: Path,
    masks: StageDir | None = None,
    localizer: Callable[[], ClassMapNet] | None = None,
) -> Companions:
    """Make what goes with the images of a training; the cue's maps are made here, once.

    Args:
        dataset: The data set.
        samples: The images to train on.
        config: The segmenter's settings.
        context: Settings of the run.
        cues_dir: Where maps are kept when the run does not say.
        masks: The pseudo masks; None where there are none yet.
        localizer: Loads the run's trained localizer, for cues made with it.

    Returns:
        The companions.

    Raises:
        DataError: When the cue cannot learn from the data set.
        OutputError: When its maps cannot be written.
    """
    settings = loss_cue(config)
    said = None
    if masks is not None and config.loss.needs_boxes:
        files = {sample.image_path: masks.path / f"{sample.id}.png" for sample in samples}
        said = SaidOfMasks(Said.of_run(context), files)
    if settings is None:
        return Companions(samples, config, said=said)
    from wsseg.device import best_device

    inputs = CueInputs(
        dataset=dataset,
        folder=context.cues_dir or cues_dir,
        seed=context.seed,
        device=best_device(),
        max_side_px=context.max_side_px,
        localizer=localizer,
        localizer_fingerprint=context.localizer_fingerprint,
    )
    cue = open_cue(settings, inputs)
    from_main_process(lambda: cue.prepare(samples))
    return Companions(samples, config, cue, said)


def masks_with_boxes(
    samples: Sequence[Sample], mask_paths: Sequence[Path]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]]:
    """Read the pseudo masks of images whose boxes are known, one at a time.

    Args:
        samples: The images.
        mask_paths: Their masks, in the same order.

    Yields:
        Mask (H, W) uint8, boxes (M, 4) float32 in its pixels, and their class ids (M,) int64.
    """
    for sample, path in zip(samples, mask_paths, strict=True):
        boxes = sample.labels.boxes
        if boxes:
            mask = read_mask(path)
            height, width = image_size(sample.image_path)
            scale = np.array([mask.shape[1] / width, mask.shape[0] / height] * 2, np.float32)
            yield mask, boxes.xyxy * scale, boxes.class_ids

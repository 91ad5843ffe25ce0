"""What goes with a training image besides its mask: boxes, a cue, its colours as they are.

Each follows the random view of the image. Only what the loss or the network looks at is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsseg.context import RunContext
from wsseg.cues.protocol import CueConfig, CueInputs
from wsseg.cues.source import CueSource, check_cue, open_cue
from wsseg.data.colour import normalise
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.geometry import Geometry
from wsseg.data.image_io import image_size, read_mask
from wsseg.data.transforms import Augmented
from wsseg.errors import DataError
from wsseg.processes import from_main_process
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.loss_config import PointLoss

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet


def uses_boxes(config: SegmenterConfig) -> bool:
    """Tell whether the loss or the network looks at boxes."""
    return bool(config.loss.needs_boxes or getattr(config, "uses_boxes", False))


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
        MissingExtraError: When the cue needs an optional package.
        MissingWeightsError: When its network is not at hand.
    """
    cue = loss_cue(config)
    if cue is not None:
        check_cue(cue, dataset)
    if not uses_boxes(config) or any(s.labels.boxes for s in dataset.split("train")):
        return
    who = (
        f"segment.loss.name is {config.loss.name}"
        if config.loss.needs_boxes
        else f"segment.name is {config.name}"  # type: ignore[attr-defined]
    )
    raise DataError(
        f"{who}, which looks at boxes, but no image of the train split has a box. Add boxes (see "
        "docs/formats.md), or choose another recipe."
    )


class Companions:
    """Makes what goes with the images of a training.

    Args:
        samples: The images.
        config: The segmenter's settings, which say what is looked at.
        cue: Maps of the loss's cue; None where it has none.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        config: SegmenterConfig,
        cue: CueSource | None = None,
    ) -> None:
        self._samples: Mapping[Path, Sample] = {s.image_path: s for s in samples}
        self._config = config
        self._cue = cue
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
            `boxes_of_view`; ``cue`` (h, w) float32 in [0, 1], 0 at padding; ``guide``
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
            found["has_boxes"] = np.array(sample.labels.boxes is not None)
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
    localizer: Callable[[], ClassMapNet] | None = None,
) -> Companions:
    """Make what goes with the images of a training; the cue's maps are made here, once.

    Args:
        dataset: The data set.
        samples: The images to train on.
        config: The segmenter's settings.
        context: Settings of the run.
        cues_dir: Where maps are kept when the run does not say.
        localizer: Loads the run's trained localizer, for cues made with it.

    Returns:
        The companions.

    Raises:
        DataError: When the cue cannot learn from the data set.
        OutputError: When its maps cannot be written.
    """
    settings = loss_cue(config)
    if settings is None:
        return Companions(samples, config)
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
    return Companions(samples, config, cue)


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


def boxes_of_view(sample: Sample, geometry: Geometry, count: int) -> NDArray[np.float32]:
    """Show the boxes of an image in a view of it.

    Args:
        sample: The image; boxes are in its original pixels.
        geometry: From the image at working size to the view.
        count: M, at least the number of its boxes.

    Returns:
        (M, 5) float32: left, top, right, bottom in pixels of the view, cut at its edge, and class;
        class 0 fills up, also in place of boxes that the view does not show.
    """
    found = np.zeros((count, 5), np.float32)
    boxes = sample.labels.boxes
    if boxes is None or len(boxes) == 0:
        return found
    height, width = image_size(sample.image_path)
    scale = np.array([geometry.source_size[1] / width, geometry.source_size[0] / height] * 2)
    inside = np.clip(boxes.xyxy, 0, [width, height, width, height])
    shown = geometry.boxes(inside * scale)
    is_there = (shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1])
    found[: len(boxes), :4] = np.where(is_there[:, None], shown, 0)
    found[: len(boxes), 4] = np.where(is_there, boxes.class_ids, 0)
    return found


def guide_of_view(
    image: NDArray[np.uint8], geometry: Geometry, in_channels: int
) -> NDArray[np.float32]:
    """Show an image in a view without random changes of colour, normalised.

    Args:
        image: (H, W, 3) uint8 RGB at working size.
        geometry: From it to the view.
        in_channels: 3 for colour, 1 for grey networks.

    Returns:
        (in_channels, h, w) float32, bilinear; black at padding.
    """
    planes = [geometry.view_of(image[..., c].astype(np.float32)) for c in range(3)]
    shown = np.rint(np.stack(planes, axis=-1)).astype(np.uint8)
    return normalise(shown, 1 if in_channels == 1 else 3)

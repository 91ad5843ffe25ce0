"""Predictions of held-out images with their boxes, by a segmenter that looks at boxes.

They answer another question than predictions of the image alone, so they have a folder and a line
in the table of numbers of their own. The folder, ``segment/with_boxes/``, belongs to the segment
stage and lives as long as that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import read_image, write_mask
from wsseg.rundir import StageDir, fingerprint
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.views import all_boxes


def network_takes_boxes(config: SegmenterConfig | None) -> bool:
    """Tell whether the network of these settings looks at boxes."""
    return bool(getattr(config, "uses_boxes", False))


def boxed_stage(segment: StageDir) -> StageDir:
    """Name the folder of the predictions with boxes.

    Args:
        segment: The segment stage.
    """
    return StageDir(segment.path / "with_boxes", fingerprint(segment.fingerprint, "with boxes"))


def predict_with_boxes(
    dataset: Dataset,
    config: SegmenterConfig,
    segment: StageDir,
    *,
    splits: Sequence[str] = ("val", "test"),
) -> None:
    """Predict the held-out images whose boxes are known, with them.

    Does nothing where the network does not look at boxes, or no such image has any.

    Args:
        dataset: The data set.
        config: The segmenter's settings.
        segment: The segment stage, whose training is done.
        splits: The splits to predict; where none of them has images, the train split.

    Raises:
        OutputError: When masks cannot be written.
    """
    from wsseg.segment.predict import Predictor
    from wsseg.segment.stage import MODEL_FOLDER

    wanted = [sample for sample in dataset.samples if sample.split in splits]
    boxed = [s for s in wanted or dataset.samples if all_boxes(s.labels) is not None]
    if not network_takes_boxes(config) or not boxed:
        return
    stage = boxed_stage(segment)
    if stage.begin():
        return
    started = time.perf_counter()
    predictor = Predictor.load(segment.path / MODEL_FOLDER)

    def work(sample: Sample) -> None:
        found = predictor.predict(
            read_image(sample.image_path), sample.labels.tags, all_boxes(sample.labels)
        )
        write_mask(stage.path / f"{sample.id}.png", found.mask)

    stage.for_each(boxed, work, title="segment: predict with boxes")
    stage.finish(seconds=time.perf_counter() - started)

"""Self-training rounds: a segmenter's cleaned predictions become the pseudo masks of the next one.

Round 0 trains on the pseudo masks of the run. Each later round owns ``segment/round_N/``:

```
masks/ID.png        the pseudo masks that it trains on, with stage.json and manifest.jsonl
masks/weights/      ID.png per image, what its pixels count (grey; only with uncertainty)
training/           its training
```

References: recursive training of Khoreva et al., "Simple Does It", CVPR 2017, and of Dai et al.,
"BoxSup", ICCV 2015; uncertainty of Li et al. (URN), AAAI 2022; see `rounds_cleanup`, `proposals`
and `uncertainty`.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg import console
from wsseg.cues.segments_source import check_segments
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.image_io import image_size, read_mask, write_mask
from wsseg.data.working import read_working_image
from wsseg.errors import DataError
from wsseg.localize.direct import has_kind
from wsseg.processes import is_main_process
from wsseg.rundir import StageDir, fingerprint
from wsseg.segment.boxed import boxed_stage, network_takes_boxes
from wsseg.segment.config import SegmenterConfig
from wsseg.segment.draft import Draft, ImageFacts, enforce, scaled_labels, without_absent
from wsseg.segment.forward import TorchForward
from wsseg.segment.inference import predict_probabilities
from wsseg.segment.rounds_cleanup import clean
from wsseg.segment.rounds_config import ProposalsCleanup
from wsseg.segment.said import Said
from wsseg.segment.views import all_boxes, box_rows

if TYPE_CHECKING:
    from torch import nn

    from wsseg.context import RunContext

WEIGHTS_FOLDER = "weights"

# Kinds of label → the clean-ups that work from them.
_WORK_FROM = {
    ("boxes",): frozenset({"boxes", "proposals"}),
    ("scribbles", "points"): frozenset({"graph_cut"}),
}


def round_stage(segment: StageDir, number: int) -> StageDir:
    """Name the folder of a round's pseudo masks.

    Args:
        segment: The segment stage.
        number: The round, from 1.

    Returns:
        Its folder; it belongs to the segment stage and lives as long as that.
    """
    mark = fingerprint(segment.fingerprint, "round", number)
    return StageDir(segment.path / f"round_{number}" / "masks", mark)


def round_stages(config: SegmenterConfig | None, segment: StageDir) -> list[StageDir]:
    """Name the folders of all rounds' pseudo masks, in order."""
    count = 0 if config is None else config.rounds.count
    return [round_stage(segment, number) for number in range(1, count + 1)]


def training_folder(segment: StageDir, number: int) -> Path:
    """Name the folder of a round's training; that of round 0 is the stage's own."""
    return segment.path / (f"round_{number}" if number else "") / "training"


def corrected_stage(segment: StageDir, number: int) -> StageDir:
    """Name the folder of the masks that a round's training corrects."""
    mark = fingerprint(segment.fingerprint, "corrected", number)
    return StageDir(training_folder(segment, number) / "labels", mark)


class MaskFolder(NamedTuple):
    """Masks that a segment stage has made.

    Attributes:
        stage: What they are called in ``metrics.json``.
        label: The same in words.
        folder: Where they are.
    """

    stage: str
    label: str
    folder: StageDir


def mask_folders(config: SegmenterConfig | None, segment: StageDir) -> tuple[MaskFolder, ...]:
    """List the masks beside those of the run itself, in the order in which they are made.

    Args:
        config: The segmenter's settings; None where there is no segmenter.
        segment: The segment stage.

    Returns:
        Pseudo masks of rounds, corrected ones, and predictions with boxes.
    """
    found = []
    for number in range(0 if config is None else config.rounds.count + 1):
        if number:
            label = f"Pseudo masks, round {number}"
            found.append(MaskFolder(f"pseudo/round_{number}", label, round_stage(segment, number)))
        if config is not None and config.correction is not None:
            name = f"pseudo/round_{number}_corrected" if number else "pseudo/corrected"
            label = f"Pseudo masks, round {number}" if number else "Pseudo masks"
            corrected = corrected_stage(segment, number)
            found.append(MaskFolder(name, f"{label}, corrected", corrected))
    if network_takes_boxes(config):
        boxed = boxed_stage(segment)
        found.append(MaskFolder("segment/with_boxes", "Segmenter, with boxes", boxed))
    return tuple(found)


def check_self_training(dataset: Dataset, config: SegmenterConfig) -> None:
    """Refuse clean-ups that the data has no labels for.

    With ``masks: first`` nothing is cleaned up, so nothing is asked for.

    Args:
        dataset: The data set.
        config: The segmenter's settings.

    Raises:
        DataError: When no training image has the labels that a clean-up needs.
        WssegError: When a backend of segments lacks what it needs.
    """
    if not config.rounds.count or config.rounds.masks == "first":
        return
    for cleanup in config.rounds.cleanups:
        if isinstance(cleanup, ProposalsCleanup) and cleanup.segments is not None:
            check_segments(cleanup.segments, dataset)
    for kinds, cleanups in _WORK_FROM.items():
        wanted = config.rounds.names() & cleanups
        if wanted and not any(has_kind(s.labels, kinds) for s in dataset.split("train")):
            label = " or ".join(kinds)
            raise DataError(
                f"segment.rounds.cleanups has {', '.join(sorted(wanted))}, but no image of the "
                f"train split has {label}. Remove the clean-up, or give a data set with {label}."
            )


def relabel(
    net: nn.Module,
    samples: Sequence[Sample],
    config: SegmenterConfig,
    first: StageDir,
    stage: StageDir,
    context: RunContext,
) -> None:
    """Make the pseudo masks of a round with the network of the round before it.

    Images that have a mask of this round already are not done again.

    Args:
        net: Module from normalised images to logits (N, C + 1, H, W).
        samples: The training images, held-out ones among them.
        config: The segmenter's settings; predictions follow ``config.inference`` without its CRF.
        first: The pseudo masks of round 0.
        stage: The round's folder, from `round_stage`.
        context: Settings of the run.

    Raises:
        OutputError: When masks cannot be written.
    """
    if stage.begin():
        return
    started = time.perf_counter()
    forward = TorchForward(
        _on_best_device(net), in_channels=config.in_channels, precision=config.inference.precision
    )
    shared: dict[Any, Any] = {}
    said = Said.of_run(context)

    def work(sample: Sample) -> dict[str, Any]:
        return _relabel_image(sample, forward, config, (first, stage), (context, shared, said))

    title = f"segment: {stage.path.parent.name.replace('_', ' ')}, masks"
    stage.for_each(samples, work, title=title)
    stage.finish(seconds=time.perf_counter() - started)


def _on_best_device(net: nn.Module) -> nn.Module:
    from wsseg.device import best_device

    return net.to(best_device())


def _relabel_image(
    sample: Sample,
    forward: TorchForward,
    config: SegmenterConfig,
    stages: tuple[StageDir, StageDir],
    run: tuple[RunContext, dict[Any, Any], Said],
) -> dict[str, Any]:
    """Predict, clean and write the mask of one image; returns facts for the manifest."""
    from wsseg.segment.uncertainty import uncertainty, weight_bytes

    first, stage = stages
    context, shared, said = run
    image = read_working_image(sample.image_path, context.max_side_px)
    size = image_size(sample.image_path)
    first_mask = read_mask(first.path / f"{sample.id}.png")
    facts = ImageFacts(
        sample.id,
        image,
        scaled_labels(sample.labels, (image.shape[0] / size[0], image.shape[1] / size[1])),
        _nearest(first_mask, image.shape[:2]),
        seed=_image_seed(context.seed, stage, sample.id),
        segments_dir=None if context.cues_dir is None else context.cues_dir / "segments",
        shared=shared,
    )
    given = said.pixels(sample, first_mask)
    rounds = config.rounds
    plain = config.inference.model_copy(update={"crf": None, "restrict_to_tags": False})
    boxes = all_boxes(facts.labels) if forward.takes_boxes else None
    rows = None if boxes is None else box_rows(boxes)
    draft = Draft.of(predict_probabilities(forward, image, plain, boxes=rows))
    if rounds.uncertainty is not None:
        possible = without_absent(draft, facts.labels).probabilities
        doubt = uncertainty(possible, facts, rounds.uncertainty)
        stored = _nearest(weight_bytes(doubt), size)
        stored = np.where(given.is_given, np.uint8(255), stored)
        write_mask(stage.file(WEIGHTS_FOLDER, sample.id, ".png"), stored, palette=False)
    mask = first_mask
    if rounds.masks == "predictions":
        mask = enforce(clean(draft, facts, rounds.cleanups).resized(size), sample.labels)
        mask = given.over(mask)
    write_mask(stage.path / f"{sample.id}.png", mask)
    return {"changed": round(float((mask != first_mask).mean()), 6)}


def _image_seed(seed: int, stage: StageDir, sample_id: str) -> int:
    """Seed an image's draws by its name, so that neither order nor interruptions matter."""
    return zlib.crc32(f"{seed}/{stage.path.parent.name}/{sample_id}".encode())


def _nearest(array: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    import cv2

    if array.shape == size:
        return array
    method = cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(array, (size[1], size[0]), interpolation=method), np.uint8)


def say_change(stage: StageDir) -> None:
    """Tell how much a round's masks differ from the first ones, on average."""
    if not is_main_process():
        return
    changed = [line["changed"] for line in stage.manifest().values() if "changed" in line]
    if changed:
        console.info(
            f"{stage.path.parent.name}: {100 * float(np.mean(changed)):.1f} % of the pixels differ "
            "from the first pseudo masks"
        )

"""The localize stage: train the localizer on the tagged images, then write Scores per image.

Direct localizers, which work from boxes, points and scribbles, train nothing; their part is in
`wsseg.localize.direct_stage`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsseg import console
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.scores import Scores, save_scores
from wsseg.data.working import read_working_image
from wsseg.device import best_device
from wsseg.errors import DataError
from wsseg.localize.config import LocalizerConfig, TagLocalizerConfig
from wsseg.localize.data import TagData
from wsseg.localize.direct import DirectLocalizerConfig
from wsseg.localize.direct_stage import DIRECT_VERSION, localize_direct, note_left_out
from wsseg.localize.rounds import Mapper, RoundInputs, Rounds, rounds_method, train_rounds
from wsseg.processes import from_main_process
from wsseg.rundir import StageDir

if TYPE_CHECKING:
    from wsseg.localize.aligned import AlignedMap
    from wsseg.nets.cam_head import ClassMapNet

VERSION = 1
_UNTAGGED = "tag them, or let the classifier tag them with --set localize.inference.tags=predicted"


def localize(
    dataset: Dataset, config: LocalizerConfig, stage: StageDir, context: RunContext
) -> None:
    """Train the localizer and write ``scores/ID.npz`` for the images of every split.

    Only images of the ``train`` split with tags train. Images of the other splits get scores
    too, so that they can be looked at and scored. A direct localizer makes its scores from the
    labels of each image instead.

    Args:
        dataset: The data set.
        config: The localizer's settings.
        stage: Where the results go.
        context: Settings of the run.

    Raises:
        DataError: When the tags cannot train a classifier.
        OutputError: When results cannot be written.
    """
    if isinstance(config, DirectLocalizerConfig):
        part = config.network_part()
        load = None if part is None else lambda: train_localizer(dataset, part, stage, context)
        localize_direct(dataset, config, stage, context, load)
        return
    if not isinstance(config, TagLocalizerConfig):
        raise TypeError(f"{type(config).__name__} is neither a tag nor a direct localizer's.")
    if stage.begin():
        return
    started = time.perf_counter()
    maps = _mapper(dataset, config, stage, context)
    samples = [s for s in dataset.samples if _has_class_ids(s, config)]
    note_left_out(dataset, samples, "tags", _UNTAGGED)
    from wsseg.localize.adv_cam import announce

    announce(config.inference, samples)
    stage.for_each(
        samples,
        lambda sample: _localize_one(sample, maps, stage),
        title="localize: maps",
    )
    stage.finish(seconds=time.perf_counter() - started)


def fingerprint_settings(config: LocalizerConfig) -> dict[str, Any]:
    """List the settings that results depend on, for the stage's fingerprint.

    Args:
        config: The localizer's settings.

    Returns:
        JSON-able. Without regularisers they are not named, so that runs from before there were
        any are still recognised.
    """
    if isinstance(config, DirectLocalizerConfig):
        return config.model_dump(mode="json") | {"version": DIRECT_VERSION}
    is_bare = isinstance(config, TagLocalizerConfig) and not config.regularisers
    return config.model_dump(mode="json", exclude={"regularisers"} if is_bare else None)


def takes_masks(config: LocalizerConfig) -> bool:
    """Tell whether painted masks are labels for a localizer, where they may be used at all."""
    return isinstance(config, DirectLocalizerConfig) and config.uses_masks


def _has_class_ids(sample: Sample, config: TagLocalizerConfig) -> bool:
    return sample.labels.tags is not None or config.inference.tags == "predicted"


def _mapper(
    dataset: Dataset, config: TagLocalizerConfig, stage: StageDir, context: RunContext
) -> Mapper:
    """Train, and give what makes the scores and class probabilities of an image."""
    rounds = _rounds(dataset, config, stage, context)
    from_rounds = None if rounds is None else rounds.mapper()
    if from_rounds is not None:
        return from_rounds
    from wsseg.localize.inference import class_maps, prepare

    trained = train_localizer(dataset, config, stage, context)
    net = prepare(trained, config.inference, best_device())

    def maps(sample: Sample) -> tuple[Scores, NDArray[np.float32]]:
        image = read_working_image(sample.image_path, context.max_side_px)
        return class_maps(net, image, sample.labels.tags, config.inference)

    return maps


def _rounds(
    dataset: Dataset, config: TagLocalizerConfig, stage: StageDir, context: RunContext
) -> Rounds | None:
    """Do the rounds of a localizer that is trained in several; None for all others."""
    method = rounds_method(config)
    if method is None:
        return None
    samples = [s for s in dataset.split("train") if s.labels.tags is not None]
    check_trainable(samples, dataset)
    mapped = tuple(s for s in dataset.samples if _has_class_ids(s, config))
    folder, mark = stage.path / "training", stage.fingerprint
    inputs = RoundInputs(dataset, tuple(samples), mapped, config, context, folder, mark)
    return train_rounds(method, inputs)


def train_localizer(
    dataset: Dataset, config: TagLocalizerConfig, stage: StageDir, context: RunContext
) -> ClassMapNet:
    """Train the localizer's network, or load it when it was trained already.

    Returns:
        The trained network in evaluation mode.

    Raises:
        DataError: When the tags cannot train a classifier.
    """
    from wsseg.localize.regularise.attach import make_localizer
    from wsseg.training.loop import fit
    from wsseg.training.seeds import seed_everything

    rounds = _rounds(dataset, config, stage, context)
    if rounds is not None:
        return rounds.network()
    samples = [s for s in dataset.split("train") if s.labels.tags is not None]
    check_trainable(samples, dataset)
    data = TagData(
        samples,
        dataset.classes.num_classes,
        config.augment,
        in_channels=1 if config.grey else 3,
        max_side_px=context.max_side_px,
    )
    seed_everything(context.seed)
    net = make_localizer(config, dataset.classes.num_classes)
    set_class_weights = getattr(net, "set_class_weights", None)
    if config.class_weights and set_class_weights is not None:
        set_class_weights(data.tags)
    data.aligned = _aligned_maps(net, samples, dataset, config, stage, context)
    result = fit(
        net,
        data,
        config.training,
        stage.path / "training",
        seed=context.seed,
        title="localize: train",
        fingerprint=stage.fingerprint,
    )
    result.module.eval()
    return result.module


def _aligned_maps(
    net: ClassMapNet,
    samples: list[Sample],
    dataset: Dataset,
    config: TagLocalizerConfig,
    stage: StageDir,
    context: RunContext,
) -> dict[str, AlignedMap]:
    """Make the maps that the training needs beside the images; none where it is done already."""
    from wsseg.cues.protocol import CueInputs
    from wsseg.localize.aligned import aligned_maps
    from wsseg.training.loop import is_trained

    folder = stage.path / "training"
    if is_trained(config.training, folder, seed=context.seed, fingerprint=stage.fingerprint):
        return {}
    inputs = CueInputs(
        dataset=dataset,
        folder=context.cues_dir or stage.path / "cues",
        seed=context.seed,
        device=best_device(),
        max_side_px=context.max_side_px,
    )
    found = aligned_maps(net, inputs)
    for source in found.values():
        from_main_process(partial(source.prepare, samples))
    return found


def check_trainable(samples: list[Sample], dataset: Dataset) -> None:
    """Refuse tags that a classifier cannot learn from, saying what is missing.

    Args:
        samples: The tagged images of the train split.
        dataset: The data set, for its class names.

    Raises:
        DataError: When no image is tagged, a class has no image, or every image carries every
            class.
    """
    if not samples:
        has_masks = any(sample.mask_path is not None for sample in dataset.split("train"))
        hint = " Or pass --use-masks, to take the tags from the masks." if has_masks else ""
        raise DataError(
            "The train split has no tagged image. Give tags in labels.csv (column `tags`), or put "
            f"the images into one folder per class.{hint}"
        )
    names = dataset.classes.names
    counts = np.zeros(len(names), int)
    for sample in samples:
        counts[[class_id - 1 for class_id in sample.labels.tags or ()]] += 1
    if not counts.any():
        raise DataError("No image of the train split carries a class: all are tagged as ok.")
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if empty:
        console.warning(
            f"No train image carries {', '.join(empty)}; these classes cannot be learned."
        )
    always = [name for name, count in zip(names, counts, strict=True) if count == len(samples)]
    if always:
        raise DataError(
            f"Every train image carries {', '.join(always)}, so a classifier has nothing to "
            "compare with and its maps would mean nothing. Add images without it (a folder `ok/`, "
            "or rows with empty tags), or give boxes, points or scribbles instead of tags."
        )


def _localize_one(sample: Sample, maps: Mapper, stage: StageDir) -> dict[str, Any]:
    scores, probabilities = maps(sample)
    save_scores(stage.file("scores", sample.id, ".npz"), scores)
    return {"probabilities": [round(float(p), 5) for p in probabilities]}

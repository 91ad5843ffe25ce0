"""Adversarial erasing: what a classifier found is erased, and the next one must find more.

Reference: Wei, Feng, Liang, Cheng, Zhao and Yan, "Object Region Mining with Adversarial Erasing: A
Simple Classification to Semantic Segmentation Approach", CVPR 2017 (AE-PSL; the second half,
prohibitive segmentation learning, is `wsseg.segment.losses.prohibitive`). With D_1 the training
images, round t = 1, 2, ...

1. trains a classifier on D_t;
2. mines R_t, where the map of any present class is above 20 % of its maximum (from memory);
3. makes D_{t+1} by giving the pixels of R_t the mean colour of the training images.

A round is one too many when its network can no longer learn, because all evidence is gone: its
final training loss, its mean probability of the present classes, or the erased share of the images
passes a limit. What such a round mined is dropped. The object is the union of all other R_t.

Differences: the paper stops after a fixed number of steps, three; here the rule above stops
earlier where it must. ``fusion: max`` keeps the highest score of all rounds, whose cells above the
threshold are that union, for refiners that want degrees; ``union`` is the paper's. Any backbone
and pooling. Images of all splits go through the same rounds, each erased by its own maps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsseg.atomic import read_jsonl, write_json
from wsseg.data.dataset import Sample
from wsseg.data.image_io import read_mask, write_mask
from wsseg.data.scores import Scores, load_scores, save_scores
from wsseg.data.working import read_working_image
from wsseg.device import best_device
from wsseg.errors import DataError
from wsseg.localize.config import TagLocalizerConfig
from wsseg.localize.erasing import (
    RoundResult,
    StopRule,
    erased,
    joined,
    mean_pixel,
    mined_region,
    reason_to_stop,
)
from wsseg.localize.rounds import (
    Mapper,
    Round,
    RoundData,
    RoundInputs,
    Rounds,
    RoundsLocalizer,
    folder_of,
)
from wsseg.processes import from_main_process

if TYPE_CHECKING:
    from pathlib import Path

    from wsseg.localize.extract import Explainable
    from wsseg.nets.cam_head import ClassMapNet

MINED = "mined"
PIXEL_FILE = "mean_pixel.json"


class AePsl(TagLocalizerConfig):
    """Classifiers of which each must find what the ones before it did not."""

    name: Literal["ae_psl"] = Field(
        "ae_psl", description="Rounds of finding, erasing, and training again."
    )
    rounds: int = Field(
        3,
        ge=1,
        le=10,
        description="Classifiers that are trained at most; each costs what one of cam costs.",
    )
    erase_threshold: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Part of the maximum of a class's map above which pixels are mined and erased.",
    )
    fusion: Literal["max", "union"] = Field(
        "max",
        description="max: the highest score of all rounds, so that a background score of "
        "erase_threshold gives the union of what they mined, and refiners see degrees. union: 1 "
        "where any round mined the class, else 0, as in the paper.",
    )
    max_loss_ratio: float | None = Field(
        2.0,
        gt=0,
        le=1000,
        description="A round whose final training loss is more than this many times that of the "
        "first is dropped and ends the rounds; null: no such rule.",
    )
    min_probability: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="The same for a round whose network gives the classes that are there a lower "
        "probability on average over the training images as it saw them; null: no such rule.",
    )
    max_erased: float | None = Field(
        0.6,
        gt=0,
        le=1,
        description="The same for a round after which a larger share of the training images "
        "would be erased on average; null: no such rule.",
    )


class AePslLocalizer(RoundsLocalizer):
    """The rounds of adversarial erasing."""

    config_class = AePsl

    def __call__(
        self, *, config: AePsl = AePsl(), num_classes: int, load_weights: bool = True
    ) -> ClassMapNet:
        """Make the classifier of a round, in training mode; see `wsseg.localize.tags.cam.cam`."""
        from wsseg.localize.tags.backbone import class_map_net

        return class_map_net(config, num_classes, load_weights=load_weights)

    def numbers(self, config: AePsl) -> Sequence[int]:
        """List the rounds, from 1."""
        return range(1, config.rounds + 1)

    def shown(self, numbers: Sequence[int]) -> int:
        """Choose the first round, whose network knows whole images."""
        return numbers[0]

    def data(self, this: Round) -> RoundData:
        """Make items from the images without what the rounds before mined."""
        if this.number == 1:
            return RoundData(this.inputs)
        return ErasedData(this)

    def after(self, this: Round, net: ClassMapNet) -> dict[str, Any]:
        """Mine the regions of all images and decide whether erasing may go on.

        Args:
            this: The round.
            net: Its network.

        Returns:
            The numbers of `RoundResult`, ``kept``, and ``stop`` where the round went too far.
        """
        stage = this.stage(MINED)
        if not stage.begin():
            from wsseg.localize.inference import prepare

            config: AePsl = this.inputs.config
            ready = prepare(net, config.inference, best_device())
            pixel = erasing_colour(this.inputs)
            stage.for_each(
                this.inputs.mapped,
                lambda sample: _mine(this, ready, sample, pixel),
                title=f"localize: mine, round {this.number}",
            )
            stage.finish()
        facts = _numbers(this)
        results = [_result(one) for one in (*this.before, facts)]
        reason = reason_to_stop(results, _rule(this.inputs.config))
        if reason is None:
            return {**facts, "kept": True}
        return {**facts, "kept": False, "stop": f"{reason}; what it found is dropped"}

    def mapper(self, rounds: Rounds) -> Mapper:
        """Give what joins the maps of the rounds that did not go too far."""
        kept = [
            one.stage(MINED)
            for one, facts in zip(rounds.done, rounds.facts, strict=True)
            if facts["kept"]
        ]
        config: AePsl = rounds.inputs.config
        seen = kept[0].manifest()

        def maps(sample: Sample) -> tuple[Scores, NDArray[np.float32]]:
            found = [load_scores(stage.file("scores", sample.id, ".npz")) for stage in kept]
            probabilities = np.array(seen[sample.id]["probabilities"], np.float32)
            return joined(found, config.fusion, config.erase_threshold), probabilities

        return maps


ae_psl = AePslLocalizer()


class ErasedData(RoundData):
    """Tagged images without what the rounds before mined.

    Args:
        this: The round that is trained, not the first.
    """

    def __init__(self, this: Round) -> None:
        inputs = this.inputs
        self.before = _previous(this)
        self.pixel = erasing_colour(inputs)
        usable = [one for one in inputs.samples if _region_path(self.before, one).is_file()]
        if not usable:
            raise DataError(
                f"No image could be mined in round {this.number - 1}; the reasons are in "
                f"{self.before / 'manifest.jsonl'}."
            )
        super().__init__(inputs, usable)

    def read(self, sample: Sample) -> NDArray[np.uint8]:
        """Read an image and erase what was mined before, (H, W, 3) uint8 RGB."""
        return erased(super().read(sample), _read_region(self.before, sample), self.pixel)


def erasing_colour(inputs: RoundInputs) -> NDArray[np.uint8]:
    """Measure the mean colour of the training images, once per run.

    Args:
        inputs: What all rounds share.

    Returns:
        (3,) uint8 RGB.
    """
    path = inputs.folder / PIXEL_FILE

    def measure() -> list[int]:
        side = inputs.context.max_side_px
        try:
            found = json.loads(path.read_bytes())
            if found["fingerprint"] == inputs.fingerprint:
                return [int(value) for value in found["rgb"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        images = (read_working_image(one.image_path, side) for one in inputs.samples)
        rgb: list[int] = mean_pixel(images).tolist()
        write_json(path, {"fingerprint": inputs.fingerprint, "rgb": rgb})
        return rgb

    return np.array(from_main_process(measure), np.uint8)


def _mine(
    this: Round, net: Explainable, sample: Sample, pixel: NDArray[np.uint8]
) -> dict[str, Any]:
    """Write the maps of an image as this round sees it, and all that is to be erased from it."""
    from wsseg.localize.inference import class_maps

    config: AePsl = this.inputs.config
    image = read_working_image(sample.image_path, this.inputs.context.max_side_px)
    before = np.zeros(image.shape[:2], np.bool_)
    tags, inference = sample.labels.tags, config.inference
    if this.number > 1:
        previous = _previous(this)
        before = _read_region(previous, sample)
        # The classes that the first round found, where the tags are predicted.
        tags = frozenset(load_scores(previous / f"scores/{sample.id}.npz").present)
        inference = inference.model_copy(update={"tags": "oracle"})
    scores, probabilities = class_maps(net, erased(image, before, pixel), tags, inference)
    folder = this.folder / MINED
    save_scores(folder / f"scores/{sample.id}.npz", scores)
    # From the file, so that a run that goes on sees the same 8 bits.
    kept = load_scores(folder / f"scores/{sample.id}.npz")
    region = before | mined_region(kept, config.erase_threshold)
    write_mask(_region_path(folder, sample), region.astype(np.uint8))
    present = [float(probabilities[class_id - 1]) for class_id in kept.present]
    return {
        "probabilities": [round(float(value), 5) for value in probabilities],
        "present": float(np.mean(present)) if present else None,
        "erased": float(region.mean()),
    }


def _numbers(this: Round) -> dict[str, Any]:
    """Average over the training images that have a class."""
    lines = this.stage(MINED).manifest()
    found = [
        lines[one.id]
        for one in this.inputs.samples
        if lines.get(one.id, {}).get("present") is not None
    ]
    if not found:
        raise DataError(
            "No training image has a class that could be mined. With "
            "localize.inference.tags=predicted, lower localize.inference.min_tag_probability."
        )
    log = read_jsonl(this.folder / "metrics.jsonl")
    return {
        "loss": float(log[-1]["loss"]),
        "probability": float(np.mean([line["present"] for line in found])),
        "erased": float(np.mean([line["erased"] for line in found])),
    }


def _result(facts: dict[str, Any]) -> RoundResult:
    return RoundResult(facts["loss"], facts["probability"], facts["erased"])


def _rule(config: AePsl) -> StopRule:
    return StopRule(config.max_loss_ratio, config.min_probability, config.max_erased)


def _previous(this: Round) -> Path:
    return folder_of(this.inputs, this.number - 1) / MINED


def _region_path(folder: Path, sample: Sample) -> Path:
    return folder / f"regions/{sample.id}.png"


def _read_region(folder: Path, sample: Sample) -> NDArray[np.bool_]:
    region: NDArray[np.bool_] = read_mask(_region_path(folder, sample)) > 0
    return region

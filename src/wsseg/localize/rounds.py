"""Localizers that are trained in several rounds, each of which sees what came out of the last one.

A localizer of this kind is registered as an object instead of a function: a `RoundsLocalizer`. It
says which rounds there are, makes the network and the training items of a round, and looks at the
trained network before the next round begins: it clusters features (`wsseg.localize.tags.sc_cam`)
or erases what was found (`wsseg.localize.tags.ae_psl`). The maps come from the network of one
round, or from what all rounds left.

```
training/round_N/            the training of round N, see `wsseg.training.folder`
training/round_N/NAME/       results of images between rounds: a `StageDir` of its own
training/round_N/round.json  facts about the round, once all of it is there
```

A round with facts is not done again, a training continues from its checkpoint, and what is
computed between rounds continues image by image, so that a run that was killed at any moment comes
to the same maps.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsseg import console, registry
from wsseg.atomic import write_json
from wsseg.context import RunContext
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.scores import Scores
from wsseg.device import best_device
from wsseg.localize.aligned import AlignedMap, aligned_maps
from wsseg.localize.config import LocalizerConfig, TagLocalizerConfig
from wsseg.localize.data import TagData
from wsseg.processes import from_main_process
from wsseg.rundir import StageDir, fingerprint

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet

Mapper = Callable[[Sample], tuple[Scores, NDArray[np.float32]]]

FACTS_FILE = "round.json"
# Draws of different rounds are independent; see `wsseg.training.seeds`.
_ROUND_STREAM = 21


@dataclass(frozen=True)
class RoundInputs:
    """What all rounds of a training share.

    Args:
        dataset: The data set.
        samples: The images that train: those of the train split with tags.
        mapped: The images of all splits that get maps in the end.
        config: The localizer's settings, of the method's own class.
        context: Settings of the run.
        folder: Where the rounds go.
        fingerprint: Of the localize stage.
    """

    dataset: Dataset
    samples: tuple[Sample, ...]
    mapped: tuple[Sample, ...]
    config: Any
    context: RunContext
    folder: Path
    fingerprint: str


@dataclass(frozen=True)
class Round:
    """One round.

    Args:
        number: Its number.
        is_last: Whether none follows, unless an earlier one ends the training.
        inputs: What all rounds share.
        before: The facts of the rounds before, in their order.
    """

    number: int
    is_last: bool
    inputs: RoundInputs
    before: tuple[dict[str, Any], ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of this round."""
        return folder_of(self.inputs, self.number)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that this round depends on."""
        return fingerprint(self.inputs.fingerprint, self.number, list(self.before))

    @property
    def seed(self) -> int:
        """Seed of this round's weights, order and augmentation."""
        from wsseg.training.seeds import derive_seed

        return derive_seed(self.inputs.context.seed, self.number, stream=_ROUND_STREAM)

    def stage(self, name: str) -> StageDir:
        """Name a folder for results of images, which is continued image by image.

        Args:
            name: Of the folder inside of this round's.
        """
        return StageDir(self.folder / name, fingerprint(self.fingerprint, name))

    def facts(self) -> dict[str, Any] | None:
        """Read the facts of this round, or None where it is not complete."""
        try:
            found = json.loads((self.folder / FACTS_FILE).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("fingerprint") != self.fingerprint:
            return None
        facts = found.get("facts")
        return facts if isinstance(facts, dict) else None

    def complete(self, facts: dict[str, Any]) -> None:
        """Write the facts of this round, which marks it as complete."""
        content = {"fingerprint": self.fingerprint, "facts": facts}
        from_main_process(lambda: write_json(self.folder / FACTS_FILE, content))


class RoundData(TagData):
    """The items that an ordinary classifier is trained on in a round.

    Args:
        inputs: What all rounds share.
        samples: The images; None: all that train.
    """

    def __init__(self, inputs: RoundInputs, samples: Sequence[Sample] | None = None) -> None:
        super().__init__(
            inputs.samples if samples is None else samples,
            inputs.dataset.classes.num_classes,
            inputs.config.augment,
            in_channels=1 if inputs.config.grey else 3,
            max_side_px=inputs.context.max_side_px,
        )


class RoundsLocalizer(ABC):
    """A localizer from tags that is trained in several rounds.

    Attributes:
        config_class: Class of its settings.
        passing: Names of `Round.stage` folders that nobody reads once the round has its facts; they
            are removed then.
    """

    config_class: ClassVar[type[TagLocalizerConfig]]
    passing: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, *, config: Any, num_classes: int, load_weights: bool = True) -> ClassMapNet:
        """Make the network of the round whose network is the localizer's, in training mode."""

    @abstractmethod
    def numbers(self, config: Any) -> Sequence[int]:
        """List the numbers of the rounds in their order."""

    @abstractmethod
    def after(self, this: Round, net: ClassMapNet) -> dict[str, Any]:
        """Look at the network of a round once it is trained; runs in the first process only.

        Args:
            this: The round. What is computed per image goes into `Round.stage`.
            net: Its network, in evaluation mode.

        Returns:
            Facts that later rounds may need (`Round.before`), JSON-able. A text under ``stop``
            says why no round follows.
        """

    def check(self, dataset: Dataset, *, config: Any) -> None:  # noqa: B027 - most need nothing
        """Refuse, before the run starts, data that the rounds can do nothing with.

        Raises:
            DataError: Saying what is missing.
        """

    def network(self, this: Round) -> ClassMapNet:
        """Make the network that a round starts from, its regularisers attached."""
        from wsseg.localize.regularise.attach import make_localizer

        return make_localizer(this.inputs.config, this.inputs.dataset.classes.num_classes)

    def data(self, this: Round) -> RoundData:
        """Make the training items of a round."""
        return RoundData(this.inputs)

    def shown(self, numbers: Sequence[int]) -> int:
        """Choose the round whose network is the localizer's, among those that were done."""
        return numbers[-1]

    def mapper(self, rounds: Rounds) -> Mapper | None:  # noqa: ARG002 - most use one network
        """Give what makes the scores of an image from what all rounds left.

        Args:
            rounds: The rounds that were done.

        Returns:
            From one of the mapped images to its scores and the probabilities (C,) of all classes;
            it raises `DataError` when a round left nothing for the image. None where the maps are
            those of the network of `shown`.
        """
        return None


@dataclass(frozen=True)
class Rounds:
    """The rounds that were done.

    Args:
        method: The localizer.
        inputs: What all rounds share.
        done: The rounds, in their order.
        facts: Their facts.
    """

    method: RoundsLocalizer
    inputs: RoundInputs
    done: tuple[Round, ...]
    facts: tuple[dict[str, Any], ...]

    def network(self) -> ClassMapNet:
        """Load the network that stands for the localizer, in evaluation mode."""
        number = self.method.shown([one.number for one in self.done])
        return _trained(self.method, next(one for one in self.done if one.number == number))

    def mapper(self) -> Mapper | None:
        """See `RoundsLocalizer.mapper`."""
        return self.method.mapper(self)


def folder_of(inputs: RoundInputs, number: int) -> Path:
    """Name the folder of a round."""
    return inputs.folder / f"round_{number}"


def rounds_method(config: LocalizerConfig) -> RoundsLocalizer | None:
    """Find the localizer of these settings if it is trained in rounds.

    Args:
        config: Settings of any localizer.

    Returns:
        The localizer, or None where one training is all there is.
    """
    method = registry.load("localizers", config.name)
    return method if isinstance(method, RoundsLocalizer) else None


def check_rounds(config: LocalizerConfig, dataset: Dataset) -> None:
    """Ask a localizer with rounds what it needs, before a run starts; nothing for all others.

    Args:
        config: The localizer's settings.
        dataset: The data set.

    Raises:
        DataError: When the data lacks what the rounds need.
    """
    method = rounds_method(config)
    if method is not None:
        method.check(dataset, config=config)


def train_rounds(method: RoundsLocalizer, inputs: RoundInputs) -> Rounds:
    """Do all rounds, or those that are missing.

    Args:
        method: The localizer.
        inputs: Data, settings and folder.

    Returns:
        The rounds; fewer than planned where a round said that none should follow.

    Raises:
        DataError: When a round lacks what it needs.
        OutputError: When results cannot be written; what was done is kept.
    """
    numbers = list(method.numbers(inputs.config))
    done: list[Round] = []
    facts: list[dict[str, Any]] = []
    for number in numbers:
        this = Round(number, number == numbers[-1], inputs, tuple(facts))
        found = this.facts()
        if found is None:
            _do(method, this)
            found = this.facts()
        if found is None:
            raise ValueError(f"{this.folder / FACTS_FILE} was written but cannot be read.")
        # Also after a kill between the facts and here.
        for name in method.passing:
            from_main_process(this.stage(name).remove)
        done.append(this)
        facts.append(found)
        if found.get("stop"):
            break
    return Rounds(method, inputs, tuple(done), tuple(facts))


def _do(method: RoundsLocalizer, this: Round) -> None:
    console.info(f"localize: round {this.number}")
    net = _trained(method, this)
    facts = from_main_process(lambda: method.after(this, net))
    this.complete(facts)
    if facts.get("stop"):
        console.info(f"localize: no round follows round {this.number}: {facts['stop']}")


def _trained(method: RoundsLocalizer, this: Round) -> ClassMapNet:
    """Train the network of a round, or load it where it was trained before."""
    from wsseg.training.loop import fit
    from wsseg.training.seeds import seed_everything

    inputs = this.inputs
    data = method.data(this)
    seed_everything(this.seed)
    net = method.network(this)
    if inputs.config.class_weights:
        net.set_class_weights(data.tags)
    if this.facts() is None:
        data.aligned = _aligned_maps(net, inputs)
    result = fit(
        net,
        data,
        inputs.config.training,
        this.folder,
        seed=this.seed,
        title=f"localize: train, round {this.number}",
        fingerprint=this.fingerprint,
    )
    return result.module.eval()


def _aligned_maps(net: ClassMapNet, inputs: RoundInputs) -> dict[str, AlignedMap]:
    """Make the maps that the network or its regularisers need beside the images."""
    from wsseg.cues.protocol import CueInputs

    context = inputs.context
    cues = CueInputs(
        dataset=inputs.dataset,
        folder=context.cues_dir or inputs.folder / "cues",
        seed=context.seed,
        device=best_device(),
        max_side_px=context.max_side_px,
    )
    found = aligned_maps(net, cues)
    for source in found.values():
        from_main_process(partial(source.prepare, inputs.samples))
    return found

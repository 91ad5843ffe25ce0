"""What a refiner is: a function from Scores to Scores, with or without a look at the whole data.

A plain refiner is a function `refiner(image, scores, *, config, context) -> Scores`. A refiner
that must see the data set first (a threshold, a trained affinity network) is an object that can
be called the same way and has `fit(inputs, *, config) -> state`. The stage calls `fit` once,
writes the state, which is JSON-able, next to the scores, and hands it back in
`RefineContext.state` for every image. Networks go into `FitInputs.folder` as safetensors files;
the state names them relative to that folder.

Rules for every refiner:

* the result has the classes of the input, in the same order, and row 0 is the background;
* values are float32 in [0, 1], at the resolution of the input or of the image;
* image and input scores are not changed, and the same input gives the same result;
* an image without classes (K = 1) is background everywhere: row 0 is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from wsseg.config import MethodConfig
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.scores import Scores
from wsseg.errors import DataError

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet


@dataclass
class RefineContext:
    """What a refiner may know besides the image and its scores.

    Args:
        sample_id: Id of the sample, for messages.
        tags: Class ids that a person gave, empty for an image without classes, None when it is
            not tagged.
        device: Where torch code runs, such as ``"cpu"`` or ``"cuda:0"``.
        cue: (H, W) class-agnostic map of the image, such as saliency in [0, 1]; None where there
            is none.
        state: What `FittedRefiner.fit` returned; empty for plain refiners.
        folder: The stage's folder, where `fit` put its files; None outside of a run.
        cache: Reused between refiners of the same image, such as the lattice of the CRF. Start
            keys with the name of the method and put every setting that matters into them.
        shared: Reused between all images of one stage, such as a loaded network.
        localizer: Loads the run's trained localizer, in evaluation mode on the CPU; None where
            there is none. Keep what it returns in `shared`.
        cues_dir: Where maps of cues and segments are kept for all stages; None: nowhere.
        facts: What the manifest says about this image (JSON-able); the refiner adds to it.
        knows_background: Whether row 0 is the background that a localizer from points, scribbles or
            boxes knew, and a pixel without any evidence is unknown; False behind maps of tags.
    """

    sample_id: str = ""
    tags: frozenset[int] | None = None
    device: str = "cpu"
    cue: np.ndarray | None = None
    state: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    cache: dict[Hashable, Any] = field(default_factory=dict)
    shared: dict[Hashable, Any] = field(default_factory=dict)
    localizer: Callable[[], ClassMapNet] | None = None
    cues_dir: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    knows_background: bool = False


@dataclass(frozen=True)
class FitInputs:
    """What a refiner sees of the data set before it refines.

    Iterating gives ``(sample, scores)`` and reads one file at a time; it can be done again.

    Args:
        dataset: The data set.
        samples: Samples whose scores exist, of all splits.
        load: Reads the scores of a sample.
        folder: The stage's folder, for checkpoints and metrics.
        seed: Seed of everything random.
        device: Where torch code runs.
        allow_masks: Whether ground-truth masks may tune something.
        max_side_px: Images are read with their longer side reduced to this; None as they are.
            Read them with `wsseg.data.working.read_working_image`, which is what scores fit.
        fingerprint: Names what a training depends on: the scores and the settings, or those that
            `FittedRefiner` calls training settings. A training that is found under another one
            starts anew.
        scores_fingerprint: Names the scores alone, for what is made of them before the training.
        localizer: Loads the run's trained localizer, in evaluation mode on the CPU; None where
            there is none. Networks that learn from its maps start from its weights.
        knows_background: As in `RefineContext`.
    """

    dataset: Dataset
    samples: tuple[Sample, ...]
    load: Callable[[Sample], Scores]
    folder: Path
    seed: int = 0
    device: str = "cpu"
    allow_masks: bool = False
    max_side_px: int | None = None
    fingerprint: str = ""
    scores_fingerprint: str = ""
    localizer: Callable[[], ClassMapNet] | None = None
    knows_background: bool = False

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[tuple[Sample, Scores]]:
        for sample in self.samples:
            yield sample, self.load(sample)

    def split(self, name: str) -> FitInputs:
        """Keep the samples of one split.

        Args:
            name: ``"train"``, ``"val"`` or ``"test"``.
        """
        return self.of(tuple(sample for sample in self.samples if sample.split == name))

    def of(self, samples: tuple[Sample, ...]) -> FitInputs:
        """Keep only the given samples."""
        return replace(self, samples=samples)


class Refiner(Protocol):
    """A function that turns Scores into better Scores."""

    def __call__(
        self,
        image: np.ndarray,
        scores: Scores,
        *,
        config: Any = ...,
        context: RefineContext | None = None,
    ) -> Scores:
        """Refine the scores of one image.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            scores: Scores of that image; not changed.
            config: The refiner's own frozen settings.
            context: What else is known; None means nothing is.

        Returns:
            Scores with the same classes, at the resolution of the input or of the image.
        """
        ...


@runtime_checkable
class FittedRefiner(Protocol):
    """A refiner that looks at the whole data set first.

    It may have these methods:

    * ``check(dataset, *, config, allow_masks)`` raises before the run starts what `fit` would
      raise hours later;
    * ``check_localizer(network, *, config)`` does so for the network of the run's localizer,
      which is not trained yet; asked where the settings say that they need it;
    * ``training_settings(config)`` returns, JSON-able, the settings that `fit` depends on. When
      others change, the folders ``training`` and ``confident`` of the stage are kept, and
      `FitInputs.fingerprint` stays the same. Such a refiner never looks at masks in `fit`, and
      what it writes into these folders tells by a fingerprint of its own whether it still holds,
      as `wsseg.training.loop.fit` and `wsseg.rundir.StageDir` do.

    Attributes:
        config_class: The class of its settings.
    """

    config_class: type[MethodConfig]

    def fit(self, inputs: FitInputs, *, config: Any) -> dict[str, Any]:
        """Learn or choose what `__call__` needs.

        Args:
            inputs: The data set with its scores.
            config: The refiner's own frozen settings.

        Returns:
            JSON-able state. ``tuned_on_masks`` says whether ground-truth masks were used.
        """
        ...

    def __call__(
        self,
        image: np.ndarray,
        scores: Scores,
        *,
        config: Any = ...,
        context: RefineContext | None = None,
    ) -> Scores:
        """Refine the scores of one image; see `Refiner`."""
        ...


def check_image(image: np.ndarray, scores: Scores) -> None:
    """Check that an image is RGB and belongs to the scores.

    Raises:
        DataError: When it is no (H, W, 3) uint8 array of the scores' image size.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"The image has shape {image.shape} and type {image.dtype}; expected (H, W, 3) uint8."
        )
    if image.shape[:2] != scores.size:
        raise DataError(
            f"The image is {image.shape[1]} x {image.shape[0]} px, but its scores were made for "
            f"{scores.size[1]} x {scores.size[0]} px (width x height). Run localize again if the "
            "image has changed."
        )

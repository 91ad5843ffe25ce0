"""Anomaly: how far every patch is from the patches of images tagged ok; saliency for defects.

Only images of the train split that are tagged ok (no class) are learned from. Features are cells of
a backbone: that of the run's classifier, an untrained or a pre-trained one. `padim` keeps a
Gaussian per position, for parts that always lie alike; `patchcore` keeps a small set of typical
patches, wherever they were. A fifth of the ok images is held out. The distances d of its pixels
tell what is normal: with m their median and q their 99.5 % quantile,

    map = 1 - 2^( -(d - m) / (q - m) ),   0 where d < m

so that 0.5 is a distance that one normal pixel in two hundred exceeds. References: see
`wsseg.cues.anomaly_models`.

Differences from the papers: any backbone; features are drawn at random for both methods; patches
are gathered evenly from all images up to a fixed number, so that memory does not grow with the
data; the calibration is our own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsseg.atomic import atomic_path
from wsseg.cues.anomaly_config import Anomaly
from wsseg.cues.protocol import CueConfig, CueContext, CueInputs, CueMap, check_rgb
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.working import read_working_image
from wsseg.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from wsseg.cues.anomaly_features import PatchFeatures

__all__ = ["Anomaly", "AnomalyCue", "anomaly"]

MODEL_FILE = "normal.safetensors"
_IMAGE_STREAM, _PATCH_STREAM, _PIXEL_STREAM = 12, 13, 14
# Pixels of a held-out image that enter the calibration.
_PIXELS_PER_IMAGE = 5000


class AnomalyCue:
    """Learns what normal patches look like, then measures how far others are."""

    config_class: type[CueConfig] = Anomaly

    def check(self, dataset: Dataset, *, config: Anomaly) -> None:
        """Look for ok images, and make the network once where it is not the run's.

        Args:
            dataset: The data set.
            config: Which network.

        Raises:
            DataError: When there are fewer than two ok images to learn from.
            RecipeError: When the backbone does not exist or cannot do what is asked.
            MissingWeightsError: When its weights cannot be had or do not fit.
        """
        normal_samples(dataset)
        if not config.needs_localizer:
            from wsseg.cues.anomaly_features import load_features

            load_features(config, None)

    def fit(self, inputs: CueInputs, folder: Path, *, config: Anomaly) -> dict[str, Any]:
        """Learn from the ok images of the train split.

        Args:
            inputs: The data set, seed, device and the run's localizer.
            folder: Where the model is written.
            config: Method and network.

        Returns:
            JSON-able: ``median`` and ``quantile`` of normal distances, and ``notes``.

        Raises:
            DataError: When there are fewer than two ok images, or one cannot be read.
            RecipeError: When the network cannot do what is asked.
            MissingWeightsError: When its weights cannot be had.
            OutputError: When the model cannot be written.
        """
        from wsseg.cues.anomaly_features import load_features

        learn, hold = _shares(normal_samples(inputs.dataset), config, inputs.seed)
        features = load_features(config, inputs.localizer, seed=inputs.seed, device=inputs.device)
        model = _learn(learn, features, inputs, config)
        _save(folder / MODEL_FILE, model)
        median, quantile = _normal_distances(hold, features, model, inputs, config)
        return {
            "median": median,
            "quantile": quantile,
            "notes": [
                f"{config.method} learned from {len(learn)} images tagged ok, calibrated on "
                f"{len(hold)} others"
            ],
        }

    def __call__(
        self,
        image: np.ndarray,
        *,
        config: Anomaly = Anomaly(),
        context: CueContext | None = None,
    ) -> CueMap:
        """Measure how far the patches of an image are from normal ones.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            config: Method and network.
            context: ``context.state`` is what `fit` returned, ``context.folder`` where its files
                are.

        Returns:
            (H, W) float32 in [0, 1]; 0.5 where ``config.normal_quantile`` of normal pixels are
            nearer.

        Raises:
            RecipeError: When nothing was learned.
        """
        check_rgb(image)
        if context is None or context.folder is None or "median" not in context.state:
            raise RecipeError("The cue `anomaly` must learn from ok images first: call its fit.")
        features, model = _loaded(config, context)
        distances = _distance_map(image, features, model, config)
        return calibrated_map(distances, context.state)


anomaly = AnomalyCue()


def normal_samples(dataset: Dataset) -> list[Sample]:
    """List the images that say what is normal: tagged ok, in the train split.

    Args:
        dataset: The data set.

    Raises:
        DataError: When there are fewer than two.
    """
    found = [s for s in dataset.split("train") if s.labels.tags == frozenset()]
    if len(found) < 2:
        elsewhere = sum(s.labels.tags == frozenset() for s in dataset.samples) - len(found)
        hint = f" {elsewhere} more lie in other splits." if elsewhere else ""
        raise DataError(
            f"The cue `anomaly` needs at least two train images tagged ok, and there are "
            f"{len(found)}.{hint} Add images without any class (a folder `ok/`, or rows with empty "
            "tags), or use another cue, such as rbd."
        )
    return found


def calibrated_map(distances: np.ndarray, state: dict[str, Any]) -> CueMap:
    """Turn distances into values from 0 to 1 by what was found on held-out ok images.

    Args:
        distances: (H, W).
        state: ``median`` and ``quantile``.
    """
    from wsseg.cues.anomaly_models import calibrated

    return calibrated(distances, float(state["median"]), float(state["quantile"]))


def _shares(samples: list[Sample], config: Anomaly, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Draw the images to learn from and those to hold out, at least one each."""
    from wsseg.training.seeds import generator

    order = generator(seed, stream=_IMAGE_STREAM).permutation(len(samples))[: config.max_images]
    num_held = min(max(1, round(config.held_out_frac * len(order))), len(order) - 1)
    drawn = [samples[index] for index in order]
    return drawn[num_held:], drawn[:num_held]


def _learn(
    samples: list[Sample], features: PatchFeatures, inputs: CueInputs, config: Anomaly
) -> dict[str, Tensor]:
    """Gather the patches of normal images into a model."""
    from wsseg import console
    from wsseg.cues.anomaly_models import Gaussians

    gaussians = Gaussians()
    patches: list[Tensor] = []
    with console.progress(len(samples), "cue: normal images") as shown:
        for number, sample in enumerate(samples):
            cells = features(read_working_image(sample.image_path, inputs.max_side_px))
            if config.method == "padim":
                gaussians.add(cells)
            else:
                quota = max(1, config.max_patches // len(samples))
                patches.append(_drawn(cells, quota, inputs.seed, number))
            shown.advance()
    if config.method == "padim":
        mean, factor = gaussians.finished()
        return {"mean": mean, "factor": factor}
    return {"bank": _bank(patches, config)}


def _drawn(cells: Tensor, quota: int, seed: int, number: int) -> Tensor:
    """Draw cells of one image, (n, D)."""
    import torch

    from wsseg.training.seeds import generator

    points = cells.reshape(-1, cells.shape[2])
    drawn = generator(seed, number, stream=_PATCH_STREAM).permutation(len(points))[:quota]
    return points[torch.from_numpy(np.sort(drawn))]


def _bank(patches: list[Tensor], config: Anomaly) -> Tensor:
    import torch

    from wsseg.cues.anomaly_models import coreset

    gathered = torch.cat(patches)
    count = max(1, round(config.coreset_frac * len(gathered)))
    return gathered[coreset(gathered, count)]


def _distance_map(
    image: np.ndarray, features: PatchFeatures, model: dict[str, Tensor], config: Anomaly
) -> np.ndarray:
    """Compute the distance of every pixel from normal, (H, W) float32."""
    from wsseg.cues.anomaly_features import to_pixels
    from wsseg.cues.anomaly_models import gaussian_distances, nearest_distances

    cells = features(image)
    if config.method == "padim":
        distances = gaussian_distances(cells, model["mean"], model["factor"])
    else:
        distances = nearest_distances(cells, model["bank"])
    blurred = to_pixels(distances.numpy(), features.size_of(image), config.sigma_px)
    return to_pixels(blurred, (image.shape[0], image.shape[1]), 0)


def _normal_distances(
    samples: list[Sample],
    features: PatchFeatures,
    model: dict[str, Tensor],
    inputs: CueInputs,
    config: Anomaly,
) -> tuple[float, float]:
    """Measure median and high quantile of the distances in held-out normal images."""
    from wsseg.training.seeds import generator

    drawn = []
    for number, sample in enumerate(samples):
        image = read_working_image(sample.image_path, inputs.max_side_px)
        flat = _distance_map(image, features, model, config).reshape(-1)
        rng = generator(inputs.seed, number, stream=_PIXEL_STREAM)
        drawn.append(rng.choice(flat, min(len(flat), _PIXELS_PER_IMAGE), replace=False))
    pooled = np.concatenate(drawn)
    return float(np.median(pooled)), float(np.quantile(pooled, config.normal_quantile))


def _save(path: Path, model: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({key: value.contiguous() for key, value in model.items()}, temporary)


def _loaded(config: Anomaly, context: CueContext) -> tuple[PatchFeatures, dict[str, Tensor]]:
    """Load network and model once for all images."""
    key = ("anomaly", config, context.folder)
    if key not in context.shared:
        from safetensors.torch import load_file

        from wsseg.cues.anomaly_features import load_features

        if context.folder is None:
            raise RecipeError("The cue `anomaly` has no folder to load its model from.")
        path = context.folder / MODEL_FILE
        if not path.is_file():
            raise DataError(f"{path} is missing. Delete the folder {path.parent} and run again.")
        features = load_features(
            config, context.localizer, seed=context.seed, device=context.device
        )
        context.shared[key] = (features, load_file(path))
    loaded: tuple[PatchFeatures, dict[str, Tensor]] = context.shared[key]
    return loaded

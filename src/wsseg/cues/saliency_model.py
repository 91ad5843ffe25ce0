"""Saliency by a segmentation network of the package ``transformers``.

Any model that its auto classes for semantic, image or universal segmentation load, from the hub or
from a local folder with ``config.json``, weights as safetensors, and ``preprocessor_config.json``.
Nothing is loaded by pickle and no code of a repository is run. What counts as foreground:

* one output channel: sigmoid of it;
* two: the softmax of the second;
* more: the sum of the softmax over the labels named in ``foreground``;
* networks that classify masks (MaskFormer and its successors): per mask, the probability of these
  labels times the mask, summed over the masks and cut at 1.

Such networks were trained on masks: state the outside knowledge (I+S) in the recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from wsseg.cues.protocol import CueConfig, CueContext, CueMap, check_rgb
from wsseg.data.dataset import Dataset
from wsseg.errors import (
    MissingExtraError,
    MissingWeightsError,
    RecipeError,
    WssegError,
    unknown_name,
)
from wsseg.outside import NetworkPath

if TYPE_CHECKING:
    from torch import Tensor

_AUTO_CLASSES = (
    "AutoModelForSemanticSegmentation",
    "AutoModelForImageSegmentation",
    "AutoModelForUniversalSegmentation",
)


class Model(CueConfig):
    """Settings of the cue `model`."""

    name: Literal["model"] = Field(
        "model", description="Which cue: a segmentation network of `transformers`."
    )
    model: NetworkPath = Field(
        min_length=1,
        description="Local folder of the network, or its name on the Hugging Face hub.",
    )
    foreground: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Names of the network's labels that count as foreground; null for networks "
        "with one or two outputs.",
    )

    @property
    def origin(self) -> str:
        """Where the maps come from."""
        return f"maps of the trained network {'/'.join(Path(self.model).parts[-2:])}"


class ModelCue:
    """Runs a segmentation network."""

    config_class: type[CueConfig] = Model

    def check(self, dataset: Dataset, *, config: Model) -> None:  # noqa: ARG002
        """Load the network once, so that what is missing is known at the start.

        Args:
            dataset: Not used.
            config: Which network.

        Raises:
            MissingExtraError: When ``transformers`` is not installed.
            MissingWeightsError: When the network is neither there nor reachable.
            RecipeError: When it is no segmentation network, or lacks a label.
        """
        _Network(config, "cpu")

    def __call__(
        self, image: np.ndarray, *, config: Model, context: CueContext | None = None
    ) -> CueMap:
        """Compute the probability of foreground.

        Args:
            image: (H, W, 3) uint8 RGB; not changed.
            config: Which network and which of its labels.
            context: Device, and where the loaded network is kept.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            MissingExtraError: When ``transformers`` is not installed.
            MissingWeightsError: When the network is neither there nor reachable.
            RecipeError: When it is no segmentation network, or lacks a label.
        """
        check_rgb(image)
        context = context or CueContext()
        key = ("model", config, context.device)
        if key not in context.shared:
            context.shared[key] = _Network(config, context.device)
        network: _Network = context.shared[key]
        return network(image)


model = ModelCue()


class _Network:
    """A loaded network with its preprocessing."""

    def __init__(self, config: Model, device: str) -> None:
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("The saliency cue `model`", "saliency") from error
        _check_folder(config.model)
        try:
            settings = transformers.AutoConfig.from_pretrained(config.model)
            auto = _auto_class(transformers, settings, config.model)
            self.processor = transformers.AutoImageProcessor.from_pretrained(config.model)
            network = auto.from_pretrained(config.model, use_safetensors=True)
        except WssegError:
            raise
        except Exception as error:  # transformers raises many kinds; all mean the same here
            raise _cannot_load(config.model, error) from error
        self.device = device
        self.network = network.eval().requires_grad_(False).to(device)
        self.chosen = _chosen_labels(settings, config)

    def __call__(self, image: np.ndarray) -> CueMap:
        import torch
        import torch.nn.functional as F

        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            found = self._foreground(self.network(**inputs))
            full = F.interpolate(
                found[None, None].float(), image.shape[:2], mode="bilinear", align_corners=False
            )
        values: CueMap = full[0, 0].clamp(0, 1).cpu().numpy()
        return values

    def _foreground(self, outputs: Any) -> Tensor:
        """Compute the probability of foreground, (h, w)."""
        import torch

        chosen = self.chosen
        if getattr(outputs, "masks_queries_logits", None) is not None:
            # The last class of these networks is "no object".
            classes = outputs.class_queries_logits[0].softmax(dim=-1)[:, :-1]
            weights = classes[:, self._needed(chosen, classes.shape[1])].sum(dim=1)
            masks = outputs.masks_queries_logits[0].sigmoid()
            return torch.einsum("q,qhw->hw", weights, masks).clamp(max=1)
        logits = outputs.logits[0]
        if len(logits) == 1:
            return logits[0].sigmoid()
        if len(logits) == 2 and chosen is None:
            return logits.softmax(dim=0)[1]
        return logits.softmax(dim=0)[self._needed(chosen, len(logits))].sum(dim=0)

    def _needed(self, chosen: list[int] | None, count: int) -> list[int]:
        if chosen is None and count == 1:
            return [0]
        if chosen is None:
            names = ", ".join(str(name) for name in self.network.config.id2label.values())
            raise RecipeError(
                f"The network of the cue `model` has {count} labels; name those that are "
                f"foreground as `foreground`. It has: {names}."
            )
        return chosen


def _check_folder(name: str) -> None:
    """Refuse a folder that holds no network, and a path that does not exist."""
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if path.is_dir():
        missing = [
            f for f in ("config.json", "preprocessor_config.json") if not (path / f).is_file()
        ]
        if missing:
            raise MissingWeightsError(
                f"The folder {name} is no network of transformers: it has no "
                f"{' and no '.join(missing)}. Save network and image processor into it with "
                "save_pretrained, or name a network on the hub."
            )
    elif looks_like_path or path.exists():
        raise MissingWeightsError(
            f"{name} is no folder. Give the folder of a network that save_pretrained wrote, or the "
            "name of one on the Hugging Face hub."
        )


def _auto_class(transformers: Any, settings: Any, name: str) -> Any:
    for auto_name in _AUTO_CLASSES:
        auto = getattr(transformers, auto_name)
        if type(settings) in auto._model_mapping:
            return auto
    raise RecipeError(
        f"{name} is a {settings.model_type} network, which is no segmentation network. Name one "
        "for semantic, image or universal segmentation."
    )


def _chosen_labels(settings: Any, config: Model) -> list[int] | None:
    if config.foreground is None:
        return None
    known = {str(label): int(number) for number, label in settings.id2label.items()}
    unknown = [name for name in config.foreground if name not in known]
    if unknown:
        raise RecipeError(unknown_name(f"label of {config.model}", unknown[0], known))
    return sorted({known[name] for name in config.foreground})


def _cannot_load(name: str, error: Exception) -> MissingWeightsError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return MissingWeightsError(
        f"The network {name} cannot be loaded ({reason}). On a machine without network, copy its "
        "folder (config.json, preprocessor_config.json, model.safetensors) and name the folder, or "
        "use a cue without weights, such as rbd."
    )

"""SAM and its successors as loaded by ``transformers``: encoder once per image, decoder per prompt.

What differs between the families is here and nowhere else: SAM and SAM-HQ enlarge the image to a
longest side and pad it, the later ones stretch it to a square; SAM has one embedding, SAM-HQ a
second one of an early layer, the later ones three of different sizes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsseg.atomic import atomic_path
from wsseg.cues.segments_files import DAMAGE
from wsseg.errors import MissingExtraError, RecipeError, WssegError
from wsseg.nets.transformers_folder import cannot_load, check_network_folder

if TYPE_CHECKING:
    from torch import Tensor

_REMEDY = (
    "On a machine without network, copy its folder (config.json, processor_config.json or "
    "preprocessor_config.json, model.safetensors) and name the folder, or use segments without "
    "weights: superpixels."
)
# Embeddings are kept in 16 bits, unless they do not fit.
_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True, eq=False)
class Embedded:
    """An image that went through the encoder.

    Args:
        levels: The embeddings, (1, D, h, w) each, the first layer's (1, h, w, D) of SAM-HQ last.
        size: (H, W) of the image.
        shown_size: (H', W') of the image as the network saw it.
        input_size: (H'', W'') of the network's input; larger where the image is padded.
    """

    levels: tuple[Tensor, ...]
    size: tuple[int, int]
    shown_size: tuple[int, int]
    input_size: tuple[int, int]

    def enlarged(self, low: Tensor) -> Tensor:
        """Bring logits (M, h, w) of the network's input to the image, (M, H, W)."""
        import torch.nn.functional as F

        logits = low[None].float()
        if self.shown_size != self.input_size:
            logits = F.interpolate(logits, self.input_size, mode="bilinear", align_corners=False)
            logits = logits[..., : self.shown_size[0], : self.shown_size[1]]
        return F.interpolate(logits, self.size, mode="bilinear", align_corners=False)[0]


class SamNetwork:
    """A loaded network with its preprocessing.

    Args:
        name: Local folder, or name on the hub.
        device: Where it runs.

    Attributes:
        digest: Hash of its weights and of how images are prepared for it.

    Raises:
        MissingExtraError: When ``transformers`` is not installed.
        MissingWeightsError: When the network is neither there nor reachable.
        RecipeError: When it takes no points and boxes.
    """

    def __init__(self, name: str, device: str) -> None:
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("The segments backend `sam`", "sam") from error
        check_network_folder(name)
        try:
            settings = transformers.AutoConfig.from_pretrained(name)
            auto = transformers.AutoModelForMaskGeneration
            if type(settings) not in auto._model_mapping:
                raise RecipeError(
                    f"{name} is a {settings.model_type} network, which takes no points and boxes. "
                    "Name a SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3 tracker network."
                )
            self._processor = transformers.AutoProcessor.from_pretrained(name).image_processor
            network = auto.from_pretrained(name, use_safetensors=True)
        except WssegError:
            raise
        except Exception as error:  # transformers raises many kinds; all mean the same here
            raise cannot_load(name, error, _REMEDY) from error
        self.device = device
        self.digest = _digest(network, self._processor)
        self.network = network.eval().requires_grad_(False).to(device)

    def embedded(self, image: np.ndarray, folder: Path | None = None) -> Embedded:
        """Run the encoder on an image, or read what it gave before.

        Args:
            image: (H, W, 3) uint8 RGB.
            folder: Where embeddings are kept, named by image and weights; None: nowhere.

        Returns:
            The embedding.

        Raises:
            OutputError: When it cannot be written.
        """
        import torch

        inputs = self._processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"]
        path = None if folder is None else folder / f"{image_digest(image)}-{self.digest[:12]}.npz"
        arrays = None if path is None else _read(path)
        if arrays is None:
            with torch.inference_mode():
                found = self.network.get_image_embeddings(pixels.to(self.device))
            # What is used now is what will be read later: the same answers in a continued run.
            arrays = [_halved(level.float().cpu().numpy()) for level in _levels(found)]
            if path is not None:
                with atomic_path(path) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, *arrays)
        height, width = image.shape[:2]
        input_size = (int(pixels.shape[2]), int(pixels.shape[3]))
        shown = (
            inputs["reshaped_input_sizes"][0] if "reshaped_input_sizes" in inputs else input_size
        )
        return Embedded(
            tuple(torch.from_numpy(a.astype(np.float32)).to(self.device) for a in arrays),
            (height, width),
            (int(shown[0]), int(shown[1])),
            input_size,
        )

    def decode(
        self,
        embedded: Embedded,
        points: npt.NDArray[np.float64] | None,
        labels: npt.NDArray[np.int64] | None,
        boxes: npt.NDArray[np.float64] | None = None,
        *,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Answer prompts about one image, all at once.

        Args:
            embedded: The image.
            points: (O, P, 2) x and y in pixels of the image, or None.
            labels: (O, P): 1 on the object, 0 not, -10 no point.
            boxes: (O, 4) x0, y0, x1, y1 in pixels of the image, or None.
            multimask: Three masks per prompt, or one.

        Returns:
            (O, M, h, w) logits of the network's input, and (O, M) predicted overlaps.
        """
        import torch

        factors = np.array(embedded.shown_size[::-1]) / np.array(embedded.size[::-1])
        prompts: dict[str, Tensor] = {}
        if points is not None and labels is not None:
            placed = np.where(labels[..., None] >= 0, points * factors, points)
            prompts["input_points"] = torch.from_numpy(placed[None]).float()
            prompts["input_labels"] = torch.from_numpy(labels[None])
        if boxes is not None:
            prompts["input_boxes"] = torch.from_numpy(boxes[None] * np.tile(factors, 2)).float()
        with torch.inference_mode():
            outputs = self.network(
                **{name: values.to(self.device) for name, values in prompts.items()},
                **self._image_inputs(embedded.levels),
                multimask_output=multimask,
            )
        return outputs.pred_masks[0].float(), outputs.iou_scores[0].float()

    def _image_inputs(self, levels: tuple[Tensor, ...]) -> dict[str, Any]:
        kind = self.network.config.model_type
        if kind == "sam":
            return {"image_embeddings": levels[0]}
        if kind == "sam_hq":
            return {"image_embeddings": levels[0], "intermediate_embeddings": [levels[1]]}
        return {"image_embeddings": list(levels)}


def image_digest(image: np.ndarray) -> str:
    """Name an image (H, W, 3) uint8 by its pixels: 32 hexadecimal digits."""
    content = hashlib.sha256(repr(image.shape).encode())
    content.update(image.tobytes())
    return content.hexdigest()[:32]


def _digest(network: Any, processor: Any) -> str:
    """Hash the preparation of images, and names, sizes and sums of all weights.

    Reading every byte of the weights would take seconds.
    """
    content = hashlib.sha256(str(network.config.model_type).encode())
    content.update(json.dumps(processor.to_dict(), sort_keys=True, default=str).encode())
    for name, values in sorted(network.state_dict().items()):
        numbers = values.double()
        sums = (float(numbers.sum()), float(numbers.abs().sum()))
        content.update(f"{name}{tuple(values.shape)}{sums}".encode())
    return content.hexdigest()


def _levels(found: Any) -> list[Tensor]:
    """List the embeddings that the decoder looks at."""
    if isinstance(found, tuple):
        embedding, intermediate = found  # SAM-HQ; its decoder looks at the first layer only
        return [embedding, intermediate[0]]
    return list(found) if isinstance(found, list) else [found]


def _halved(values: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    return values.astype(np.float16) if np.abs(values).max() < _LARGEST_HALF else values


def _read(path: Path) -> list[npt.NDArray[np.floating]] | None:
    """Read kept embeddings; None where there are none, or they are damaged: they are made anew."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return [archive[name] for name in archive.files]
    except DAMAGE:
        return None

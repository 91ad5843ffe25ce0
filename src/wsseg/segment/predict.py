"""Masks of new images with a trained model: a run, a model bundle or an exported ONNX file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.data.labels import Boxes, ClassList
from wsseg.data.working import working_size
from wsseg.errors import MissingWeightsError, RecipeError
from wsseg.segment.config import PredictConfig
from wsseg.segment.forward import Forward, OnnxForward, TorchForward, takes_boxes
from wsseg.segment.inference import predict_probabilities, resize_maps, resized_image
from wsseg.segment.views import box_rows


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model sees in one image.

    Attributes:
        mask: (H, W) uint8 class ids, the most probable class of each pixel.
        probabilities: (K, H, W) float32, background first, summing to 1 over K.
    """

    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


class Predictor:
    """A trained segmenter ready for new images.

    Args:
        forward: The network.
        classes: Its foreground classes.
        config: How masks are predicted.
        max_side_px: Longest side that images are shrunk to before prediction, as in training;
            masks come back at the original size. None: as they are.

    Example:
        >>> class Dark:
        ...     fixed_size = None
        ...     def __call__(self, images):
        ...         dark = (images.mean(axis=3) < 100).astype(np.float32)
        ...         return np.stack([1 - dark, dark], axis=1)
        >>> predictor = Predictor(Dark(), ClassList(("dark",)))
        >>> image = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
        >>> predictor.predict(image).mask.tolist()
        [[1, 0]]
    """

    def __init__(
        self,
        forward: Forward,
        classes: ClassList,
        config: PredictConfig = PredictConfig(),
        *,
        max_side_px: int | None = None,
    ) -> None:
        self.forward = forward
        self.classes = classes
        self.config = config
        self.max_side_px = max_side_px

    @classmethod
    def load(
        cls, path: Path | str, *, config: PredictConfig | None = None, device: str = "auto"
    ) -> Predictor:
        """Load a model.

        Args:
            path: Folder of a run or of a model bundle, its ``model.safetensors``, or an ``.onnx``
                file.
            config: How masks are predicted; None: as the model says.
            device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ...; ONNX files
                choose by themselves.

        Returns:
            The predictor.

        Raises:
            MissingWeightsError: When there is no model, or it does not load.
            MissingExtraError: When an ONNX file is given and onnxruntime is not installed.
        """
        path = Path(path)
        if path.suffix.lower() == ".onnx":
            return _from_onnx(path, config)
        return _from_bundle(path, config, device)

    @property
    def takes_boxes(self) -> bool:
        """Whether the network looks at boxes of the image where they are known."""
        return takes_boxes(self.forward)

    def require_boxes(self) -> None:
        """Refuse boxes where the network does not look at them.

        Raises:
            RecipeError: When it does not.
        """
        if not self.takes_boxes:
            raise RecipeError(
                "Boxes are given, but this model does not look at boxes: only a network of "
                "segmenter bb_unet does, and not its ONNX file. Predict without boxes."
            )

    def predict(
        self,
        image: NDArray[np.uint8],
        tags: Collection[int] | None = None,
        boxes: Boxes | None = None,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            tags: Class ids that may occur; only looked at where the settings restrict to tags.
            boxes: Boxes of all objects in pixels of the image, for networks that look at them; None
                where they are not known.

        Returns:
            Mask and probabilities at the size of the image.

        Raises:
            RecipeError: When boxes are given to a network that does not look at them.
        """
        if boxes is not None:
            self.require_boxes()
        size = (image.shape[0], image.shape[1])
        working = resized_image(image, working_size(size, self.max_side_px))
        scale = (working.shape[0] / size[0], working.shape[1] / size[1])
        rows = None if boxes is None else box_rows(boxes, scale)
        maps = predict_probabilities(self.forward, working, self.config, tags=tags, boxes=rows)
        probabilities = resize_maps(maps, size)
        return Prediction(probabilities.argmax(axis=0).astype(np.uint8), probabilities)


def _from_bundle(path: Path, config: PredictConfig | None, device: str) -> Predictor:
    from wsseg.export.bundle import find_bundle, load_bundle

    net, info = load_bundle(find_bundle(path))
    config = config or info.inference
    forward = TorchForward(
        net.to(_device(device)), in_channels=info.in_channels, precision=config.precision
    )
    return Predictor(forward, ClassList(info.classes), config, max_side_px=info.max_side_px)


def _from_onnx(path: Path, config: PredictConfig | None) -> Predictor:
    from wsseg.export.onnx import OnnxMetadata

    forward = OnnxForward(path)
    metadata = OnnxMetadata.from_properties(forward.metadata, path)
    return Predictor(
        forward,
        ClassList(metadata.classes),
        config or metadata.inference,
        max_side_px=metadata.max_side_px,
    )


def _device(name: str) -> Any:
    import torch

    from wsseg.device import best_device

    if name == "auto":
        name = best_device()
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise MissingWeightsError(
            f'device is "{name}"; allowed are auto, cpu, cuda, cuda:0, mps.'
        ) from error

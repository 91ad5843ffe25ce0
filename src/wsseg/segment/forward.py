"""One way to call a segmenter: bytes in, class probabilities out, by torch or onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from wsseg.errors import MissingExtraError, MissingWeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Forward(Protocol):
    """Anything that computes class probabilities of a batch of images.

    Attributes:
        fixed_size: (h, w) that every image must have, or None where any size will do.
    """

    fixed_size: tuple[int, int] | None

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute class probabilities.

        Args:
            images: (N, h, w, 3) uint8 RGB.

        Returns:
            (N, K, h, w) float32 in [0, 1], summing to 1 over K.
        """


class BoxedForward(Forward, Protocol):
    """A :class:`Forward` that may look at boxes.

    Attributes:
        takes_boxes: Whether it does.
    """

    takes_boxes: bool

    def with_boxes(
        self, images: NDArray[np.uint8], boxes: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Compute class probabilities of images whose boxes are known.

        Args:
            images: (N, h, w, 3) uint8 RGB.
            boxes: (N, M, 5) float32, left, top, right, bottom in pixels of ``images``, half-open,
                and class id; class 0 is no box.

        Returns:
            (N, K, h, w) float32 in [0, 1], summing to 1 over K.
        """


def takes_boxes(forward: Forward) -> TypeGuard[BoxedForward]:
    """Tell whether a network looks at boxes."""
    return bool(getattr(forward, "takes_boxes", False))


class TorchForward:
    """A torch network as a :class:`Forward`; it is put back to training mode where it was in it.

    Args:
        net: Module from normalised images (N, in_channels, h, w) to logits (N, K, h, w).
        in_channels: 3 for colour, 1 for grey networks.
        precision: ``"float32"``, ``"bfloat16"`` or ``"auto"``.

    Attributes:
        takes_boxes: Whether the network has a method ``with_boxes(images, boxes)``.
    """

    fixed_size: tuple[int, int] | None = None

    def __init__(self, net: nn.Module, *, in_channels: int = 3, precision: str = "float32") -> None:
        import torch

        from wsseg.nets.deployed import DeployedNet
        from wsseg.training.precision import resolve_precision

        self._device = next(iter(net.parameters()), torch.zeros(0)).device
        self._deployed = DeployedNet(net, in_channels).to(self._device)
        self._net = net
        self.takes_boxes = hasattr(net, "with_boxes")
        formats = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        self._autocast_dtype = formats.get(resolve_precision(precision, self._device))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute class probabilities (N, K, h, w) of (N, h, w, 3) uint8 RGB."""
        return self._computed(self._deployed, images)

    def with_boxes(
        self, images: NDArray[np.uint8], boxes: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Compute class probabilities of images whose boxes are known."""
        import torch

        given = torch.from_numpy(np.ascontiguousarray(boxes)).to(self._device)
        return self._computed(lambda batch: self._deployed.with_boxes(batch, given), images)

    def _computed(
        self, compute: Callable[[Tensor], Tensor], images: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        import torch

        # (N, h, w, 3) seen as (N, 3, h, w) is the channels-last layout that is fast.
        batch = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        was_training = self._net.training
        self._net.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(
                    self._device.type,
                    dtype=self._autocast_dtype,
                    enabled=self._autocast_dtype is not None,
                ),
            ):
                probabilities = compute(batch.to(self._device))
        finally:
            self._net.train(was_training)
        array: NDArray[np.float32] = probabilities.cpu().numpy()
        return array


class OnnxForward:
    """An exported file as a :class:`Forward`; needs onnxruntime but not torch.

    Args:
        path: File that :func:`wsseg.export.onnx.export_onnx` wrote.
        num_threads: Threads within one operation; None: onnxruntime decides.

    Raises:
        MissingExtraError: When onnxruntime is not installed.
        MissingWeightsError: When the file is missing, damaged, or not a model of wsseg.
    """

    def __init__(self, path: Path, *, num_threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("Running ONNX files", "onnx") from error
        if not path.is_file():
            raise MissingWeightsError(f"The model {path} does not exist.")
        options = onnxruntime.SessionOptions()
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=_providers(onnxruntime)
            )
        # onnxruntime raises classes of its compiled part that share no base but Exception.
        except Exception as error:
            raise MissingWeightsError(
                f"{path} cannot be loaded by onnxruntime ({error}). Export the model again."
            ) from error
        #: What the exporter wrote about the model: a mapping of text to text.
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
            raise MissingWeightsError(
                f"{path} takes {[(i.name, i.type, i.shape) for i in inputs]}; expected one input "
                "(N, 3, height, width) of type uint8, as `wsseg export RUN --to onnx` writes it."
            )
        self._names = inputs[0].name, outputs[0].name
        batch, _, height, width = inputs[0].shape
        self.fixed_size = (height, width) if isinstance(height, int) else None
        self._fixed_batch = batch if isinstance(batch, int) else None

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute class probabilities (N, K, h, w) of (N, h, w, 3) uint8 RGB."""
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if self._fixed_batch is None:
            return self._run(planes)
        parts = []
        for start in range(0, len(planes), self._fixed_batch):
            part = planes[start : start + self._fixed_batch]
            missing = self._fixed_batch - len(part)
            filled = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.uint8)])
            parts.append(self._run(filled)[: len(part)])
        return np.concatenate(parts)

    def _run(self, planes: NDArray[np.uint8]) -> NDArray[np.float32]:
        name, output = self._names
        result: NDArray[np.float32] = self._session.run([output], {name: planes})[0]
        return result


def _providers(onnxruntime: Any) -> list[str]:
    """Choose the GPU where this build of onnxruntime has one, else the CPU."""
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]

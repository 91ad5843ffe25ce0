"""Write a segmenter as one ONNX file and prove that the file computes the same.

Normalisation and softmax are in the graph: RGB bytes in, class probabilities out. Batch, height
and width stay open, except for networks that pool to a fixed grid (PSPNet, UPerNet): their pooling
freezes at the traced size without any error, so they are exported for one size only. Every file is
run by onnxruntime at a second size and batch (static ones: with other images) and compared with
torch before it gets its name.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from wsseg import console
from wsseg._version import __version__
from wsseg.atomic import atomic_path
from wsseg.config import Config
from wsseg.errors import MissingExtraError, MissingWeightsError, OutputError, RecipeError
from wsseg.nets.architectures import STATIC_EXPORT
from wsseg.segment.config import PredictConfig

if TYPE_CHECKING:
    from torch import nn

METADATA_KEY = "wsseg"
INPUT, OUTPUT = "images", "probabilities"
TOLERANCE = 1e-3
"""Largest difference of a probability between torch and onnxruntime; 1e-4 is the worst seen."""

# A batch of two is traced: a batch of one would be built into the graph.
_TRACED_BATCH = 2


class OnnxMetadata(Config):
    """What an exported file says about itself, as JSON under the key ``wsseg``."""

    format_version: Literal[1] = Field(1, description="Version of this layout.")
    wsseg_version: str = Field(__version__, description="Version that wrote the file.")
    classes: tuple[str, ...] = Field(description="Foreground classes; output 0 is background.")
    max_side_px: int | None = Field(
        None, description="Longest side, pixels, that images are shrunk to; none: as they are."
    )
    size_px: tuple[int, int] | None = Field(
        None, description="Height and width that the file takes, pixels; none: any."
    )
    normalisation: Literal["in the graph"] = Field(
        "in the graph", description="Input is RGB bytes; nothing is to be done before."
    )
    stride_px: int | None = Field(
        None, description="Multiple, pixels, that sizes are padded to within the graph."
    )
    supervision: str = Field("I", description="Labels and outside knowledge in the training.")
    inference: PredictConfig = Field(PredictConfig(), description="How masks are predicted.")

    @classmethod
    def from_properties(cls, properties: dict[str, str], path: Path) -> OnnxMetadata:
        """Read the metadata of an ONNX file.

        Args:
            properties: Its metadata, text by name.
            path: The file, for messages.

        Raises:
            MissingWeightsError: When wsseg did not write the file.
        """
        try:
            return cls.model_validate(json.loads(properties[METADATA_KEY]))
        except (KeyError, ValueError, ValidationError) as error:
            raise MissingWeightsError(
                f"{path} carries no description that wsseg {__version__} knows ({error}). Export "
                "the model with `wsseg export RUN --to onnx`."
            ) from error


@dataclass(frozen=True)
class OnnxReport:
    """What was exported and how it was checked.

    Attributes:
        path: The file.
        is_dynamic: Whether it takes any batch, height and width.
        checked_shape: (N, H, W) at which onnxruntime and torch were compared.
        max_difference: Largest difference of a probability there.
        seconds: Time for export and check.
    """

    path: Path
    is_dynamic: bool
    checked_shape: tuple[int, int, int]
    max_difference: float
    seconds: float


def export_onnx(
    net: nn.Module,
    path: Path,
    metadata: OnnxMetadata,
    *,
    in_channels: int = 3,
    size_px: tuple[int, int] = (256, 320),
) -> OnnxReport:
    """Export a segmenter and check the file by running it.

    Args:
        net: Module from normalised images to logits (N, C + 1, H, W); left in evaluation mode.
        path: The file to write.
        metadata: What to write into it; ``size_px`` and ``stride_px`` are filled in here.
        in_channels: 3 for colour, 1 for grey networks.
        size_px: Height and width of the traced images; the only ones that a static file takes.

    Returns:
        What was written and how well it agrees.

    Raises:
        MissingExtraError: When onnx, onnxscript or onnxruntime is not installed.
        RecipeError: When the network cannot be exported.
        OutputError: When the file computes something else than torch; nothing is written then.
    """
    _require_extra()
    import torch

    from wsseg.nets.deployed import DeployedNet

    started = time.perf_counter()
    device = next(iter(net.parameters()), torch.zeros(0)).device
    deployed = DeployedNet(net, in_channels).to(device).eval()
    is_dynamic = not _pools_to_fixed_grid(net)
    metadata = metadata.model_copy(
        update={"size_px": None if is_dynamic else size_px, "stride_px": _stride(net)}
    )
    with atomic_path(path) as temporary:
        _write(deployed, temporary, metadata, size_px, is_dynamic)
        shape = (3, size_px[0] + 45, size_px[1] - 27) if is_dynamic else (_TRACED_BATCH, *size_px)
        difference = compare_onnx(deployed, temporary, shape)
        if not difference <= TOLERANCE:
            raise OutputError(
                f"The exported file computes something else than the network: probabilities of "
                f"{shape[0]} images of {shape[2]} x {shape[1]} px differ by up to "
                f"{difference:.2g} (allowed: {TOLERANCE}). Nothing was written. Use another "
                "architecture, such as unet or deeplabv3plus, or other versions of torch and onnx."
            )
    report = OnnxReport(path, is_dynamic, shape, difference, time.perf_counter() - started)
    console.info(
        f"{path}: checked with onnxruntime on {shape[0]} images of {shape[2]} x {shape[1]} px, "
        f"largest difference {difference:.1g}"
    )
    return report


def compare_onnx(deployed: nn.Module, path: Path, shape: tuple[int, int, int]) -> float:
    """Run a file and the network it was made from on the same random images.

    Args:
        deployed: Network from bytes to probabilities, in evaluation mode.
        path: The ONNX file.
        shape: (N, H, W) of the images.

    Returns:
        Largest absolute difference of a probability; infinity where the file fails to run.
    """
    import onnxruntime
    import torch

    images = np.random.default_rng(0).integers(0, 256, (shape[0], 3, *shape[1:]), np.uint8)
    device = next(iter(deployed.parameters()), torch.zeros(0)).device
    with torch.inference_mode():
        expected = deployed(torch.from_numpy(images).to(device)).cpu().numpy()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run([OUTPUT], {INPUT: images})
    # onnxruntime raises classes of its compiled part that share no base but Exception.
    except Exception as error:
        console.warning(f"onnxruntime cannot run the exported file: {error}")
        return float("inf")
    if found.shape != expected.shape:
        console.warning(f"the exported file returns {found.shape} instead of {expected.shape}")
        return float("inf")
    return float(np.abs(found - expected).max())


def _require_extra() -> None:
    """Check that everything needed is installed before any work is done."""
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")):
        raise MissingExtraError("Exporting to ONNX", "onnx")


def _pools_to_fixed_grid(net: nn.Module) -> bool:
    """Tell whether the network has to be exported for one size, and say why."""
    from torch.nn import AdaptiveAvgPool2d

    names = {getattr(module, "architecture", None) for module in net.modules()}
    fixed = sorted(name for name in names if name in STATIC_EXPORT)
    pools = any(
        isinstance(module, AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1))
        for module in net.modules()
    )
    if not fixed and not pools:
        return False
    console.info(
        f"{' and '.join(fixed) or 'the network'} pools to a grid of fixed size, which ONNX freezes "
        "at the exported image size: the file takes this one size only. Choose another "
        "architecture, such as unet or deeplabv3plus, for files that take any size."
    )
    return True


def _stride(net: nn.Module) -> int | None:
    for module in net.modules():
        multiple = getattr(module, "multiple_px", None)
        if isinstance(multiple, int):
            return multiple
    return None


def _write(
    deployed: nn.Module,
    path: Path,
    metadata: OnnxMetadata,
    size_px: tuple[int, int],
    is_dynamic: bool,
) -> None:
    """Trace the network, name the open axes, add the metadata and save."""
    import onnx
    import torch

    device = next(iter(deployed.parameters()), torch.zeros(0)).device
    images = torch.zeros(_TRACED_BATCH, 3, *size_px, dtype=torch.uint8, device=device)
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC) if is_dynamic else None
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns of deprecations within itself, which nobody here can act on.
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                deployed,
                (images,),
                dynamo=True,
                dynamic_shapes=None if axes is None else (axes,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RecipeError(
            f"The network cannot be exported to ONNX: {reason[0]} Use another architecture or "
            "encoder, such as unet or deeplabv3plus on resnet34."
        ) from error
    finally:
        exporter_log.setLevel(level)
    model = program.model_proto
    if is_dynamic:
        _name_axes(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, metadata.model_dump_json()
    model.doc_string = f"wsseg {__version__}: RGB bytes (N, 3, H, W) to class probabilities"
    onnx.save(model, str(path))


def _name_axes(model: Any) -> None:
    """Call the open axes batch, height and width instead of s14 and the like."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        dims[axis].dim_param: name for axis, name in ((0, "batch"), (2, "height"), (3, "width"))
    }
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]

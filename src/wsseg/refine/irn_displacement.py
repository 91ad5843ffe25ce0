"""The mean displacement of IRN over the train images, which its loss leaves open.

It is measured once per trained network and kept with it. Difference to the paper's code: it is that
of whole images; the code takes the upper left 512 pixels of each, filled up with grey.

Reference: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
Relations", CVPR 2019.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from wsseg import console
from wsseg.atomic import write_json
from wsseg.data.colour import normalise
from wsseg.data.working import read_working_image
from wsseg.nets.irn_net import IrnNet
from wsseg.processes import from_main_process
from wsseg.refine.irn_training import TRAINING_FOLDER, IrnData, Learned
from wsseg.refine.protocol import FitInputs

MEAN_FILE = "displacement.json"


def kept_mean_displacement(learned: Learned, inputs: FitInputs) -> tuple[float, float]:
    """Measure the mean displacement of a network, or read what was measured of it before.

    Args:
        learned: What `train` returned.
        inputs: The folder and the device.

    Returns:
        Rows and columns, in cells.

    Raises:
        OutputError: When it cannot be written down.
    """
    path = inputs.folder / TRAINING_FOLDER / MEAN_FILE
    known = from_main_process(lambda: _read_mean(path, learned.mark))
    if known is not None:
        return known
    mean = mean_displacement(learned.net, learned.data, inputs.device)
    from_main_process(lambda: write_json(path, {"fingerprint": learned.mark, "mean": list(mean)}))
    return mean


def _read_mean(path: Path, mark: str) -> tuple[float, float] | None:
    """Read the mean of the network with this fingerprint; None where it was not measured."""
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["fingerprint"] != mark:
            return None
        rows, columns = found["mean"]
        return float(rows), float(columns)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mean_displacement(net: IrnNet, data: IrnData, device: str) -> tuple[float, float]:
    """Average the displacements over all cells of each image, and over the images.

    Args:
        net: The trained network, its stored mean being zero.
        data: The train images; they are not augmented.
        device: Where to run.

    Returns:
        Rows and columns, in cells.
    """
    net.to(device).eval()

    def measure() -> list[float]:
        total = np.zeros(2)
        with console.progress(len(data), "irn: mean displacement") as shown:
            for sample in data.samples:
                image = read_working_image(sample.image_path, data.max_side_px)
                images = torch.from_numpy(normalise(image, data.in_channels))[None].to(device)
                with torch.inference_mode():
                    displacement = net(images)[1][0]
                total += displacement.double().mean(dim=(1, 2)).cpu().numpy()
                shown.advance()
        return [float(value) for value in total / len(data)]

    rows, columns = from_main_process(measure)
    return rows, columns

"""How fast and how exact the compiled PAMR is, against the unfolded form in torch.

Usage:
    python benchmarks/pamr.py [--repeats N] [--threads N]

Two baselines, both with the weights included:

* published: each 3 x 3 window is unfolded by a dilated convolution with one-hot kernels, as the
  authors' procedure does, written here from the formula;
* slices: `wsseg.kernels.pamr_torch`, which stacks shifted views instead.

Samples of all alternate, so that a busy moment of the machine hits all. 500 x 375 px, 6
dilations, 10 iterations. Exactness is measured against the same steps in float64.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from _machine import command, describe
from wsseg.kernels import pamr_torch
from wsseg.kernels.pamr import PamrConfig, pamr

SIZE = (375, 500)
PHOTO = "astronaut"
CENTRE = 4
BAR_FASTER, BAR_DIFFERENCE = 10.0, 1e-5


def load_photo(name: str) -> np.ndarray:
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(getattr(data, name)())
    return np.array(picture.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def unfold(planes: Tensor, dilations: tuple[int, ...], places: list[int]) -> Tensor:
    """Take the given places of every dilated 3 x 3 window: (1, D, H, W) to (D, n, H, W)."""
    one_hot = torch.eye(9)[places].reshape(-1, 1, 3, 3)
    planes = planes.transpose(0, 1)
    windows = [
        F.conv2d(F.pad(planes, (d, d, d, d), mode="replicate"), one_hot, dilation=d)
        for d in dilations
    ]
    return torch.cat(windows, dim=1)


def published(image: Tensor, masks: Tensor, config: PamrConfig) -> Tensor:
    """Refine masks (1, K, H, W) by PAMR, with all neighbours of all labels in memory."""
    around = [place for place in range(9) if place != CENTRE]
    spread = unfold(image, config.dilations_px, list(range(9))).std(dim=1, keepdim=True)
    here = image.transpose(0, 1)
    difference = (unfold(image, config.dilations_px, around) - here).abs()
    weights = torch.softmax(-(difference / (1e-8 + 0.1 * spread)).mean(dim=0), dim=0)
    for _ in range(config.iterations):
        masks = (unfold(masks, config.dilations_px, around) * weights).sum(dim=1)[None]
    return masks


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each call, samples in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def run(num_labels: int, config: PamrConfig, args: argparse.Namespace) -> dict[str, float]:
    """Print the row of one number of labels; return the ratios and the largest difference."""
    image = load_photo(PHOTO)
    values = np.random.default_rng(args.seed).random((num_labels, *SIZE), dtype=np.float32)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    masks = torch.from_numpy(values)[None]
    calls: dict[str, Callable[[], object]] = {
        "published": lambda: published(pixels.float(), masks, config),
        "slices": lambda: pamr_torch.pamr(pixels.float(), masks, config),
        "compiled": lambda: pamr(image, values, config=config, threads=args.threads),
    }
    found = measure(calls, args.repeats)
    compiled = pamr(image, values, config=config, threads=args.threads)
    weights = pamr_torch.pamr_weights(pixels, config)
    # One label at a time: all neighbours of 21 labels in float64 take 1.5 GB.
    exact = [
        pamr_torch.pamr(pixels, masks[:, [k]].double(), config, weights=weights)[0, 0].numpy()
        for k in range(num_labels)
    ]
    difference = float(np.abs(compiled - np.stack(exact)).max())
    against = float(np.abs(compiled - published(pixels.float(), masks, config)[0].numpy()).max())
    faster = {name: found[name] / found["compiled"] for name in ("published", "slices")}
    print(
        f"| {num_labels} | {found['published'] * 1e3:.0f} | {found['slices'] * 1e3:.0f} "
        f"| {found['compiled'] * 1e3:.0f} | **{faster['published']:.1f}** "
        f"| {faster['slices']:.1f} | {difference:.1e} | {against:.1e} |",
        flush=True,
    )
    return {"faster": faster["published"], "difference": max(difference, against)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    config = PamrConfig()
    print(
        f"PAMR, {PHOTO}, {SIZE[1]} x {SIZE[0]} px, {len(config.dilations_px)} dilations, "
        f"{config.iterations} iterations, {args.threads} thread(s)\n"
    )
    print(f"`{command()}` on {describe()}; load {os.getloadavg()[0]:.1f} at the start\n")
    print(
        "| labels | published ms | slices ms | compiled ms | times faster than published "
        "| than slices | largest difference to float64 | to published |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    found = {num_labels: run(num_labels, config, args) for num_labels in (3, 21)}
    reached = found[3]["faster"] >= BAR_FASTER and all(
        row["difference"] <= BAR_DIFFERENCE for row in found.values()
    )
    print(
        f"\nBar: {BAR_FASTER:.0f} times with 3 labels, within {BAR_DIFFERENCE:.0e}: "
        f"{'reached' if reached else 'missed'}. Load {os.getloadavg()[0]:.1f} at the end."
    )


if __name__ == "__main__":
    main()

"""How fast the random walks of IRN and PSA are, against the dense procedure of the papers.

Usage: python benchmarks/random_walk.py [--repeats 15] [--threads 2] [--skip-dense-irn]

The dense procedure is written here from the papers' formulas, in torch with float32: all
affinities at once, the (hw)² transition matrix, squared eight times. Both times start with the
edge map or the features and end with the walked maps. IRN: 500 x 375 px at stride 4, radius 5,
β = 10, two classes. PSA: stride 8, radius 5, β = 8, 448 channels, 3 and 21 rows. The dense IRN
takes minutes and 2.4 GB, so it runs once; dense PSA runs three times, in turn with the fast form.

Memory is how far the resident set of this process grew (Linux).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from _machine import command, describe
from wsseg.kernels.random_walk import irn_propagate, psa_propagate

RADIUS = 5
IRN_GRID, IRN_STRIDE, IRN_BETA = (94, 125), 4, 10.0
PSA_GRID, PSA_STRIDE, PSA_BETA = (47, 63), 8, 8.0
CHANNELS = 448
SQUARINGS = 8
BACKGROUND = 0.25

Walk = Callable[[np.ndarray, np.ndarray], np.ndarray]


def stencil() -> list[tuple[int, int]]:
    """Offsets (dy, dx) of the half plane with dx² + dy² < radius²."""
    every = [(y, x) for y in range(RADIUS) for x in range(1 - RADIUS, RADIUS)]
    return [(y, x) for y, x in every if (y > 0 or x > 0) and x * x + y * y < RADIUS**2]


def path(offset: tuple[int, int]) -> list[tuple[int, int]]:
    """Points of the rectangle whose squared distance to the line is below 1."""
    dy, dx = offset
    columns = range(min(dx, 0), max(dx, 0) + 1)
    every = [(y, x) for y in range(dy + 1) for x in columns]
    return [(y, x) for y, x in every if (dy * x - dx * y) ** 2 / (dy * dy + dx * dx) < 1]


def inner_sources(shape: tuple[int, int]) -> Tensor:
    """Flat indices of the pixels whose every target lies on the grid."""
    index = torch.arange(shape[0] * shape[1]).view(shape)
    reach = RADIUS - 1
    return index[: shape[0] - reach, reach : shape[1] - reach].reshape(-1)


def dense_matrix(affinity: Tensor, shape: tuple[int, int]) -> Tensor:
    """Write affinities (n, sources) into a symmetric (hw)² matrix with ones on its diagonal."""
    matrix = torch.eye(shape[0] * shape[1])
    sources = inner_sources(shape)
    for values, (dy, dx) in zip(affinity, stencil(), strict=True):
        targets = sources + dy * shape[1] + dx
        matrix[sources, targets] = values
        matrix[targets, sources] = values
    return matrix


def squared(matrix: Tensor, beta: float) -> Tensor:
    """T = A^β / column sums, squared eight times."""
    transition = matrix.pow_(beta)
    transition /= transition.sum(dim=0, keepdim=True)
    for _ in range(SQUARINGS):
        transition = transition @ transition
    return transition


def dense_irn(values: np.ndarray, edge: np.ndarray) -> np.ndarray:
    maps, grid = torch.from_numpy(values), torch.from_numpy(edge)
    padded = F.pad(grid, (RADIUS, RADIUS, 0, RADIUS), value=1.0)
    shape = (padded.shape[0], padded.shape[1])
    sources, flat = inner_sources(shape), padded.flatten()
    affinity = []
    for offset in stencil():
        shifts = torch.tensor([y * shape[1] + x for y, x in path(offset)])
        affinity.append(1 - flat[sources + shifts[:, None]].amax(dim=0))
    matrix = dense_matrix(torch.stack(affinity), shape).view(*shape, *shape)
    inner = matrix[:-RADIUS, RADIUS:-RADIUS, :-RADIUS, RADIUS:-RADIUS]
    size = grid.numel()
    matrix = inner.reshape(size, size)
    walked = (maps * (1 - grid)).flatten(1) @ squared(matrix, IRN_BETA)
    return walked.view(values.shape).numpy()


def dense_psa(values: np.ndarray, features: np.ndarray) -> np.ndarray:
    maps, flat = torch.from_numpy(values), torch.from_numpy(features).flatten(1)
    shape = (values.shape[1], values.shape[2])
    sources = inner_sources(shape)
    shifts = torch.tensor([dy * shape[1] + dx for dy, dx in stencil()])
    targets = flat[:, sources + shifts[:, None]]
    affinity = torch.exp(-(targets - flat[:, None, sources]).abs().mean(dim=0))
    walked = maps.flatten(1) @ squared(dense_matrix(affinity, shape), PSA_BETA)
    return walked.view(values.shape).numpy()


def make_regions(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw an image of ellipses, one number per region."""
    regions = np.zeros(shape, np.uint8)
    for number in range(1, 13):
        centre = (rng.uniform(0, shape[1]), rng.uniform(0, shape[0]))
        axes = tuple(rng.uniform(0.1, 0.35, 2) * shape[0])
        ellipse = (centre, tuple(2 * axis for axis in axes), rng.uniform(0, 180))
        cv2.ellipse(regions, ellipse, number, -1)
    return regions


def make_maps(num_rows: int, regions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make class maps in [0, 1] that cover parts of some regions, as class activations do."""
    height, width = regions.shape
    y, x = np.mgrid[:height, :width]
    maps = np.empty((num_rows, height, width), np.float32)
    for row in maps:
        place = rng.uniform(0.2, 0.8, 2) * (height, width)
        spread = rng.uniform(0.08, 0.2) * width
        row[:] = np.exp(-((y - place[0]) ** 2 + (x - place[1]) ** 2) / (2 * spread**2))
    return maps


def make_irn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make maps of two classes and a boundary map: contours of regions, some of them faint."""
    rng = np.random.default_rng(seed)
    regions = make_regions(IRN_GRID, rng)
    contour = (cv2.morphologyEx(regions, cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0) * 1.0
    strength = cv2.GaussianBlur(rng.normal(size=IRN_GRID), (0, 0), 8) * 60
    logits = -5 + cv2.GaussianBlur(contour, (0, 0), 0.8) * (8 + strength)
    logits += cv2.GaussianBlur(rng.normal(size=IRN_GRID), (0, 0), 1.5) * 2
    return make_maps(2, regions, rng), (1 / (1 + np.exp(-logits))).astype(np.float32)


def make_psa(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make maps, and features that are alike within a region and differ between regions."""
    rng = np.random.default_rng(seed)
    regions = make_regions(PSA_GRID, rng)
    means = rng.normal(scale=0.6, size=(CHANNELS, 256)).astype(np.float32)
    noise = rng.normal(scale=0.1, size=(CHANNELS, *PSA_GRID)).astype(np.float32)
    features = np.stack([cv2.GaussianBlur(plane, (0, 0), 1.0) for plane in means[:, regions]])
    return make_maps(num_rows, regions, rng), features + noise


def labels(maps: np.ndarray, stride: int, background: float | None) -> np.ndarray:
    """Enlarge, put a constant background first where there is one, and take the largest."""
    full = F.interpolate(
        torch.from_numpy(maps)[None], scale_factor=stride, mode="bilinear", align_corners=False
    )[0]
    if background is not None:
        full = torch.cat([torch.full_like(full[:1], background), full / full.max()])
    return full.argmax(dim=0).numpy()


def memory_mb(word: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(word):
            return int(line.split()[1]) / 1024
    return float("nan")


def growth_mb(call: Callable[[], np.ndarray]) -> float:
    """Run a call and return how far its peak lies above the memory held before."""
    # Memory that was freed but not given back would hide the growth (glibc).
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_mb("VmRSS")
    call()
    return memory_mb("VmHWM") - before


def timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def fast_times(call: Callable[[], np.ndarray], repeats: int) -> list[float]:
    return [timed(call)[0] for _ in range(repeats)]


def compare(
    name: str,
    walks: tuple[Walk, Walk],
    inputs: tuple[np.ndarray, np.ndarray],
    args: argparse.Namespace,
) -> None:
    """Print one row of the table; ``walks`` are the fast and the dense form."""
    is_irn = name.startswith("IRN")
    fast, dense = (lambda walk=walk: walk(*inputs) for walk in walks)
    fast()  # compiles
    memory = growth_mb(fast)
    seconds = fast_times(fast, args.repeats)
    if is_irn and args.skip_dense_irn:
        print(f"| {name} | | | **{statistics.median(seconds) * 1e3:.1f}** | {memory:.0f} | | | |")
        return
    slow: list[float] = []
    results: list[np.ndarray] = []

    def dense_once() -> np.ndarray:
        spent, result = timed(dense)
        slow.append(spent)
        results.append(result)
        return result

    dense_memory = growth_mb(dense_once)
    for _ in range(0 if is_irn else 2):
        seconds += fast_times(fast, args.repeats)
        dense_once()
    seconds += fast_times(fast, args.repeats)
    expected, found = results[0], fast()
    stride, background = (IRN_STRIDE, BACKGROUND) if is_irn else (PSA_STRIDE, None)
    same = labels(found, stride, background) == labels(expected, stride, background)
    error = np.abs(found - expected).max() / np.ptp(expected)
    medians = statistics.median(slow), statistics.median(seconds)
    print(
        f"| {name} | {medians[0] * 1e3:.0f} | {dense_memory:.0f} | {medians[1] * 1e3:.1f} "
        f"| {memory:.0f} | **{medians[0] / medians[1]:.0f}** | {error:.1e} | {same.mean():.6f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where the fast form runs")
    parser.add_argument("--skip-dense-irn", action="store_true", help="time its fast form only")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # the compiled form asks for it
    torch.set_num_threads(args.threads)
    print(f"`{command()}` on {describe()}; {args.threads} thread(s)")
    print(f"Load {os.getloadavg()[0]:.1f} at the start.\n")
    print(
        "| walk | dense ms | dense MB | ms | MB | times faster | largest difference / range "
        "| same argmax |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for method in ("chebyshev", "exact"):
        options = {"method": method, "device": args.device}
        for num_rows in (3, 21):
            walks = partial(psa_propagate, **options), dense_psa
            compare(f"PSA, {num_rows} rows, {method}", walks, make_psa(num_rows, args.seed), args)
    fast_irn = partial(irn_propagate, device=args.device)
    compare("IRN, 2 rows, chebyshev", (fast_irn, dense_irn), make_irn(args.seed), args)
    print(f"\nLoad {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()

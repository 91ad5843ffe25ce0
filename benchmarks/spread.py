"""How far the maps of each method reach over the beetles of *parts*, without any threshold.

    python benchmarks/spread.py RUNS [--recipes a,b] [--seeds 0 1 2] [--split train]

RUNS is the folder that `methods.py` was told with --out (or its default,
runs/bench-methods-scenes). The class of a beetle shows on its head alone. For each tagged class of
each image: how often the map is higher at a pixel of the head, and of the body, than at one of the
ground (area under the ROC curve, ties count half), and the mean of the map on head, body and
ground, as a fraction of its maximum. Prints a Markdown table: means over the images, mean ±
deviation over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

from _machine import command, describe
from methods import SCENES, in_percent
from wsseg import console
from wsseg.data.dataset import Sample
from wsseg.data.discover import open_dataset
from wsseg.data.image_io import read_mask
from wsseg.data.scenes import make_scene, scene_seed
from wsseg.data.scores import load_scores

FAMILY = SCENES[0]
COLUMNS = ("head over ground", "body over ground", "level head", "level body", "level ground")
# Fewer pixels have no rank worth counting.
MIN_PIXELS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--recipes", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args()
    console.configure(quiet=True)
    seeds = [arguments.runs / FAMILY / f"seed-{seed}" for seed in arguments.seeds]
    found = sorted(path.name.removesuffix("-maps") for path in seeds[0].glob("*-maps"))
    print(f"`{command()}`; {describe()}\n")
    print(f"| method | {' | '.join(f'{name} %' for name in COLUMNS)} |")
    print("|" + "---|" * (len(COLUMNS) + 1))
    for name in arguments.recipes or found:
        rows = [
            np.mean(list(marks(folder, name, seed, arguments.split)), axis=0)
            for seed, folder in zip(arguments.seeds, seeds, strict=True)
        ]
        cells = [in_percent([float(row[i]) for row in rows]) for i in range(len(COLUMNS))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def marks(folder: Path, recipe: str, seed: int, split: str) -> Iterator[np.ndarray]:
    """Yield `COLUMNS` of each image and class, as fractions."""
    scores = folder / f"{recipe}-maps" / "run" / "localize" / "scores"
    (data,) = folder.glob("data-*")
    for sample in open_dataset(data).split(split):
        yield from marks_of(sample, scores / f"{sample.id}.npz", seed, split)


def marks_of(sample: Sample, path: Path, seed: int, split: str) -> Iterator[np.ndarray]:
    """Yield `COLUMNS` of each class of one image."""
    if sample.mask_path is None:
        raise SystemExit(f"{sample.id} has no mask")
    scores, truth = load_scores(path), read_mask(sample.mask_path)
    index = int(sample.image_path.stem.rpartition("_")[2])
    part = make_scene(FAMILY, scene_seed(seed, split, index), truth.shape).regions["part"]
    values = scores.resized()
    for row, class_id in zip(values[1:], scores.present, strict=True):
        areas = [row[mask] for mask in ((truth == class_id) & part, (truth == class_id) & ~part)]
        ground = row[truth == 0]
        if row.max() > 0 and min(map(len, areas)) >= MIN_PIXELS:
            above = [mannwhitneyu(area, ground).statistic / (area.size * ground.size)
                     for area in areas]  # fmt: skip
            levels = [float(area.mean()) / float(row.max()) for area in (*areas, ground)]
            yield np.array([*above, *levels])


if __name__ == "__main__":
    main()

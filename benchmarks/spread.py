"""How far the maps of each method reach over beetles, without any threshold.

    python benchmarks/spread.py RUNS [--scenes parts graded] [--recipes a,b] [--seeds 0 1 2]

RUNS is the folder that `methods.py` was told with --out (or its default,
runs/bench-methods-scenes). The class of a beetle shows on its head; in *parts* there alone, in
*graded* the body hints at it. For each tagged class of each training image: how often the map is
higher at a pixel of the head, and of the body, than at one of the ground (area under the ROC curve,
ties count half), and the mean of the map on head, body and ground, as a fraction of its maximum.
Prints Markdown tables: means over the images, mean ± deviation over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

from _machine import command, describe
from methods import in_percent
from wsseg import console
from wsseg.data.discover import open_dataset
from wsseg.data.image_io import image_size
from wsseg.data.scenes import Scene, make_scene, scene_seed
from wsseg.data.scores import Scores, load_scores

FAMILIES = ("parts", "graded")
COLUMNS = ("head over ground", "body over ground", "level head", "level body", "level ground")
SPLIT = "train"
# Fewer pixels have no rank worth counting.
MIN_PIXELS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path)
    parser.add_argument("--scenes", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--recipes", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    console.configure(quiet=True)
    print(f"`{command()}`; {describe()}")
    for family in arguments.scenes:
        print(f"\n| {family} | {' | '.join(f'{name} %' for name in COLUMNS)} |")
        print("|" + "---|" * (len(COLUMNS) + 1))
        folders = {seed: arguments.runs / family / f"seed-{seed}" for seed in arguments.seeds}
        first = folders[arguments.seeds[0]]
        found = sorted(path.name.removesuffix("-maps") for path in first.glob("*-maps"))
        for name in arguments.recipes or found:
            rows = [
                np.mean(list(marks(family, folder, name, seed)), axis=0)
                for seed, folder in folders.items()
            ]
            cells = [in_percent([float(row[i]) for row in rows]) for i in range(len(COLUMNS))]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def marks(family: str, folder: Path, recipe: str, seed: int) -> Iterator[np.ndarray]:
    """Yield `COLUMNS` of each class of each image, as fractions."""
    scores = folder / f"{recipe}-maps" / "run" / "localize" / "scores"
    (data,) = folder.glob("data-*")
    for sample in open_dataset(data).split(SPLIT):
        index = int(sample.image_path.stem.rpartition("_")[2])
        scene = make_scene(family, scene_seed(seed, SPLIT, index), image_size(sample.image_path))
        yield from marks_of(scene, load_scores(scores / f"{sample.id}.npz"))


def marks_of(scene: Scene, scores: Scores) -> Iterator[np.ndarray]:
    """Yield `COLUMNS` of each class of one image."""
    part = scene.regions["part"]
    for row, class_id in zip(scores.resized()[1:], scores.present, strict=True):
        own = scene.mask == class_id
        areas, ground = [row[own & part], row[own & ~part]], row[scene.mask == 0]
        if row.max() > 0 and min(map(len, areas)) >= MIN_PIXELS:
            above = [
                mannwhitneyu(area, ground).statistic / (area.size * ground.size) for area in areas
            ]
            levels = [float(area.mean()) / float(row.max()) for area in (*areas, ground)]
            yield np.array([*above, *levels])


if __name__ == "__main__":
    main()

"""What synthetic scenes know beyond their masks: bodies, contexts, objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsseg.data.dataset import Dataset
from wsseg.data.image_io import read_mask
from wsseg.data.scenes import make_scene, scene_seed
from wsseg.data.scores import load_scores

# The background that always goes with a class.
CONTEXTS = {"rail": 1, "water": 2}


def scene_mark(family: str, seed: int, dataset: Dataset, step: Path, split: str = "train") -> float:
    """Measure scores at the failure for which scenes are built.

    Args:
        family: ``parts``, ``graded``: share of the bodies, without heads, that has the right class.
            ``cooccurrence``: share of rail and water called train and boat, where the image has
            these. ``instances``: share of all objects that has the right class.
        seed: Of the scenes.
        dataset: The scenes as they were written.
        step: A refine step's folder.
        split: Whose scenes.

    Returns:
        A fraction, pixels of all images together.
    """
    hits = total = 0
    for sample in dataset.split(split):
        scores = load_scores(step / "scores" / f"{sample.id}.npz")
        found = scores.class_ids[scores.resized().argmax(axis=0)]
        truth = read_mask(sample.mask_path)
        index = int(sample.image_path.stem.rpartition("_")[2])
        regions = make_scene(family, scene_seed(seed, split, index), truth.shape).regions
        if family == "cooccurrence":
            for name, class_id in CONTEXTS.items():
                if class_id in scores.class_ids:
                    hits += np.count_nonzero(found[regions[name]] == class_id)
                    total += np.count_nonzero(regions[name])
            continue
        wanted = truth > 0
        if family in ("parts", "graded"):
            wanted &= ~regions["part"]
        hits += np.count_nonzero((found == truth)[wanted])
        total += np.count_nonzero(wanted)
    return hits / max(1, total)

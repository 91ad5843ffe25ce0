"""The demo: synthetic pictures of metal defects, tags only, all the way to a report."""

from __future__ import annotations

from pathlib import Path

from wsseg import console
from wsseg.atomic import write_json
from wsseg.finished import Finished
from wsseg.pipeline import run
from wsseg.rundir import RunDir

FAMILY = "defects"
NUM_TRAIN = 480
NUM_VAL = 80
SIDE_PX = 128
RECIPE = "defects"
OVERRIDES = (
    "localize.augment.crop_px=128",
    "segment.augment.crop_px=128",
    "segment.augment.scale=null",
    "refine.steps.dense_crf.bilateral_sxy_px=10",
    "localize.training.epochs=11",
    "segment.training.epochs=9",
)


def make_demo_data(folder: Path, *, seed: int = 0) -> Path:
    """Draw the demo's images once; a finished folder is used again.

    Args:
        folder: Folder of the data set.
        seed: Seed of the scenes.

    Returns:
        ``folder``.

    Raises:
        OutputError: When the folder cannot be written.
    """
    from wsseg.data.scenes import make_dataset

    settings = {
        "family": FAMILY, "train": NUM_TRAIN, "val": NUM_VAL, "side_px": SIDE_PX, "seed": seed
    }  # fmt: skip
    done = folder / "scenes.json"
    import json

    if done.exists() and json.loads(done.read_text()) == settings:
        return folder
    console.info(f"demo: drawing {NUM_TRAIN + NUM_VAL} pictures of metal and fabric")
    make_dataset(
        FAMILY,
        folder,
        num_train=NUM_TRAIN,
        num_val=NUM_VAL,
        seed=seed,
        size=(SIDE_PX, SIDE_PX),
    )
    write_json(done, settings)
    return folder


def demo(out: Path, *, seed: int = 0) -> Finished:
    """Do the whole job on built-in images; the tags alone train, the masks only score.

    Args:
        out: Folder for the data (``out/data``) and the run.
        seed: Seed of the scenes and of the training.

    Returns:
        What the run ended with; its ``run.report_path`` is the report.

    Raises:
        OutputError: When ``out`` cannot be written.
    """
    with RunDir(out).locked():
        data = make_demo_data(out / "data", seed=seed)
    overrides = [*OVERRIDES, f"seed={seed}"]
    return run(data, recipe=RECIPE, overrides=overrides, out=out)

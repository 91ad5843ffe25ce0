"""What a training step of every tag recipe costs, against one of plain CAM.

    python benchmarks/step_cost.py [--steps 5] [--recipes cam,seam] [--backbone resnet18]

All networks have the same backbone, batch and crop, and are as far in their training as the last
epoch is, when everything that a recipe starts later is on. A round of steps runs one of each, so
that other load on the machine hits all alike. Prints a Markdown table of the medians, in processor
time of this process. Methods that train in rounds (ae_psl, sc_cam) are left out: their steps are
those of a classifier, on other images or with a second head, and the rounds are what costs. ToCo
has a transformer of its own and is measured against a classifier on that.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _machine import command, describe
from _small import BASE, TRANSFORMERS, NotFromScratchError, load, part, parts, tag_recipes
from wsseg.cues.protocol import CueInputs
from wsseg.data.dataset import Dataset
from wsseg.data.discover import open_dataset
from wsseg.data.scenes import make_dataset
from wsseg.localize.aligned import aligned_maps
from wsseg.localize.config import TagLocalizerConfig
from wsseg.localize.data import TagData
from wsseg.localize.regularise.attach import make_localizer
from wsseg.localize.rounds import rounds_method
from wsseg.training.optim import build_optimizer
from wsseg.training.processes import start_accelerator
from wsseg.training.update import Updater

EPOCHS = 10
LIMIT = 2.5
SEVERAL = {
    "oc_cse": "two networks",
    "puzzle_cam": "two passes, of whole and tiles",
    "seam": "two passes, of two sizes",
}


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        dataset = scenes(Path(folder) / "data", arguments)
        configs = configs_of(arguments)
        steps = {
            name: stepper(config, dataset, Path(folder) / name, arguments.batch)
            for name, config in configs.items()
        }
        for step in steps.values():
            step()
        taken: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(arguments.steps):
            for name, step in steps.items():
                taken[name].append(step())
    print(f"`{command()}`; {describe()}; {torch.get_num_threads()} threads\n")
    print(table(taken))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=tag_recipes())
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--stride", type=int, default=16, help="pixels of a feature cell")
    parser.add_argument("--crop", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


def scenes(root: Path, arguments: argparse.Namespace) -> Dataset:
    size = (arguments.crop, arguments.crop)
    make_dataset("parts", root, num_train=arguments.batch, num_val=1, seed=0, size=size)
    return open_dataset(root)


def configs_of(arguments: argparse.Namespace) -> dict[str, TagLocalizerConfig]:
    """Give the localizers that differ in training, and a classifier on the transformer."""
    overrides = [
        f"localize.backbone={arguments.backbone}",
        "localize.last_stage=null",
        f"localize.output_stride={arguments.stride}",
        f"localize.training.batch_size={arguments.batch}",
    ]
    settings = {"epochs": EPOCHS, "size_px": arguments.crop, "seed": 0}
    plain = load(BASE, **settings, overrides=overrides)
    found = {BASE: part(plain, "maps").localize}
    for name in arguments.recipes:
        try:
            content = load(name, **settings, overrides=overrides)
            if name == BASE or "maps" not in parts(content, plain):
                continue
        except NotFromScratchError:
            continue
        localize = content["localize"]
        if name in TRANSFORMERS:
            kept = ("backbone", "weights", "last_stage", "output_stride", "dropout", "pooling")
            network = {key: localize[key] for key in kept}
            base = plain | {"localize": plain["localize"] | network}
            found[transformer_base(name)] = part(base, "maps").localize
        config = part(content, "maps").localize
        if rounds_method(config) is not None:
            continue
        # Another extraction trains in the same way.
        if config.model_copy(update={"inference": found[BASE].inference}) != found[BASE]:
            found[name] = config
    return found


def transformer_base(name: str) -> str:
    return f"{BASE} on the transformer of {name}"


def stepper(
    config: TagLocalizerConfig, dataset: Dataset, folder: Path, batch_size: int
) -> Callable[[], float]:
    """Make a network; give what trains it by one step and tells the processor seconds."""
    samples = dataset.split("train")
    torch.manual_seed(0)
    net = make_localizer(config, dataset.classes.num_classes)
    data = TagData(samples, dataset.classes.num_classes, config.augment)
    data.aligned = aligned_maps(net, CueInputs(dataset=dataset, folder=folder))
    for source in data.aligned.values():
        source.prepare(samples)
    items = [data.item(index, np.random.default_rng(index)) for index in range(batch_size)]
    batch = {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}
    accelerator = start_accelerator(config.training.precision)
    optimizer = build_optimizer(net, config.training)
    updater = Updater(accelerator, net, optimizer, config.training, total_steps=1000, seed=0)
    net.train()
    # From the first to the last epoch, as some copy their network on the way.
    for epoch in range(EPOCHS):
        if hasattr(net, "on_epoch_start"):
            net.on_epoch_start(epoch)

    def step() -> float:
        started = time.process_time()
        updater.update(iter([dict(batch)]), 1, epoch=EPOCHS - 1, step=500)
        return time.process_time() - started

    return step


def table(taken: dict[str, list[float]]) -> str:
    """Draw one row per recipe, with its cost as a multiple of its base."""
    lines = ["| localizer of | ms per step | times plain CAM | |", "|---|---|---|---|"]
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in median.items():
        base = median[transformer_base(name) if name in TRANSFORMERS else BASE]
        cells: list[Any] = [f"{1000 * seconds:.0f}", f"{seconds / base:.2f}"]
        notes = [SEVERAL[name]] if name in SEVERAL else []
        notes += [f"more than {LIMIT}"] if seconds > LIMIT * base else []
        note = ", ".join(notes)
        lines.append(f"| {name} | {' | '.join(cells)} | {note} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Several recipes on the same data and split: a table and a plot, mean ± deviation over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsseg import console
from wsseg.atomic import append_jsonl, atomic_path, read_jsonl, write_json, write_text
from wsseg.data.dataset import Dataset
from wsseg.errors import RecipeError, WssegError
from wsseg.finished import Finished
from wsseg.intake import open_data
from wsseg.memory import Peak, peak_memory
from wsseg.pipeline import check_run, run
from wsseg.processes import from_main_process
from wsseg.recipe import Recipe, load_recipe
from wsseg.rundir import fingerprint

COST_FILE = "cost.jsonl"


@dataclass(frozen=True)
class Comparison:
    """The numbers of every recipe, stage and split.

    Args:
        rows: One dictionary per (recipe, stage, split): ``recipe, stage, split, tuned_on_masks,
            miou_mean, miou_deviation, gain_mean, gain_deviation, num_seeds``; mIoU as fractions,
            gains against the first recipe with the same seed (None for itself, and where it has no
            such stage).
        seconds: Mean duration of a run in seconds, per recipe.
        memory_gb: The most resident memory of the process in a run in GB (10⁹ bytes), per recipe.
        folder: Where the runs, ``comparison.csv``, ``comparison.json`` and ``comparison.png`` lie.
    """

    rows: tuple[dict[str, Any], ...]
    seconds: dict[str, float]
    memory_gb: dict[str, float]
    folder: Path

    def text(self) -> str:
        """Draw the table for people; mIoU in percent."""
        first = next(iter(self.seconds))
        head = f"{'recipe':<16} {'stage':<28} {'split':<6} {'mIoU %':>14} {f'over {first}':>16}"
        lines = [head, "-" * len(head)]
        for row in self.rows:
            value = f"{100 * row['miou_mean']:.1f} ± {100 * row['miou_deviation']:.1f}"
            gain = ""
            if row["gain_mean"] is not None:
                gain = f"{100 * row['gain_mean']:+.1f} ± {100 * row['gain_deviation']:.1f}"
            mark = "  tuned on masks" if row["tuned_on_masks"] else ""
            lines.append(
                f"{row['recipe']:<16} {row['stage']:<28} {row['split']:<6} {value:>14} "
                f"{gain:>16}{mark}"
            )
        lines += [
            f"{name}: {seconds:.0f} s and up to {self.memory_gb[name]:.1f} GB per run"
            for name, seconds in self.seconds.items()
        ]
        lines.append(f"Table and plot: {self.folder}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Say the same for machines."""
        return {
            "rows": list(self.rows),
            "seconds": self.seconds,
            "memory_gb": self.memory_gb,
            "folder": str(self.folder),
        }


def compare(
    data: Path,
    recipes: Sequence[str],
    *,
    num_seeds: int = 1,
    overrides: Sequence[str] = (),
    out: Path,
    use_masks: bool = False,
) -> Comparison:
    """Run recipes with several seeds on the same data; finished runs are not repeated.

    What would stop one of the recipes is found before the first of them trains.

    Args:
        data: Folder with images, labels and ground-truth masks.
        recipes: Names or YAML files; the others are compared with the first.
        num_seeds: Runs per recipe, with the seeds 0, 1, 2, ...
        overrides: ``"key=value"`` changes applied to every recipe.
        out: Folder of the runs and of the table.
        use_masks: Let masks tune thresholds and choose checkpoints.

    Returns:
        The comparison; deviations are sample standard deviations over seeds, 0 for one seed.
        Seconds and memory are those of the runs that did the work, also where this call found
        them finished.

    Raises:
        RecipeError: When a recipe is wrong, or two of them have the same name.
        DataError: When the data cannot be used.
        MissingWeightsError: When pre-trained weights are not at hand.
        OutputError: When results cannot be written.
    """
    loaded = {name: load_recipe(name, overrides) for name in recipes}
    labels = [Path(name).stem for name in recipes]
    if len(set(labels)) < len(labels) or not labels:
        raise RecipeError(f"--recipes needs different names, got: {', '.join(labels) or 'none'}.")
    dataset, _ = open_data(data, use_masks=use_masks)
    runs = [
        (label, recipe.model_copy(update={"seed": seed}), out / f"{label}-seed{seed}")
        for label, recipe in zip(labels, loaded.values(), strict=True)
        for seed in range(num_seeds)
    ]
    for label, recipe, folder in runs[::num_seeds]:
        try:
            check_run(dataset, recipe=recipe, out=folder, use_masks=use_masks)
        except WssegError as error:
            error.args = (f"Recipe {label}: {error}",)
            raise
    collected: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    for label, recipe, folder in runs:
        console.info(f"compare: {label}, seed {recipe.seed}")
        with peak_memory() as peak:
            finished = run(dataset, recipe=recipe, out=folder, use_masks=use_masks)
        costs.append({"recipe": label} | _cost(dataset, recipe, finished, use_masks, peak))
        collected += [
            {"recipe": label, "seed": recipe.seed, **stage}
            for stage in finished.metrics.get("stages", [])
        ]
    comparison = Comparison(
        tuple(_summarise(collected, labels[0])),
        {label: float(np.mean(_of(costs, label, "seconds"))) for label in labels},
        {label: max(_of(costs, label, "memory_gb")) for label in labels},
        out,
    )
    from_main_process(lambda: _write(comparison))
    return comparison


def _cost(
    dataset: Dataset, recipe: Recipe, finished: Finished, use_masks: bool, peak: Peak
) -> dict[str, Any]:
    """Tell what a run took, in all calls together: a finished run takes nothing in the last one."""
    path = finished.run.path / COST_FILE
    mark = fingerprint(dataset.fingerprint(masks=use_masks), recipe.model_dump(mode="json"))
    known = [line["memory_gb"] for line in read_jsonl(path) if line["mark"] == mark]
    memory_gb = peak.bytes / 1e9
    if memory_gb > max(known, default=0.0):
        from_main_process(lambda: append_jsonl(path, {"mark": mark, "memory_gb": memory_gb}))
    return {
        "seconds": finished.run.seconds(),
        "memory_gb": max([memory_gb, *known]),
    }


def _of(costs: Sequence[dict[str, Any]], label: str, key: str) -> list[float]:
    return [cost[key] for cost in costs if cost["recipe"] == label]


def _summarise(collected: list[dict[str, Any]], first: str) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str, bool], dict[int, float]] = {}
    for stage in collected:
        key = (stage["recipe"], stage["label"], stage["split"], stage["tuned_on_masks"])
        if stage["miou"] is not None:
            groups.setdefault(key, {})[stage["seed"]] = stage["miou"]
    return [
        {"recipe": recipe, "stage": stage, "split": split, "tuned_on_masks": tuned}
        | _spread("miou", list(values.values()))
        | _spread("gain", _gains(recipe, values, first, groups.get((first, stage, split, tuned))))
        | {"num_seeds": len(values)}
        for (recipe, stage, split, tuned), values in groups.items()
    ]


def _gains(
    recipe: str, values: Mapping[int, float], first: str, plain: Mapping[int, float] | None
) -> list[float]:
    if recipe == first or plain is None:
        return []
    return [value - plain[seed] for seed, value in values.items() if seed in plain]


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {f"{name}_mean": None, f"{name}_deviation": None}
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {f"{name}_mean": float(np.mean(values)), f"{name}_deviation": deviation}


def _write(comparison: Comparison) -> None:
    write_json(comparison.folder / "comparison.json", comparison.as_dict())
    if not comparison.rows:
        console.warning("No ground-truth masks: there is nothing to compare by.")
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(comparison.rows[0]))
    writer.writeheader()
    writer.writerows(comparison.rows)
    write_text(comparison.folder / "comparison.csv", text.getvalue())
    _plot(comparison)


def _plot(comparison: Comparison) -> None:
    """Draw one group of bars per stage and split, one bar per recipe."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["recipe"] for row in comparison.rows))
    groups = list(dict.fromkeys((row["stage"], row["split"]) for row in comparison.rows))
    height = 0.8 / len(names)
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(groups) * len(names)), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(names):
        rows = [row for row in comparison.rows if row["recipe"] == name]
        places = [groups.index((row["stage"], row["split"])) + number * height for row in rows]
        axes.barh(
            places,
            [100 * row["miou_mean"] for row in rows],
            height=height,
            xerr=[100 * row["miou_deviation"] for row in rows],
            label=name,
        )
    axes.set_yticks(
        [index + 0.4 - height / 2 for index in range(len(groups))],
        [f"{stage} ({split})" for stage, split in groups],
    )
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("mIoU in percent, mean and deviation over seeds")
    axes.legend()
    with atomic_path(comparison.folder / "comparison.png") as temporary:
        figure.savefig(temporary, dpi=120)

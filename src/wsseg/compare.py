"""Several recipes on the same data and split: a table and a plot, mean ± deviation over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsseg import console
from wsseg.atomic import atomic_path, write_json, write_text
from wsseg.errors import RecipeError
from wsseg.intake import open_data
from wsseg.pipeline import run
from wsseg.recipe import load_recipe


@dataclass(frozen=True)
class Comparison:
    """The numbers of every recipe, stage and split.

    Args:
        rows: One dictionary per (recipe, stage, split): ``recipe, stage, split, tuned_on_masks,
            miou_mean, miou_deviation, num_seeds``; mIoU as fractions.
        seconds: Mean duration of a run in seconds, per recipe.
        folder: Where the runs, ``comparison.csv``, ``comparison.json`` and ``comparison.png`` lie.
    """

    rows: tuple[dict[str, Any], ...]
    seconds: dict[str, float]
    folder: Path

    def text(self) -> str:
        """Draw the table for people; mIoU in percent."""
        head = f"{'recipe':<16} {'stage':<28} {'split':<6} {'mIoU %':>14}"
        lines = [head, "-" * len(head)]
        for row in self.rows:
            value = f"{100 * row['miou_mean']:.1f} ± {100 * row['miou_deviation']:.1f}"
            mark = "  tuned on masks" if row["tuned_on_masks"] else ""
            lines.append(
                f"{row['recipe']:<16} {row['stage']:<28} {row['split']:<6} {value:>14}{mark}"
            )
        lines += [f"{name}: {seconds:.0f} s per run" for name, seconds in self.seconds.items()]
        lines.append(f"Table and plot: {self.folder}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Say the same for machines."""
        return {"rows": list(self.rows), "seconds": self.seconds, "folder": str(self.folder)}


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

    Args:
        data: Folder with images, labels and ground-truth masks.
        recipes: Names or YAML files.
        num_seeds: Runs per recipe, with the seeds 0, 1, 2, ...
        overrides: ``"key=value"`` changes applied to every recipe.
        out: Folder of the runs and of the table.
        use_masks: Let masks tune thresholds and choose checkpoints.

    Returns:
        The comparison; the deviation is the sample standard deviation over seeds, 0 for one seed.

    Raises:
        RecipeError: When a recipe is wrong, or two of them have the same name.
        DataError: When the data cannot be used.
    """
    import time

    loaded = {name: load_recipe(name, overrides) for name in recipes}
    labels = [Path(name).stem for name in recipes]
    if len(set(labels)) < len(labels) or not labels:
        raise RecipeError(f"--recipes needs different names, got: {', '.join(labels) or 'none'}.")
    dataset, _ = open_data(data, use_masks=use_masks)
    collected: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for label, recipe in zip(labels, loaded.values(), strict=True):
        durations = []
        for seed in range(num_seeds):
            console.info(f"compare: {label}, seed {seed}")
            started = time.perf_counter()
            finished = run(
                dataset,
                recipe=recipe.model_copy(update={"seed": seed}),
                out=out / f"{label}-seed{seed}",
                use_masks=use_masks,
            )
            durations.append(time.perf_counter() - started)
            collected += [
                {"recipe": label, "seed": seed, **stage}
                for stage in finished.metrics.get("stages", [])
            ]
        seconds[label] = float(np.mean(durations))
    comparison = Comparison(tuple(_summarise(collected)), seconds, out)
    _write(comparison)
    return comparison


def _summarise(collected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, str, bool], list[float]] = {}
    for stage in collected:
        key = (stage["recipe"], stage["label"], stage["split"], stage["tuned_on_masks"])
        if stage["miou"] is not None:
            groups.setdefault(key, []).append(stage["miou"])
    return [
        {
            "recipe": recipe,
            "stage": stage,
            "split": split,
            "tuned_on_masks": tuned,
            "miou_mean": float(np.mean(values)),
            "miou_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            "num_seeds": len(values),
        }
        for (recipe, stage, split, tuned), values in groups.items()
    ]


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
    axes.invert_yaxis()
    axes.set_xlabel("mIoU in percent, mean and deviation over seeds")
    axes.legend()
    with atomic_path(comparison.folder / "comparison.png") as temporary:
        figure.savefig(temporary, dpi=120)

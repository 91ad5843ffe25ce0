"""Reads a run folder into `ReportData`.

Only files of the run folder are read, and the images and ground-truth masks that its
``samples.jsonl`` names. Every part may be missing: a run without segmenter, without ground truth,
or one that was killed half-way still gives a report. A file that is there and cannot be read is
listed in ``problems``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from wsseg.data.dataset import SPLITS, Dataset, Sample
from wsseg.data.labels import ClassList
from wsseg.errors import DataError
from wsseg.report.gallery import build_gallery
from wsseg.report.model import ClassCount, DataSummary, OutputFolder, ReportData
from wsseg.report.overlays import display_palette
from wsseg.report.provenance import num_painted, read_recipe, read_stage_runs
from wsseg.report.results import read_curves, read_results

_OUTPUTS = (
    ("masks", "*.png", "pseudo masks, one palette PNG per image: the product"),
    ("predictions", "*.png", "masks predicted by the segmenter"),
    ("localize", "*.safetensors", "the localizer's checkpoints"),
    ("segment", "*.safetensors", "the segmenter's checkpoints"),
)
_SINGLE_OUTPUTS = (
    ("metrics.json", "every number of this page"),
    ("recipe.yaml", "the recipe; feeding it back repeats the run"),
    ("samples.jsonl", "the data set as it was read"),
)


def collect(run_dir: Path, *, max_images: int = 60) -> ReportData:
    """Read what a run folder holds.

    Args:
        run_dir: The run folder.
        max_images: Images in the gallery; their pictures together stay below 9 MB for up to 60
            images and are made smaller beyond.

    Returns:
        Everything that the report says.

    Raises:
        DataError: When ``run_dir`` is not a folder, or holds nothing of a run.
    """
    run_dir = Path(run_dir)
    _require_run(run_dir)
    problems: list[str] = []
    dataset = _read_dataset(run_dir, problems)
    classes = dataset.classes if dataset else ClassList(())
    colours = _colours(classes)
    stages, classifier = read_results(run_dir, colours, problems)
    stage_runs, failures = read_stage_runs(run_dir)
    samples = dataset.samples if dataset else ()
    gallery, num_shown_of = build_gallery(run_dir, samples, classes, max_images)
    return ReportData(
        run_dir=str(run_dir),
        name=run_dir.resolve().name,
        class_names=classes.names,
        class_colours=colours,
        recipe=read_recipe(run_dir, problems),
        data=_summary(dataset, colours, num_painted(run_dir)) if dataset else None,
        stages=stages,
        classifier=classifier,
        curves=read_curves(run_dir),
        stage_runs=stage_runs,
        failures=failures,
        gallery=gallery,
        num_shown_of=num_shown_of,
        outputs=tuple(_outputs(run_dir)),
        problems=tuple(problems),
    )


def _require_run(run_dir: Path) -> None:
    if not run_dir.is_dir():
        raise DataError(
            f"{run_dir} is not a folder. Give the folder of a run, such as runs/NAME; "
            "`wsseg run DATA` makes one."
        )
    parts = ("recipe.yaml", "samples.jsonl", "metrics.json", "masks", "localize", "segment")
    if not any((run_dir / part).exists() for part in parts):
        raise DataError(
            f"{run_dir} is not a run: it has none of {', '.join(parts)}. Give the folder that "
            "`wsseg run` made."
        )


def _read_dataset(run_dir: Path, problems: list[str]) -> Dataset | None:
    path = run_dir / "samples.jsonl"
    if not path.is_file():
        return None
    try:
        return Dataset.from_jsonl(path)
    except DataError as error:
        problems.append(f"samples.jsonl cannot be read: {error}")
        return None


def _colours(classes: ClassList) -> tuple[str, ...]:
    palette = display_palette(classes)[: classes.num_classes + 1]
    return tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.tolist())


def _summary(dataset: Dataset, colours: tuple[str, ...], painted: int) -> DataSummary:
    samples = dataset.samples
    counts = Counter(sample.split for sample in samples)
    kinds = Counter(str(kind) for sample in samples for kind in sample.labels.kinds)
    if painted:
        kinds["painted masks"] = painted
    return DataSummary(
        source=f"{dataset.root} ({dataset.source})",
        notes=dataset.notes,
        splits={name: counts[name] for name in SPLITS if counts[name]},
        rows=_rows(samples, dataset.classes, colours),
        num_truth=sum(sample.mask_path is not None for sample in samples),
        label_kinds=dict(kinds),
    )


def _rows(
    samples: tuple[Sample, ...], classes: ClassList, colours: tuple[str, ...]
) -> tuple[ClassCount, ...]:
    carried = Counter((c, sample.split) for sample in samples for c in sample.labels.class_ids())
    ok = Counter(sample.split for sample in samples if sample.labels.is_ok)
    unlabelled = Counter(sample.split for sample in samples if not sample.labels.kinds)
    rows = [
        ClassCount(
            class_id,
            name,
            colours[class_id],
            {str(split): carried[class_id, split] for split in SPLITS},
        )
        for class_id, name in enumerate(classes.names, start=1)
    ]
    rows.append(ClassCount(None, "no class (ok)", "", {str(split): ok[split] for split in SPLITS}))
    if unlabelled:
        counts = {str(split): unlabelled[split] for split in SPLITS}
        rows.append(ClassCount(None, "not labelled", "", counts))
    return tuple(rows)


def _outputs(run_dir: Path) -> list[OutputFolder]:
    found = []
    for name, pattern, what in _OUTPUTS:
        count = sum(1 for _ in (run_dir / name).rglob(pattern)) if (run_dir / name).is_dir() else 0
        if count:
            found.append(OutputFolder(f"{name}/", what, count))
    for name, what in _SINGLE_OUTPUTS:
        if (run_dir / name).is_file():
            found.append(OutputFolder(name, what, 1))
    return found

"""Writes the report: one HTML file that needs nothing else.

Style, script, charts and pictures are inside the file; a content security policy in its head
forbids every request. All texts are escaped by the template engine.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsseg._version import __version__
from wsseg.atomic import write_text
from wsseg.report.charts import meter
from wsseg.report.collect import collect
from wsseg.report.figures import curve_figures, stage_figures, threshold_figures
from wsseg.report.model import ReportData, StageResult, StageRun
from wsseg.report.tables import confusion_table, largest_confusions

if TYPE_CHECKING:
    from jinja2 import Template

REPORT_FILE = "report.html"
MAX_FAILURES_SHOWN = 200
_MAX_MATRIX_CLASSES = 26
_SECTIONS = (
    ("ran", "What ran"),
    ("data", "On what"),
    ("stages", "Stage by stage"),
    ("classes", "Class by class"),
    ("training", "Training"),
    ("failed", "Failed"),
    ("files", "Files, and what next"),
    ("gallery", "Images"),
)


def build_report(run_dir: Path, *, max_images: int = 60) -> Path:
    """Write ``report.html`` into a run folder.

    Args:
        run_dir: The run folder; any part of it may be missing.
        max_images: Images in the gallery. With up to 60 the file stays below 10 MB.

    Returns:
        The path of the report.

    Raises:
        DataError: When ``run_dir`` is not a run.
        OutputError: When the file cannot be written; an older report is then still there.
    """
    path = Path(run_dir) / REPORT_FILE
    write_text(path, render(collect(Path(run_dir), max_images=max_images)))
    return path


def render(data: ReportData) -> str:
    """Turn a run's data into the HTML page.

    Args:
        data: What `collect` read.

    Returns:
        The whole page.
    """
    from markupsafe import Markup

    tuned = [stage for stage in data.stages if stage.tuned_on_masks]
    return _template().render(
        data=data,
        style=Markup(_resource("report.css")),
        script=Markup(_resource("report.js")),
        version=__version__,
        sections=_SECTIONS,
        headline=_headline(data),
        badges=_badges(data),
        cards=_cards(data),
        is_tuned=bool(data.recipe and data.recipe.tuned_on_masks) or _main_is_tuned(data),
        tuned_stages=[f"{stage.label} ({stage.split})" for stage in tuned],
        stage_charts=[*stage_figures(data.stages), *threshold_figures(data.stages)],
        curve_charts=curve_figures(data.curves),
        class_tables=[_class_table(stage) for stage in _by_importance(data.stages)],
        gallery_text=_gallery_text(data),
        gallery_splits=sorted({item.split for item in data.gallery}),
        next_steps=list(_next_steps(data)),
        max_failures=MAX_FAILURES_SHOWN,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(count=count, duration=duration, meter=meter)
    return environment.from_string(_resource("template.html.j2"))


def _resource(name: str) -> str:
    return (files("wsseg.report") / name).read_text("utf-8")


def count(number: int, one: str, many: str = "") -> str:
    """Write a number with its noun.

    Example:
        >>> count(1, "image"), count(1200, "image"), count(2, "entry", "entries")
        ('1 image', '1,200 images', '2 entries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """Write a time span for people.

    Example:
        >>> duration(0.4), duration(75), duration(7322), duration(None)
        ('0.4 s', '1 min 15 s', '2 h 2 min', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _headline(data: ReportData) -> str:
    parts = []
    if data.recipe:
        parts.append(f"recipe {data.recipe.name}")
    if data.data:
        num_images = sum(data.data.splits.values())
        parts.append(f"{count(num_images, 'image')}, {_classes_text(len(data.class_names))}")
    ends = [run.finished for run in data.stage_runs if run.finished is not None]
    if ends:
        parts.append(f"finished {datetime.fromtimestamp(max(ends), UTC):%Y-%m-%d %H:%M} UTC")
    if any(run.state == "running" for run in data.stage_runs):
        parts.append("not all stages are finished")
    return " · ".join(parts)


def _badges(data: ReportData) -> list[str]:
    """Name the supervision and the outside knowledge in a few words."""
    if data.recipe is None:
        return []
    started = dict.fromkeys(weights for _, weights in data.recipe.pretraining)
    words = [text if text == "from scratch" else f"pre-trained: {text}" for text in started]
    return [*data.recipe.supervision, *words]


def _classes_text(num_classes: int) -> str:
    return count(num_classes, "class", "classes")


def _main_is_tuned(data: ReportData) -> bool:
    """Tell whether a number of the summary was tuned on masks."""
    return any(
        stage.tuned_on_masks for stage in (_best(data, "segment"), _best(data, "pseudo")) if stage
    )


def _best(data: ReportData, kind: str) -> StageResult | None:
    """Find the entry of a stage that counts: honest before tuned, unseen before seen images."""
    splits = {"test": 0, "val": 1}
    entries = [stage for stage in data.stages if stage.stage == kind]
    return min(
        entries, key=lambda stage: (stage.tuned_on_masks, splits.get(stage.split, 2)), default=None
    )


def _by_importance(stages: tuple[StageResult, ...]) -> list[StageResult]:
    """Put the final results first: the last stages, unseen images before seen ones."""
    order = {"segment": 0, "pseudo": 1}
    splits = {"test": 0, "val": 1}

    def key(stage: StageResult) -> tuple[int, bool, int]:
        return order.get(stage.stage, 2), stage.tuned_on_masks, splits.get(stage.split, 2)

    return sorted((stage for stage in stages if stage.classes), key=key)


def _cards(data: ReportData) -> list[dict[str, Any]]:
    cards = []
    for kind, label in (("segment", "Segmenter mIoU"), ("pseudo", "Pseudo-mask mIoU")):
        stage = _best(data, kind)
        if stage is not None and stage.miou is not None:
            note = f"{stage.split}, {count(stage.num_images, 'image')}"
            if stage.tuned_on_masks:
                note += ", tuned on masks"
            cards.append(_card(label, f"{100 * stage.miou:.1f}", "%", note))
    if data.classifier is not None and data.classifier.mean_ap is not None:
        value = f"{100 * data.classifier.mean_ap:.1f}"
        cards.append(_card("Classifier mAP", value, "%", data.classifier.split))
    if not data.stages:
        cards.append(_card("mIoU", "–", "", "no ground truth was scored"))
    cards[0]["is_main"] = True
    cards += [
        _card("Pseudo masks", f"{output.num_files:,}", "", "in masks/")
        for output in data.outputs
        if output.path == "masks/"
    ]
    doubts = sorted(item.doubt for item in data.gallery if item.doubt is not None)
    if doubts and not data.stages:
        cards.append(_card("Highest doubt", f"{doubts[-1]:.2f}", "", "label-free, 0 is sure"))
    failed = len({failure.id for failure in data.failures})
    cards.append(_card("Failed images", f"{failed:,}", "", ""))
    seconds = _working_seconds(data)
    if seconds is not None:
        cards.append(_card("Working time", duration(seconds), "", "all stages"))
    return cards


def _working_seconds(data: ReportData) -> float | None:
    """Add up the stages; the time of one holds that of those inside of it, such as rounds."""
    times = [
        run.seconds
        for run in data.stage_runs
        if run.seconds is not None and not any(_holds(other, run) for other in data.stage_runs)
    ]
    return sum(times) if times else None


def _holds(outer: StageRun, inner: StageRun) -> bool:
    """Tell whether a stage was done while another one ran, in a folder inside of it."""
    if not inner.name.startswith(f"{outer.name}/"):
        return False
    # Predictions with boxes are made when the segmenter is complete.
    return outer.finished is None or inner.finished is None or inner.finished <= outer.finished


def _card(label: str, value: str, unit: str, note: str) -> dict[str, Any]:
    return {"label": label, "value": value, "unit": unit, "note": note, "is_main": False}


def _class_table(stage: StageResult) -> dict[str, Any]:
    fits = 0 < len(stage.confusion) <= _MAX_MATRIX_CLASSES
    return {
        "stage": stage,
        "matrix": confusion_table(stage) if fits else None,
        "confusions": largest_confusions(stage),
    }


def _gallery_text(data: ReportData) -> str:
    shown, all_images = len(data.gallery), data.num_shown_of
    if all(item.doubt is None for item in data.gallery):
        order = "in the order of their names, because no doubt scores are there"
    else:
        order = "the most doubtful first (doubt needs no ground truth)"
    if shown == all_images:
        return f"{count(shown, 'image')}, {order}."
    return (
        f"{shown:,} of {count(all_images, 'image')}, {order}: in each split two thirds are the "
        "most doubtful ones and one third is spread over the rest."
    )


def _next_steps(data: ReportData) -> Iterator[dict[str, str]]:
    run = shlex.quote(data.run_dir)
    if data.failures:
        yield _step("Repair or remove the failed images and run the same command again.")
    if data.gallery:
        yield _step(
            "Look at the first images of the gallery. A wrong or missing tag there costs more "
            "than any setting: correct it and run again; only what depends on it is done again."
        )
    if not data.stages:
        yield _step(
            "To get numbers, paint masks for some images and compare.",
            f"wsseg evaluate {run}/masks GROUND_TRUTH",
        )
    written = {output.path for output in data.outputs}
    if "segment/" in written or "predictions/" in written:
        yield _step("Segment new images.", f"wsseg predict {run} NEW_IMAGES")
        yield _step("Take the model elsewhere.", f"wsseg export {run} --to onnx")
    if "masks/" in written:
        yield _step("Take the masks to an annotation tool.", f"wsseg export {run} --to coco")
    yield _step("See what every setting means.", "wsseg recipes explain")


def _step(text: str, command: str = "") -> dict[str, str]:
    return {"text": text, "command": command}

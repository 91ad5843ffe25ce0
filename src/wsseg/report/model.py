"""What a report says, as plain data: read by `collect`, written out by `render`.

Nothing here knows files or HTML. A part that a run does not have is ``None`` or empty, and the
report then says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TileKind = Literal["image", "labels", "map", "mask", "prediction", "truth"]


@dataclass(frozen=True)
class Picture:
    """An image ready to be put into a page.

    Args:
        uri: A ``data:`` address with the whole encoded image.
        width: Pixels.
        height: Pixels.
    """

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Tile:
    """One picture of a gallery row, or the reason why it is missing.

    Args:
        kind: What it shows.
        title: The words under it.
        picture: The picture, or None when it could not be made.
        note: Why there is no picture; empty when there is one.
    """

    kind: TileKind
    title: str
    picture: Picture | None = None
    note: str = ""


@dataclass(frozen=True)
class GalleryItem:
    """One image of the gallery.

    Args:
        id: The image id.
        split: ``train``, ``val`` or ``test``.
        doubt: How unsure the pseudo mask is, without looking at labels; None where unknown.
        class_ids: Foreground classes of its weak labels, ascending; None when it is untagged.
        tiles: Image, shapes that people drew, maps, pseudo mask, predictions and ground truth, as
            far as they exist.
        num_hidden_maps: Present classes whose map is left out to keep the report small.
        led_by: Kind of label that led where kinds are mixed; empty elsewhere.
        corrected_frac: Part of the pixels that a correction by a person says something of.
    """

    id: str
    split: str
    doubt: float | None
    class_ids: tuple[int, ...] | None
    tiles: tuple[Tile, ...]
    num_hidden_maps: int = 0
    led_by: str = ""
    corrected_frac: float = 0.0


@dataclass(frozen=True)
class ClassCount:
    """How many images of each split carry a class.

    Args:
        id: The class id, or None for rows that are no class (``no class (ok)``, ``untagged``).
        name: The class name or the row's words.
        colour: The class's colour as ``#rrggbb``; empty for rows that are no class.
        counts: ``{split: images}``.
    """

    id: int | None
    name: str
    colour: str
    counts: dict[str, int]


@dataclass(frozen=True)
class DataSummary:
    """What the run worked on.

    Args:
        source: Where and in what format the data set was found.
        notes: What the reader decided on its own.
        splits: ``{split: images}`` in the order train, val, test; only splits that have images.
        rows: One row per class, then images without a class and untagged images.
        num_truth: Images that have a ground-truth mask.
        label_kinds: ``{kind of weak label: images}``, such as ``{"tags": 40, "boxes": 3}``.
    """

    source: str
    notes: tuple[str, ...]
    splits: dict[str, int]
    rows: tuple[ClassCount, ...]
    num_truth: int
    label_kinds: dict[str, int]


@dataclass(frozen=True)
class RecipeSummary:
    """What ran.

    Args:
        name: The recipe's name.
        title: One line about it.
        paper: The publication it follows; empty where there is none.
        steps: ``(stage, method, settings)`` in the order of the run.
        supervision: What was used beside the images' weak labels: ``I``, ``+S``, ``+SAM`` ...
        pretraining: ``(network, weights)`` for every trained network.
        tuned_on_masks: What was chosen with the help of ground-truth masks, in words.
        seed: The random seed, or None when it is not recorded.
        facts: ``(what, value)``: versions, machine, dates.
        text: The resolved recipe file, word by word.
    """

    name: str
    title: str
    paper: str
    steps: tuple[tuple[str, str, str], ...]
    supervision: tuple[str, ...]
    pretraining: tuple[tuple[str, str], ...]
    tuned_on_masks: tuple[str, ...]
    seed: int | None
    facts: tuple[tuple[str, str], ...]
    text: str


@dataclass(frozen=True)
class ClassResult:
    """How well one class was found; fractions in [0, 1], None where undefined."""

    id: int
    name: str
    colour: str
    iou: float | None
    precision: float | None
    recall: float | None
    boundary_iou: float | None
    gt_pixels: int | None


@dataclass(frozen=True)
class StageResult:
    """The numbers of one stage on one split; fractions in [0, 1], None where undefined.

    Args:
        stage: ``localize``, ``refine/NAME``, ``pseudo`` or ``segment``.
        label: The stage in words.
        split: ``train``, ``val`` or ``test``.
        tags: ``oracle`` when the true tags chose the classes, ``predicted`` when the classifier
            did, None where tags play no part.
        threshold: Foreground threshold of the maps, None where there is none.
        tuned_on_masks: Whether ground-truth masks chose something in it.
        num_images: Images scored.
        miou: Mean IoU with background.
        miou_foreground: Mean IoU without background.
        pixel_accuracy: Share of pixels that are right.
        boundary_iou: Mean boundary IoU.
        ignored: Share of pixels left open (255) in the result; they count as misses.
        classes: One entry per class, background first.
        confusion: (C+1, C+1) pixel counts, rows the truth, columns the result; or empty.
        curve: ``(threshold, mIoU)`` pairs of a sweep; empty where none was made.
    """

    stage: str
    label: str
    split: str
    tags: str | None
    threshold: float | None
    tuned_on_masks: bool
    num_images: int
    miou: float | None
    miou_foreground: float | None
    pixel_accuracy: float | None
    boundary_iou: float | None
    ignored: float | None
    classes: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...]
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ClassifierResult:
    """Average precision of the image classifier.

    Args:
        split: The split it was measured on.
        mean_ap: Mean over classes, in [0, 1].
        ap: ``{class name: average precision}``; None for a class without positive images.
    """

    split: str
    mean_ap: float | None
    ap: dict[str, float | None]


@dataclass(frozen=True)
class Curve:
    """One quantity over the epochs of one training.

    Args:
        stage: The stage that was trained.
        name: The quantity.
        xs: Epochs.
        ys: Values, same length.
    """

    stage: str
    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True)
class StageRun:
    """How one stage went.

    Args:
        name: Its folder below the run folder.
        state: ``done``, ``running`` (killed or still at work), or empty where unknown.
        seconds: Working time, or None where unknown.
        finished: When it was done, in seconds since 1970 UTC, or None where unknown.
        num_done: Images finished.
        num_failed: Images given up.
    """

    name: str
    state: str
    seconds: float | None
    finished: float | None
    num_done: int
    num_failed: int


@dataclass(frozen=True)
class Failure:
    """An image that a stage could not do, and why."""

    stage: str
    id: str
    reason: str


@dataclass(frozen=True)
class OutputFolder:
    """A place where results lie.

    Args:
        path: Relative to the run folder.
        what: What lies there, in words.
        num_files: Number of result files.
    """

    path: str
    what: str
    num_files: int


@dataclass(frozen=True)
class ReportData:
    """Everything a report says about one run.

    Args:
        run_dir: The run folder's path, as given.
        name: The run's name (its folder's name).
        class_names: Foreground class names; id is the position + 1.
        class_colours: ``#rrggbb`` per class id, background first.
        recipe: What ran, or None when ``recipe.yaml`` is missing.
        data: On what, or None when ``samples.jsonl`` is missing.
        stages: Results per stage; empty without ground truth.
        classifier: The classifier's result, or None.
        curves: Training curves.
        stage_runs: How the stages went.
        failures: Images that failed.
        gallery: Images, the most doubtful first.
        num_shown_of: Images that could have been in the gallery.
        outputs: Where the results are.
        problems: Files of the run folder that could not be read, with the reason.
    """

    run_dir: str
    name: str
    class_names: tuple[str, ...] = ()
    class_colours: tuple[str, ...] = ()
    recipe: RecipeSummary | None = None
    data: DataSummary | None = None
    stages: tuple[StageResult, ...] = ()
    classifier: ClassifierResult | None = None
    curves: tuple[Curve, ...] = ()
    stage_runs: tuple[StageRun, ...] = ()
    failures: tuple[Failure, ...] = ()
    gallery: tuple[GalleryItem, ...] = ()
    num_shown_of: int = 0
    outputs: tuple[OutputFolder, ...] = ()
    problems: tuple[str, ...] = field(default=())

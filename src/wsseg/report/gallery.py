"""The gallery: which images are shown, in which order, and their pictures.

Most doubtful first, because those repay a look: a wrong tag, a class that was missed, a method
that does not fit. A third of the places goes to images spread evenly over the remaining ranking,
so that the page does not make a good run look bad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsseg.atomic import read_jsonl
from wsseg.data.dataset import SPLITS, Sample
from wsseg.data.image_io import read_image, read_mask
from wsseg.data.labels import ClassList
from wsseg.data.scores import Scores, load_scores
from wsseg.errors import DataError
from wsseg.localize.kinds import led_by
from wsseg.report.label_shapes import draw_shapes, shapes_text
from wsseg.report.model import GalleryItem, Picture, Tile, TileKind
from wsseg.report.overlays import heatmap, overlay, shrink_mask
from wsseg.report.pictures import picture, thumbnail
from wsseg.rundir import KNOWS_BACKGROUND, MANIFEST_FILE, StageDir

MAX_MAPS = 3
MAX_PICTURE_BYTES = 26_000
# Base64 adds a third: 6.6 MB of pictures are 8.8 MB of page, which leaves room for the rest
# below 10 MB.
MAX_TOTAL_BYTES = 6_600_000
_USUAL_TILES = 4 + MAX_MAPS
BOXED_FOLDER = "segment/with_boxes"
_MOST_DOUBTFUL_SHARE = 2 / 3


def read_doubt(run_dir: Path) -> dict[str, float]:
    """Read the doubt score of every pseudo mask.

    Args:
        run_dir: The run folder.

    Returns:
        ``{image id: doubt}``; empty when the run has none.
    """
    doubt = {}
    for line in read_jsonl(run_dir / "masks" / "doubt.jsonl"):
        if isinstance(line, dict) and isinstance(line.get("doubt"), int | float):
            doubt[str(line.get("id"))] = float(line["doubt"])
    return {image_id: value for image_id, value in doubt.items() if math.isfinite(value)}


def choose(
    samples: Sequence[Sample], doubt: dict[str, float], max_images: int
) -> tuple[Sample, ...]:
    """Choose the images to show, the most doubtful first.

    Every split gets a fair share of the places. Within a split two thirds go to the most
    doubtful images and the rest is spread evenly over the ranking behind them.

    Args:
        samples: Images that have something to show.
        doubt: ``{image id: doubt}``; images without one rank last.
        max_images: Number of places.

    Returns:
        At most ``max_images`` samples by falling doubt, then by id.
    """

    def rank(sample: Sample) -> tuple[float, str]:
        return -doubt.get(sample.id, -math.inf), sample.id

    by_split = {name: sorted((s for s in samples if s.split == name), key=rank) for name in SPLITS}
    places = _fair_shares({name: len(group) for name, group in by_split.items()}, max_images)
    chosen = [s for name, group in by_split.items() for s in _pick(group, places[name])]
    return tuple(sorted(chosen, key=rank))


def _fair_shares(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Hand out places evenly; what a small group cannot use goes to the others."""
    shares = dict.fromkeys(sizes, 0)
    left = min(max(0, total), sum(sizes.values()))
    while left:
        for name, size in sizes.items():
            if left and shares[name] < size:
                shares[name] += 1
                left -= 1
    return shares


def _pick(ranked: list[Sample], places: int) -> list[Sample]:
    if places >= len(ranked):
        return ranked
    top = math.ceil(places * _MOST_DOUBTFUL_SHARE)
    rest, wanted = ranked[top:], places - top
    spread = [rest[(index + 1) * len(rest) // wanted - 1] for index in range(wanted)]
    return ranked[:top] + spread


def build_gallery(
    run_dir: Path, samples: Sequence[Sample], classes: ClassList, max_images: int
) -> tuple[tuple[GalleryItem, ...], int]:
    """Choose images and make their pictures.

    Args:
        run_dir: The run folder.
        samples: All samples of the run.
        classes: The class list.
        max_images: Number of places.

    Returns:
        The items, the most doubtful first, and the number of images there were to choose from.
    """
    folder = scores_folder(run_dir)
    shown = [s for s in samples if _has_results(run_dir, folder, s.id)] or list(samples)
    doubt = read_doubt(run_dir)
    chosen = choose(shown, doubt, max_images)
    num_tiles = _USUAL_TILES * len(chosen) + _num_more(run_dir, chosen)
    max_bytes = min(MAX_PICTURE_BYTES, MAX_TOTAL_BYTES // max(1, num_tiles))
    leading = led_by(_lines(run_dir / "localize"))
    corrected = _lines(run_dir / "masks")
    maker = _TileMaker(run_dir, folder, classes, max_bytes)
    items = []
    for sample in chosen:
        tiles, num_hidden = maker.tiles(sample)
        labels = sample.labels
        class_ids = None if not labels.kinds else tuple(sorted(labels.class_ids()))
        items.append(
            GalleryItem(
                sample.id,
                sample.split,
                doubt.get(sample.id),
                class_ids,
                tiles,
                num_hidden,
                leading.get(sample.id, ""),
                float(corrected.get(sample.id, {}).get("corrected_frac", 0.0)),
            )
        )
    return tuple(items), len(shown)


def _num_more(run_dir: Path, chosen: Sequence[Sample]) -> int:
    """Count the tiles that not every run has."""
    boxed = run_dir / BOXED_FOLDER
    return sum(
        bool(shapes_text(sample.labels)) + (boxed / f"{sample.id}.png").is_file()
        for sample in chosen
    )


def _lines(stage: Path) -> dict[str, dict[str, Any]]:
    """Read the last line of each image in the manifest of a stage."""
    lines = (line for line in read_jsonl(stage / MANIFEST_FILE) if isinstance(line, dict))
    return {str(line.get("id")): line for line in lines}


def scores_folder(run_dir: Path) -> Path | None:
    """Find the maps to show: the localizer's, else those of the last refiner that kept any."""
    refined = sorted(run_dir.glob("refine/*/scores"), key=lambda path: _step_number(path.parent))
    candidates = [run_dir / "localize" / "scores", *reversed(refined)]
    return next((folder for folder in candidates if folder.is_dir()), None)


def _step_number(folder: Path) -> tuple[int, str]:
    digits = folder.name.split("_")[0]
    return (int(digits) if digits.isdigit() else 0, folder.name)


def _has_results(run_dir: Path, folder: Path | None, image_id: str) -> bool:
    files = [run_dir / "masks" / f"{image_id}.png", run_dir / "predictions" / f"{image_id}.png"]
    if folder is not None:
        files.append(folder / f"{image_id}.npz")
    return any(file.is_file() for file in files)


def cells_left_open(scores: Scores, *, knows_background: bool) -> NDArray[np.bool_] | None:
    """Find the cells of which maps say nothing at all.

    Args:
        scores: Maps of an image.
        knows_background: Whether the background row of all images of their stage is known; an
            image that shows no background has none then, and may be open all the same.

    Returns:
        (h, w) bool; None for maps of classes alone, where no evidence is no openness.
    """
    if not knows_background and not scores.values[0].any():
        return None
    return np.asarray(~scores.values.any(axis=0))


class _TileMaker:
    """Makes the pictures of one image; a file that cannot be read becomes a note."""

    def __init__(
        self, run_dir: Path, folder: Path | None, classes: ClassList, max_bytes: int
    ) -> None:
        self.run_dir, self.folder = run_dir, folder
        self.classes, self.max_bytes = classes, max_bytes
        state = {} if folder is None else StageDir(folder.parent, "").state()
        self.knows_background = bool(state.get(KNOWS_BACKGROUND))

    def tiles(self, sample: Sample) -> tuple[tuple[Tile, ...], int]:
        """Make all tiles, and count the maps left out."""
        try:
            source = read_image(sample.image_path)
            image = thumbnail(source)
        except DataError as error:
            return (Tile("image", "Image", note=str(error)),), 0
        maps, num_hidden = self._maps(image, sample.id)
        found = [Tile("image", "Image", self._encode(image))]
        drawn = shapes_text(sample.labels)
        if drawn:
            size = (source.shape[0], source.shape[1])
            shapes = draw_shapes(image, sample.labels, size, self.classes)
            found.append(Tile("labels", f"Labels: {drawn}", self._encode(shapes)))
        found += maps
        masks: list[tuple[TileKind, str, Path | None]] = [
            ("mask", "Pseudo mask", self.run_dir / "masks" / f"{sample.id}.png"),
            ("prediction", "Prediction", self.run_dir / "predictions" / f"{sample.id}.png"),
            (
                "prediction",
                "Prediction, with boxes",
                self.run_dir / BOXED_FOLDER / f"{sample.id}.png",
            ),
            ("truth", "Ground truth", sample.mask_path),
        ]
        for kind, title, path in masks:
            if path is not None and path.is_file():
                found.append(self._mask(kind, title, path, image))
        return tuple(found), num_hidden

    def _encode(self, image: NDArray[np.uint8]) -> Picture:
        return picture(image, max_bytes=self.max_bytes)

    def _mask(self, kind: TileKind, title: str, path: Path, image: NDArray[np.uint8]) -> Tile:
        def draw() -> NDArray[np.uint8]:
            mask = shrink_mask(read_mask(path), (image.shape[0], image.shape[1]))
            return overlay(image, mask, self.classes)

        return self._guarded(kind, title, draw)

    def _guarded(self, kind: TileKind, title: str, draw: Callable[[], NDArray[np.uint8]]) -> Tile:
        try:
            return Tile(kind, title, self._encode(draw()))
        except DataError as error:
            return Tile(kind, title, note=str(error))

    def _maps(self, image: NDArray[np.uint8], image_id: str) -> tuple[list[Tile], int]:
        path = None if self.folder is None else self.folder / f"{image_id}.npz"
        if path is None or not path.is_file():
            return [], 0
        try:
            scores = load_scores(path)
        except DataError as error:
            return [Tile("map", "Map", note=str(error))], 0
        rows = list(zip(scores.present, scores.values[1:], strict=True))
        # The strongest maps first: with many classes they decide the mask.
        rows.sort(key=lambda row: (-float(row[1].max()), row[0]))
        shown = sorted(rows[:MAX_MAPS], key=lambda row: row[0])
        left_open = cells_left_open(scores, knows_background=self.knows_background)
        tiles = []
        for class_id, values in shown:
            drawn = heatmap(image, values, left_open=left_open)
            tiles.append(Tile("map", f"Map: {self._name(class_id)}", self._encode(drawn)))
        return tiles, len(rows) - len(shown)

    def _name(self, class_id: int) -> str:
        known = 1 <= class_id <= self.classes.num_classes
        return self.classes.name_of(class_id) if known else f"class {class_id}"

"""Write boxes, points and scribbles beside ``labels.csv``, each kind into its own file.

* ``boxes.csv`` (``file,class,x0,y0,x1,y1``): half-open boxes in pixels.
* ``points.csv`` (``file,class,x,y``): pixels.
* ``scribbles.json``: ``{"images": {file: [{"class": name, "line": [[x, y], ...]}, ...]}}``; lines
  of the class "background" are among them.

``file`` is relative to ``images/``, as in ``labels.csv``. Pixel column 0 covers x from 0 to 1.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wsseg.data.dataset import Dataset, Sample


def write_shapes(dataset: Dataset, out_dir: Path) -> tuple[Path, ...]:
    """Write ``boxes.csv``, ``points.csv`` and ``scribbles.json``, each where there are such labels.

    Args:
        dataset: Samples with boxes, points or scribbles.
        out_dir: Folder to write to.

    Returns:
        The files written.

    Raises:
        OutputError: A file cannot be written.
    """
    from wsseg.atomic import write_text

    kinds = {kind for sample in dataset.samples for kind in sample.labels.kinds}
    texts = {
        "boxes.csv": _boxes_text(dataset) if "boxes" in kinds else None,
        "points.csv": _points_text(dataset) if "points" in kinds else None,
        "scribbles.json": _scribbles_text(dataset) if "scribbles" in kinds else None,
    }
    written = []
    for name, text in texts.items():
        if text is not None:
            write_text(out_dir / name, text)
            written.append(out_dir / name)
    return tuple(written)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a CSV table with a header and line feeds."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def _file_name(sample: Sample) -> str:
    return f"{sample.id}{sample.image_path.suffix}"


def _boxes_text(dataset: Dataset) -> str:
    rows = []
    for sample in dataset.samples:
        boxes = sample.labels.boxes
        if boxes is not None:
            for box, class_id in zip(boxes.xyxy, boxes.class_ids.tolist(), strict=True):
                name = dataset.classes.name_of(class_id)
                rows.append([_file_name(sample), name, *map(_number, box)])
    return csv_text(("file", "class", "x0", "y0", "x1", "y1"), rows)


def _points_text(dataset: Dataset) -> str:
    rows = []
    for sample in dataset.samples:
        points = sample.labels.points
        if points is not None:
            for point, class_id in zip(points.xy, points.class_ids.tolist(), strict=True):
                name = dataset.classes.name_of(class_id)
                rows.append([_file_name(sample), name, *map(_number, point)])
    return csv_text(("file", "class", "x", "y"), rows)


def _scribbles_text(dataset: Dataset) -> str:
    images = {}
    for sample in dataset.samples:
        scribbles = sample.labels.scribbles
        if scribbles is not None:
            images[_file_name(sample)] = [
                {"class": dataset.classes.name_of(class_id), "line": line.tolist()}
                for line, class_id in zip(
                    scribbles.lines, scribbles.class_ids.tolist(), strict=True
                )
            ]
    return json.dumps({"images": images}, ensure_ascii=False, indent=1) + "\n"


def _number(value: np.float32) -> str:
    """Write a float32 with as few digits as give it back exactly."""
    return np.format_float_positional(value, trim="-")

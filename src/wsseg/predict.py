"""Masks for new images with a trained model: palette PNG, overlays, COCO JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsseg import console
from wsseg.atomic import remove_temporaries
from wsseg.data.dataset import Sample
from wsseg.data.image_io import IMAGE_SUFFIXES, read_image, read_mask, write_mask
from wsseg.data.labels import Boxes, ClassList
from wsseg.data.listing import list_images
from wsseg.data.problems import Problems
from wsseg.errors import MAX_PROBLEMS_SHOWN, DataError
from wsseg.rundir import RunDir, StageDir, fingerprint
from wsseg.segment.predict import Predictor
from wsseg.segment.views import all_boxes


@dataclass(frozen=True)
class Predicted:
    """What was written.

    Args:
        masks: Folder of the palette PNGs.
        num_images: Images with a mask.
        failures: ``{image id: reason}``.
        written: Other files and folders that were written.
        num_with_boxes: Images that were predicted with their boxes; None where none were given.
    """

    masks: Path
    num_images: int
    failures: dict[str, str]
    written: tuple[Path, ...]
    num_with_boxes: int | None = None

    def text(self) -> str:
        """Say it for people."""
        lines = [f"{self.num_images} masks in {self.masks}"]
        if self.num_with_boxes is not None:
            lines.append(
                f"{self.num_with_boxes} of them predicted with boxes, "
                f"{self.num_images - self.num_with_boxes} without"
            )
        lines += [f"Also: {path}" for path in self.written]
        if self.failures:
            lines.append(f"{len(self.failures)} failed:")
            lines += [f"  - {why}" for why in list(self.failures.values())[:MAX_PROBLEMS_SHOWN]]
            hidden = len(self.failures) - MAX_PROBLEMS_SHOWN
            if hidden > 0:
                lines.append(f"  ... and {hidden} more")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Say it for machines."""
        content = {
            "masks": str(self.masks),
            "images": self.num_images,
            "failures": self.failures,
            "written": [str(path) for path in self.written],
        }
        if self.num_with_boxes is not None:
            content["with_boxes"] = self.num_with_boxes
        return content


def predict_folder(
    model: Path,
    images: Path,
    out: Path,
    *,
    overlay: bool = True,
    coco: bool = False,
    labels: Path | None = None,
    format: str | None = None,  # noqa: A002 - the word the command line uses
) -> Predicted:
    """Segment an image or a folder of images; a second call does only what is missing.

    Args:
        model: A run, a model bundle or an ONNX file.
        images: An image or a folder, sub-folders included.
        out: Folder for ``masks/``, ``overlays/`` and ``coco.json``.
        overlay: Write overlays beside the masks.
        coco: Write one COCO JSON of all masks.
        labels: Data set, in any readable layout, that holds these images with boxes, for networks
            that look at them; images without boxes are predicted without. None: no boxes.
        format: Name of the format of the labels, where several fit.

    Returns:
        What was written and which images failed.

    Raises:
        DataError: When there is no image, or no boxes of any of them are in the labels.
        RecipeError: When labels are given and the network does not look at boxes.
        MissingWeightsError: When there is no model, or it does not load.
        OutputError: When results cannot be written.
    """
    samples, problems = find_samples(images)
    predictor = Predictor.load(model)
    boxes = {} if labels is None else _boxes(labels, format, samples, predictor)
    folder = RunDir(out)
    mark = fingerprint("predict", str(model.resolve()), _state_of(model))
    stage = folder.stage("masks", mark)
    with folder.locked():
        stage.begin()
        remove_temporaries(out, below=False)
        remove_temporaries(out / "overlays")

        job = _Job(predictor, boxes, stage, out, overlay)
        stage.for_each(samples, job.do, title="predict", is_still_good=job.is_still_good)
        stage.finish()
        done = stage.usable(samples)
        written = [out / "overlays"] if overlay and done else []
        if coco:
            written.append(_write_coco(out / "coco.json", done, stage, predictor))
    wanted = {sample.id for sample in samples}
    failures = {key: why for key, why in stage.failures().items() if key in wanted}
    count = None if labels is None else sum(sample.id in boxes for sample in done)
    return Predicted(stage.path, len(done), problems | failures, tuple(written), count)


@dataclass(frozen=True)
class _Job:
    """What is done with every image."""

    predictor: Predictor
    boxes: dict[str, Boxes]
    stage: StageDir
    out: Path
    overlay: bool

    def do(self, sample: Sample) -> dict[str, Any]:
        """Write the mask of an image, and its overlay."""
        source = _source(sample, self.boxes)
        image = read_image(sample.image_path)
        mask = self.predictor.predict(image, boxes=self.boxes.get(sample.id)).mask
        if self.overlay:
            _write_overlay(_overlay_path(self.out, sample), image, mask, self.predictor)
        write_mask(self.stage.path / f"{sample.id}.png", mask)
        return {"source": source}

    def is_still_good(self, sample: Sample, line: dict[str, Any]) -> bool:
        """Another folder may hold another image of the same name, and boxes may change."""
        has_overlay = not self.overlay or _overlay_path(self.out, sample).is_file()
        return line.get("source") == _source(sample, self.boxes) and has_overlay


def _boxes(
    labels: Path, format_name: str | None, samples: Sequence[Sample], predictor: Predictor
) -> dict[str, Boxes]:
    """Read the boxes of the images, their classes numbered as the model does.

    Raises:
        RecipeError: When the network does not look at boxes.
        DataError: When no image has boxes, or a class is unknown to the model.
    """
    from wsseg.intake import open_data

    predictor.require_boxes()
    dataset, _ = open_data(labels, format=format_name)
    known = {
        sample.image_path.resolve(): boxes
        for sample in dataset.samples
        if (boxes := all_boxes(sample.labels)) is not None
    }
    found = {}
    for sample in samples:
        boxes = known.get(sample.image_path.resolve())
        if boxes is not None:
            found[sample.id] = _renumbered(boxes, dataset.classes, predictor.classes)
    if not found:
        raise DataError(
            f"--labels is {labels}, where {len(known)} images have boxes of all classes that they "
            "are tagged with, but none of them is among the images to predict. Give the data set "
            "that these image files belong to."
        )
    return found


def _renumbered(boxes: Boxes, theirs: ClassList, ours: ClassList) -> Boxes:
    names = [theirs.name_of(class_id) for class_id in boxes.class_ids.tolist()]
    return Boxes(boxes.xyxy, np.array([ours.id_of(name) for name in names], np.int64))


def _source(sample: Sample, boxes: dict[str, Boxes]) -> list[Any]:
    """Tell what a mask was made of: path, bytes and time of change of the image, and its boxes."""
    given = boxes.get(sample.id)
    told = [] if given is None else [[given.xyxy.tolist(), given.class_ids.tolist()]]
    path = sample.image_path.resolve()
    state = path.stat() if path.exists() else None
    return [str(path), state and state.st_size, state and state.st_mtime_ns, *told]


def _overlay_path(out: Path, sample: Sample) -> Path:
    return out / "overlays" / f"{sample.id}.jpg"


def find_samples(images: Path) -> tuple[list[Sample], dict[str, str]]:
    """List an image, or all images below a folder.

    Returns:
        The images; and the files that cannot be used: ``{file: what and remedy}``.

    Raises:
        DataError: When there is none.
    """
    if images.is_file():
        return [Sample(id=images.stem, image_path=images)], {}
    if not images.is_dir():
        raise DataError(f"{images} does not exist. Give an image or a folder of images.")
    problems = Problems()
    found = list_images(images, problems, root=images).images
    for problem in problems:
        console.warning(str(problem))
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"{images} holds no image ({suffixes}). Give another folder.")
    samples = [Sample(id=image_id, image_path=path) for image_id, path in found.items()]
    return samples, {problem.file: str(problem) for problem in problems.errors}


def _state_of(model: Path) -> list[int]:
    """Size and time of the model's weights, so that a new model predicts anew."""
    from wsseg.export.bundle import WEIGHTS_FILE, find_bundle

    path = model if model.suffix.lower() == ".onnx" else find_bundle(model) / WEIGHTS_FILE
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _write_overlay(path: Path, image: Any, mask: Any, predictor: Predictor) -> None:
    from PIL import Image

    from wsseg.atomic import atomic_path
    from wsseg.report.overlays import overlay

    picture = Image.fromarray(overlay(image, mask, predictor.classes))
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=90)


def _write_coco(
    path: Path, samples: Sequence[Sample], stage: StageDir, predictor: Predictor
) -> Path:
    from wsseg.export.coco import MaskedImage, write_coco

    def masked() -> Iterator[MaskedImage]:
        for sample in samples:
            mask = read_mask(stage.path / f"{sample.id}.png")
            yield MaskedImage(f"{sample.id}{sample.image_path.suffix}", mask)

    write_coco(path, masked(), predictor.classes)
    return path

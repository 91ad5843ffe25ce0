"""PASCAL VOC: ``JPEGImages/``, ``Annotations/``, ``ImageSets/`` and ``SegmentationClass/``.

Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010. The XML files give
tags and boxes, the lists give splits, the masks are ground truth. Lists come from
``ImageSets/Segmentation`` where there are any, else from ``ImageSets/Main``; ``train_aug.txt`` or
``trainaug.txt`` (the list extended by the Semantic Boundaries Dataset) stands for ``train.txt``.
Images in no list are left out; without lists all is training data. Objects marked as difficult
count, as in the usual training of classifiers on VOC, unless the user says otherwise.
Scribbles come from the files that `wsseg.data.formats.voc_scribbles` describes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from wsseg.data.dataset import Dataset, Sample, Split
from wsseg.data.formats.assemble import labels_of
from wsseg.data.formats.drawn import Annotated
from wsseg.data.formats.place import place
from wsseg.data.formats.protocol import Evidence, ReadOptions, empty_dataset
from wsseg.data.formats.split_lists import read_split_lists
from wsseg.data.formats.voc_scribbles import (
    read_scribbles,
    scribble_classes,
    scribble_files,
    with_names,
)
from wsseg.data.formats.voc_xml import VOC_CLASSES, VocObject, read_objects
from wsseg.data.image_io import image_size
from wsseg.data.labels import MAX_CLASSES, Boxes, ClassList, WeakLabels, class_name_fault
from wsseg.data.listing import Listing, list_images
from wsseg.data.mask_tags import tags_from_masks
from wsseg.data.problems import Problems
from wsseg.data.tables import read_class_table
from wsseg.errors import DataError, did_you_mean

NAME = "voc"

_LIST_FILES: dict[Split, tuple[str, ...]] = {
    "train": ("train_aug.txt", "trainaug.txt", "train.txt", "trainval.txt"),
    "val": ("val.txt",),
    "test": ("test.txt",),
}


def detect(path: Path) -> Evidence | None:
    """Recognise a folder by ``JPEGImages/``."""
    names = ("JPEGImages", "Annotations", "ImageSets", "SegmentationClass")
    found = [f"{name}/" for name in names if (path / name).is_dir()]
    return Evidence(NAME, ", ".join(found)) if "JPEGImages/" in found else None


def read(path: Path, problems: Problems, options: ReadOptions) -> Dataset:
    """Read images, tags, boxes, splits and ground-truth masks.

    Args:
        path: The folder with ``JPEGImages/``.
        problems: Receives unreadable XML files, unknown classes, boxes outside the image and
            list entries without image.
        options: What the user said; ``keep_difficult`` and ``image_set`` are for this format.

    Returns:
        The samples in the order of their ids; untagged where there is no XML file.
    """
    root = path.absolute()
    listing = list_images(root / "JPEGImages", problems, root=root, contain=True)
    notes: list[str] = []
    splits = _splits(root, listing, problems, options, notes)
    chosen = [name for name in listing.images if splits is None or name in splits]
    objects = {name: _objects(root, name, problems, options) for name in chosen}
    scribbles = _scribbles(root, listing, chosen, problems)
    names = {item.name for items in objects.values() for item in items or ()}
    drawn = {one.name for item in scribbles.values() if item for one in item.drawn or ()}
    if drawn:
        # Short names mean VOC's own classes; the strokes of other sets carry the objects' names.
        names |= set() if scribble_classes(drawn) == VOC_CLASSES else set(scribble_classes(drawn))
    classes = _class_list(root, names, problems, options)
    if classes is None:
        return empty_dataset(root, NAME, options)
    masks = _masks(root, problems)
    samples: list[Sample] | tuple[Sample, ...] = [
        Sample(
            id=name,
            image_path=listing.images[name],
            labels=labels,
            split=splits[name] if splits is not None else "train",
            mask_path=masks.get(name),
        )
        for name in chosen
        if (labels := _labels(objects[name], classes, f"Annotations/{name}.xml", problems))
        is not None
    ]
    samples = _with_scribbles(samples, scribbles, classes, problems)
    if options.use_masks:
        samples = tags_from_masks(samples, classes, problems, root=root)
    if not options.keep_difficult:
        notes.append("Objects marked as difficult left out.")
    return Dataset(root, classes, tuple(samples), NAME, tuple(notes))


def _masks(root: Path, problems: Problems) -> dict[str, Path]:
    folder = root / "SegmentationClass"
    if not folder.is_dir():
        return {}
    return list_images(folder, problems, root=root, contain=True).images


def _scribbles(
    root: Path, listing: Listing, chosen: list[str], problems: Problems
) -> dict[str, Annotated | None]:
    """Read the files of scribbles that belong to images; None for one that cannot be used."""
    files = scribble_files(root, problems)
    return {
        name: read_scribbles(files[name], name, listing.images[name], problems, root=root)
        for name in chosen
        if name in files
    }


def _with_scribbles(
    samples: Iterable[Sample],
    scribbles: dict[str, Annotated | None],
    classes: ClassList,
    problems: Problems,
) -> list[Sample]:
    """Add the strokes to their samples; a sample whose strokes cannot be used is left out.

    Where an image has no list of objects, the classes of its strokes are its tags.
    """
    kept = []
    for sample in samples:
        if sample.id in scribbles:
            item = scribbles[sample.id]
            if item is None:
                continue
            try:
                size = image_size(sample.image_path)
            except DataError as fault:
                problems.fault(sample.image_path, fault)
                continue
            placed = place(with_names(item, classes.names), size, classes, problems)
            if placed is None:
                continue
            found = labels_of(placed)
            tags = found.tags if sample.labels.tags is None else sample.labels.tags
            labels = replace(sample.labels, tags=tags, scribbles=found.scribbles)
            sample = replace(sample, labels=labels)
        kept.append(sample)
    return kept


def _splits(
    root: Path, listing: Listing, problems: Problems, options: ReadOptions, notes: list[str]
) -> dict[str, Split] | None:
    """Read the lists of the chosen image set; None when there are none."""
    sets = root / "ImageSets"
    names = (options.image_set,) if options.image_set else ("Segmentation", "Main")
    for name in names:
        paths: dict[Split, Path] = {}
        for split, files in _LIST_FILES.items():
            found = next(
                (sets / name / file for file in files if (sets / name / file).is_file()), None
            )
            if found is not None and not (found.name == "trainval.txt" and "val" in paths):
                paths[split] = found
        if "val" in paths and paths.get("train", Path()).name == "trainval.txt":
            # trainval.txt holds the validation images too.
            del paths["train"]
        if paths:
            used = ", ".join(file.name for file in paths.values())
            notes.append(f"Splits from ImageSets/{name} ({used}).")
            splits = read_split_lists(paths, listing.images.keys(), problems, root=root)
            left = len(listing.images) - len(splits)
            if left:
                notes.append(f"{left} image(s) in none of these lists left out.")
            return splits
    if options.image_set:
        problems.error(
            f"ImageSets/{options.image_set}",
            "has no list of images (train.txt, val.txt, ...).",
            "Choose another image set.",
        )
    return None


def _objects(
    root: Path, name: str, problems: Problems, options: ReadOptions
) -> tuple[VocObject, ...] | None:
    """Return the objects of an image; None where it has no readable XML file."""
    folder = root / "Annotations"
    path = folder / f"{name}.xml"
    if not folder.is_dir():
        return None
    if not path.is_file():
        problems.warning(
            f"Annotations/{name}.xml",
            "does not exist, so its image is not tagged.",
            "Add it, with no object if the image shows no class.",
        )
        return None
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        problems.error(
            f"Annotations/{name}.xml",
            "is a link out of the data folder.",
            "Copy the file into the data folder.",
        )
        return None
    found = read_objects(path, problems, root=root)
    if found is None:
        return None
    return tuple(item for item in found if options.keep_difficult or not item.is_difficult)


def _class_list(
    root: Path, found: set[str], problems: Problems, options: ReadOptions
) -> ClassList | None:
    """Take the user's classes, ``classes.csv``, VOC's twenty, or the names in sorted order."""
    if options.classes is not None:
        return options.classes
    if (root / "classes.csv").is_file():
        return read_class_table(root / "classes.csv", problems, root=root)
    names = sorted(found)
    if found <= set(VOC_CLASSES):
        return ClassList(VOC_CLASSES)
    faults = [f'"{name}" {fault}' for name in names if (fault := class_name_fault(name))]
    if len(names) > MAX_CLASSES:
        faults.append(f"{len(names)} names, at most {MAX_CLASSES} fit")
    if faults:
        problems.error("Annotations", f"has bad class names: {'; '.join(faults)}.", "Rename them.")
        return None
    if (root / "SegmentationClass").is_dir():
        problems.warning(
            "classes.csv",
            f"does not exist; the ids in SegmentationClass/ are taken as 1 = {names[0]} and so on "
            "in sorted order.",
            "Write the ids of the masks into classes.csv (id,name).",
        )
    return ClassList(tuple(names))


def _labels(
    objects: tuple[VocObject, ...] | None, classes: ClassList, file: str, problems: Problems
) -> WeakLabels | None:
    """Make tags and boxes; None when a class is unknown."""
    if objects is None:
        return WeakLabels()
    unknown = sorted({item.name for item in objects} - set(classes.names))
    if unknown:
        problems.error(
            file,
            f'class "{unknown[0]}" is not in the class list ({", ".join(classes.names)}).'
            f"{did_you_mean(unknown[0], classes.names)}",
            "Correct the name, or add the class.",
        )
        return None
    boxed = [item for item in objects if item.box is not None]
    boxes = None
    if boxed:
        import numpy as np

        xyxy = np.array([item.box for item in boxed], dtype=np.float32)
        ids = np.array([classes.id_of(item.name) for item in boxed], dtype=np.int64)
        boxes = Boxes(xyxy, ids)
    return WeakLabels(tags=frozenset(classes.id_of(item.name) for item in objects), boxes=boxes)

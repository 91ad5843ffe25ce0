"""What a check finds in the labels as a whole: classes, splits, groups, tags against masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from wsseg.data.check_files import FileFacts, shown_path
from wsseg.data.dataset import Dataset, Sample
from wsseg.data.findings import Finding
from wsseg.data.labels import BACKGROUND, IGNORE

FEW_IMAGES = 10
STRONG_IMBALANCE = 20.0
_NAMES_SHOWN = 5


def findings_of_labels(dataset: Dataset, facts: Sequence[FileFacts]) -> list[Finding]:
    """Judge tags, splits and groups of all samples.

    Args:
        dataset: The samples.
        facts: What was found in their files, in the same order.

    Returns:
        Findings about classes, splits and single images.
    """
    train = dataset.split("train")
    if not train:
        found = "there are no images" if not len(dataset) else "no image is in the train split"
        return [
            Finding(
                "no_train", "error", "train", f"{found}.", "Add images, or run wsseg data split."
            )
        ]
    return [
        *_untagged(dataset, train),
        *_class_sizes(dataset, train),
        *_negatives(dataset, train),
        *_splits(dataset),
        *_groups(dataset),
        *_tags_against_masks(dataset, facts),
    ]


def _untagged(dataset: Dataset, train: Sequence[Sample]) -> Iterator[Finding]:
    """Name the images to train on that have no label at all."""
    bare = [sample for sample in train if not sample.labels.kinds]
    if len(bare) == len(train):
        yield Finding(
            "no_labels",
            "error",
            "train",
            f"none of the {len(train)} images has a label.",
            "Tag them in labels.csv, or say that the masks may be used (--use-masks).",
        )
        return
    for sample in bare:
        yield Finding(
            "untagged",
            "warning",
            shown_path(sample.image_path, dataset),
            "has no label and is not trained on.",
            'Tag it; where it shows no class, leave its tags empty or write "ok".',
        )


def _class_sizes(dataset: Dataset, train: Sequence[Sample]) -> Iterator[Finding]:
    """Judge how many images each class has to learn from."""
    counts = Counter(class_id for sample in train for class_id in sample.labels.class_ids())
    for class_id, name in enumerate(dataset.classes.names, start=1):
        if counts[class_id] == 0:
            yield Finding(
                "empty_class",
                "warning",
                name,
                "no image of the train split has this class; it cannot be learnt.",
                "Add images of it, split the set anew (wsseg data split), or remove the class.",
            )
        elif counts[class_id] < FEW_IMAGES:
            yield Finding(
                "few_images",
                "warning",
                name,
                f"only {counts[class_id]} images of the train split have this class.",
                f"Add images; {FEW_IMAGES} are the least to learn from, 50 or more are better.",
            )
    sizes = [count for count in counts.values() if count > 0]
    if sizes and max(sizes) >= STRONG_IMBALANCE * min(sizes):
        largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        yield Finding(
            "imbalance",
            "info",
            "train",
            f'"{dataset.classes.name_of(largest)}" has {counts[largest]} images, '
            f'"{dataset.classes.name_of(smallest)}" only {counts[smallest]}.',
            "Draw classes evenly (class-balanced sampling), or add images of the rare one.",
        )


def _negatives(dataset: Dataset, train: Sequence[Sample]) -> Iterator[Finding]:
    """Find classes that every tagged image has: a classifier learns nothing from their tags."""
    tagged = [sample.labels.tags for sample in train if sample.labels.tags is not None]
    if not tagged:
        return
    only_tags = all(sample.labels.kinds in ((), ("tags",)) for sample in train)
    everywhere = frozenset.intersection(*tagged)
    for class_id in sorted(everywhere):
        name = dataset.classes.name_of(class_id)
        if dataset.classes.num_classes == 1:
            what = "no ok images: the classifier has nothing to compare with."
            kind = "no_negatives"
        else:
            what = "every tagged image of the train split has this class: its tags say nothing."
            kind = "class_everywhere"
        yield Finding(
            kind,
            "error" if only_tags and kind == "no_negatives" else "warning",
            name,
            what,
            "Add images without it, with empty tags (or in a folder ok/); crops of the free "
            "background do. Or give boxes, points or scribbles.",
        )


def _splits(dataset: Dataset) -> Iterator[Finding]:
    """Say what cannot be scored."""
    held_out = [sample for sample in dataset.samples if sample.split != "train"]
    if not held_out:
        yield Finding(
            "no_val",
            "info",
            "val",
            "no image is held out, so nothing can be scored.",
            "Run wsseg data split.",
        )
        return
    bare = sum(sample.mask_path is None for sample in held_out)
    if bare:
        yield Finding(
            "no_mask",
            "info",
            "val, test",
            f"{bare} of {len(held_out)} held-out images have no mask and are not scored.",
            "Paint masks for some of them to know how good the result is.",
        )
    held_out_ids = {class_id for sample in held_out for class_id in sample.labels.class_ids()}
    for class_id, name in enumerate(dataset.classes.names, start=1):
        if class_id not in held_out_ids:
            yield Finding(
                "not_held_out",
                "info",
                name,
                "no held-out image has this class, so it cannot be scored.",
                "Run wsseg data split, or add images.",
            )


def _groups(dataset: Dataset) -> Iterator[Finding]:
    """Find groups that lie in train and in another split: their images are too alike."""
    by_group: dict[str, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        if sample.group is not None:
            by_group[sample.group].append(sample)
    for group, samples in by_group.items():
        splits = sorted({sample.split for sample in samples})
        if "train" in splits and len(splits) > 1:
            names = [shown_path(sample.image_path, dataset) for sample in samples[:_NAMES_SHOWN]]
            more = ", ..." if len(samples) > _NAMES_SHOWN else ""
            yield Finding(
                "group_leak",
                "error",
                f'group "{group}"',
                f"is in the splits {', '.join(splits)} ({', '.join(names)}{more}); scores would be "
                "too good.",
                "Run wsseg data split, which keeps groups together.",
            )


def _tags_against_masks(dataset: Dataset, facts: Sequence[FileFacts]) -> Iterator[Finding]:
    """Compare tags with masks where both are there."""
    for sample, fact in zip(dataset.samples, facts, strict=True):
        tags = sample.labels.tags
        if tags is None or not fact.mask_values:
            continue
        painted = frozenset(fact.mask_values) - {BACKGROUND, IGNORE}
        painted = frozenset(value for value in painted if value <= dataset.classes.num_classes)
        parts = []
        if painted - tags:
            parts.append(f"the mask has {_names(dataset, painted - tags)}, the tags do not")
        if tags - painted:
            parts.append(f"the tags have {_names(dataset, tags - painted)}, the mask does not")
        if parts:
            yield Finding(
                "tags_vs_mask",
                "info",
                shown_path(sample.image_path, dataset),
                f"{'; '.join(parts)}.",
                "Correct whichever is wrong.",
            )


def _names(dataset: Dataset, class_ids: frozenset[int]) -> str:
    return ", ".join(f'"{dataset.classes.name_of(class_id)}"' for class_id in sorted(class_ids))

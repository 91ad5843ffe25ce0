import numpy as np
import pytest
from PIL import Image

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.errors import DataError


def whats(problems):
    return [str(problem) for problem in problems]


@pytest.fixture
def folder(tmp_path, add_image, add_mask, add_text):
    for name, values in (("a", (1,)), ("b c", (2, 255)), ("sub/다", ())):
        add_image(tmp_path / "images" / f"{name}.jpg")
        add_mask(tmp_path / "masks" / f"{name}.png", *values)
    add_text(tmp_path / "classes.csv", "id,name\n1,cell\n2,nucleus\n")
    return tmp_path


def test_masks_are_ground_truth_and_never_tags(folder):
    dataset, problems = read_dataset(folder)
    assert whats(problems) == []
    assert dataset.source == "index_masks"
    assert [s.id for s in dataset] == ["a", "b c", "sub/다"]
    assert all(s.labels.is_untagged and s.mask_path is not None for s in dataset)


def test_use_masks_makes_tags_of_them(folder):
    dataset = open_dataset(folder, use_masks=True)
    assert [s.labels.tags for s in dataset] == [{1}, {2}, frozenset()]
    assert dataset.notes == ("Tags come from the ground-truth masks (use_masks).",)


def test_use_masks_names_masks_with_unknown_values(folder, add_mask):
    add_mask(folder / "masks" / "a.png", 7)
    dataset, problems = read_dataset(folder, use_masks=True)
    assert whats(problems)[0].startswith("masks/a.png: the mask has the values 7")
    assert dataset.samples[0].labels.is_untagged


def test_lists_give_the_splits_and_leave_out_the_rest(folder, add_text):
    add_text(folder / "train.txt", "a.jpg\n")
    add_text(folder / "val.txt", "b c\n\n")
    dataset = open_dataset(folder)
    assert [(s.id, s.split) for s in dataset] == [("a", "train"), ("b c", "val")]
    assert dataset.notes == ("1 image(s) in none of the split lists left out.",)


def test_folders_inside_images_give_the_splits(tmp_path, add_image, add_mask):
    for name in ("train/1", "val/1", "2"):
        add_image(tmp_path / "images" / f"{name}.png")
        add_mask(tmp_path / "masks" / f"{name}.png", 1)
    dataset = open_dataset(tmp_path, classes=["cell"])
    assert [(s.id, s.split) for s in dataset] == [
        ("2", "train"),
        ("train/1", "train"),
        ("val/1", "val"),
    ]


def test_images_without_masks_and_the_reverse_are_warnings(folder):
    (folder / "masks" / "a.png").rename(folder / "masks" / "z.png")
    dataset, problems = read_dataset(folder)
    assert dataset.samples[0].mask_path is None
    assert whats(problems.warnings) == [
        "images/a.jpg: has no mask of the same name. Add or rename it.",
        "masks/z.png: has no image of the same name. Add or rename it.",
    ]


def test_missing_class_list_shows_the_values_found(folder):
    (folder / "classes.csv").unlink()
    with pytest.raises(DataError, match=r"the mask values \[1, 2\] have no names"):
        open_dataset(folder)


def test_black_and_white_masks_are_explained(folder):
    (folder / "classes.csv").unlink()
    for path in (folder / "masks").rglob("*.png"):
        Image.fromarray(np.array([[0, 255]], np.uint8)).save(path)
    with pytest.raises(DataError, match=r"\[0, 255\] have no names \(255 means ignore; save"):
        open_dataset(folder)


def test_colour_masks_are_explained(folder):
    (folder / "classes.csv").unlink()
    Image.new("RGB", (2, 2), (128, 0, 0)).save(folder / "masks" / "a.png")
    _, problems = read_dataset(folder)
    assert whats(problems)[0].startswith("masks/a.png: a mask stores class ids, but this is a RGB")

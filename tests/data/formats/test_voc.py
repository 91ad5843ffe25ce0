import numpy as np
import pytest

from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.formats.voc import VOC_CLASSES
from wsseg.errors import DataError


def whats(problems):
    return [str(problem) for problem in problems]


def xml(*objects, size=(6, 4)):
    """Annotation with (name, (xmin, ymin, xmax, ymax), difficult)."""
    parts = []
    for name, corners, difficult in objects:
        box = "".join(
            f"<{tag}>{value}</{tag}>"
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        parts.append(
            f"<object><name>{name}</name><difficult>{difficult}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )
    return (
        "<annotation><filename>../../secret.png</filename><path>/etc/passwd</path>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{''.join(parts)}</annotation>"
    )


@pytest.fixture
def folder(tmp_path, add_image, add_text):
    for name in ("2007_000001", "2007_000002", "2007_000003", "2007_000004"):
        add_image(tmp_path / "JPEGImages" / f"{name}.jpg")
    notes = tmp_path / "Annotations"
    add_text(notes / "2007_000001.xml", xml(("cat", (1, 1, 3, 2), 0), ("dog", (2, 1, 6, 4), 1)))
    add_text(notes / "2007_000002.xml", xml(("cat", (1, 1, 6, 4), 0)))
    add_text(notes / "2007_000003.xml", xml())
    add_text(notes / "2007_000004.xml", xml(("cow", (1, 1, 6, 4), 0)))
    lists = tmp_path / "ImageSets"
    add_text(lists / "Segmentation" / "train.txt", "2007_000001\n2007_000003\n")
    add_text(lists / "Segmentation" / "val.txt", "2007_000002\n")
    add_text(lists / "Segmentation" / "trainval.txt", "2007_000001\n2007_000002\n2007_000003\n")
    add_text(lists / "Main" / "train.txt", "2007_000004  1\n2007_000001 -1\n")
    return tmp_path


def test_tags_boxes_and_splits_are_read(folder):
    dataset, problems = read_dataset(folder)
    assert whats(problems) == []
    assert dataset.source == "voc"
    assert dataset.classes.names == VOC_CLASSES
    first, second, third = dataset.samples
    assert (first.id, first.labels.tags, first.split) == ("2007_000001", {8, 12}, "train")
    # VOC counts from 1 and includes both corners: 1..3 covers the pixels 0, 1 and 2.
    np.testing.assert_array_equal(first.labels.boxes.xyxy, [[0, 0, 3, 2], [1, 0, 6, 4]])
    assert first.labels.boxes.class_ids.tolist() == [8, 12]
    assert (second.labels.tags, second.split) == ({8}, "val")
    assert third.labels.is_ok
    assert dataset.notes == (
        "Splits from ImageSets/Segmentation (train.txt, val.txt).",
        "1 image(s) in none of these lists left out.",
    )


def test_difficult_objects_can_be_left_out(folder):
    dataset = open_dataset(folder, keep_difficult=False)
    assert dataset.samples[0].labels.tags == {8}
    assert len(dataset.samples[0].labels.boxes) == 1
    assert "difficult" in dataset.notes[-1]


def test_another_image_set_can_be_chosen(folder):
    dataset = open_dataset(folder, image_set="Main")
    assert [s.id for s in dataset] == ["2007_000001", "2007_000004"]
    with pytest.raises(DataError, match="ImageSets/Layout: has no list of images"):
        open_dataset(folder, image_set="Layout")


def test_train_aug_stands_for_train(folder, add_text):
    lists = folder / "ImageSets" / "Segmentation"
    add_text(lists / "train_aug.txt", "2007_000001\n2007_000003\n2007_000004\n")
    assert len(open_dataset(folder).split("train")) == 3


def test_trainval_never_brings_validation_images_into_training(folder):
    (folder / "ImageSets" / "Segmentation" / "train.txt").unlink()
    dataset = open_dataset(folder)
    assert [(s.id, s.split) for s in dataset] == [("2007_000002", "val")]


def test_trainval_alone_is_training_data(folder):
    for name in ("train", "val"):
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").unlink()
    assert len(open_dataset(folder).split("train")) == 3


def test_image_in_two_lists_is_an_error_and_not_trained_on(folder, add_text):
    path = folder / "ImageSets" / "Segmentation" / "train.txt"
    add_text(path, "2007_000001\n2007_000002\n")
    dataset, problems = read_dataset(folder)
    assert "train.txt line 2" in whats(problems)[0]
    assert '"2007_000002" is also in the val list' in whats(problems)[0]
    assert dataset.by_id("2007_000002").split == "val"


@pytest.mark.parametrize("entry", ["2007_999999", "../../secret", "/etc/passwd"])
def test_list_entry_without_image_is_an_error(folder, add_image, add_text, entry):
    add_image(folder.parent / "secret.jpg")
    add_text(folder / "ImageSets" / "Segmentation" / "train.txt", f"2007_000001\n{entry}\n")
    dataset, problems = read_dataset(folder)
    assert f'train.txt line 2: "{entry}" names no image' in whats(problems)[0]
    assert len(dataset) == 2


def test_without_lists_all_is_training_data(folder):
    for path in folder.glob("ImageSets/*/*.txt"):
        path.unlink()
    assert len(open_dataset(folder).split("train")) == 4


def test_masks_are_ground_truth_and_tag_only_when_asked(folder, add_mask):
    for path in (folder / "Annotations").iterdir():
        path.unlink()
    (folder / "Annotations").rmdir()
    add_mask(folder / "SegmentationClass" / "2007_000001.png", 8, 12, 255)
    dataset = open_dataset(folder)
    assert all(s.labels.is_untagged for s in dataset)
    assert dataset.samples[0].mask_path == folder / "SegmentationClass" / "2007_000001.png"
    assert open_dataset(folder, use_masks=True).samples[0].labels.tags == {8, 12}


def test_missing_xml_leaves_the_image_untagged_with_a_warning(folder):
    (folder / "Annotations" / "2007_000001.xml").unlink()
    dataset, problems = read_dataset(folder)
    assert dataset.samples[0].labels.is_untagged
    assert "Annotations/2007_000001.xml: does not exist" in whats(problems.warnings)[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<annotation><object>", "line 1: column"),
        ("", "not valid XML"),
        ("<annotation><object><name/></object></annotation>", "object without name"),
        (xml(("cat", (1, "x", 3, 4), 0)), "does not have the four numbers"),
        (xml(("cat", (1, "nan", 3, 4), 0)), "does not have the four numbers"),
        (xml(("cat", (5, 1, 3, 4), 0)), '"cat" (5, 1, 3, 4) has no area'),
    ],
)
def test_malformed_xml_leaves_the_image_untagged_with_an_error(folder, add_text, content, said):
    add_text(folder / "Annotations" / "2007_000001.xml", content)
    dataset, problems = read_dataset(folder)
    assert said in whats(problems.errors)[0]
    assert "Annotations/2007_000001.xml" in whats(problems.errors)[0]
    assert dataset.samples[0].labels.is_untagged


def test_xml_bomb_and_external_entities_are_refused(folder, add_text, tmp_path):
    add_text(tmp_path / "secret.txt", "cat")
    bombs = (
        '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        f'<!DOCTYPE b [<!ENTITY b SYSTEM "{(tmp_path / "secret.txt").as_uri()}">]>',
    )
    for bomb in bombs:
        text = f"{bomb}<annotation><object><name>&b;</name></object></annotation>"
        add_text(folder / "Annotations" / "2007_000001.xml", text)
        dataset, problems = read_dataset(folder)
        assert "declares a document type or entities" in whats(problems.errors)[0]
        assert dataset.samples[0].labels.is_untagged


def test_xml_that_is_a_link_out_of_the_folder_is_refused(folder, add_text, tmp_path_factory):
    outside = add_text(tmp_path_factory.mktemp("out") / "a.xml", xml(("cat", (1, 1, 2, 2), 0)))
    path = folder / "Annotations" / "2007_000001.xml"
    path.unlink()
    path.symlink_to(outside)
    dataset, problems = read_dataset(folder)
    assert "is a link out of the data folder" in whats(problems.errors)[0]
    assert dataset.samples[0].labels.is_untagged


def test_box_beyond_the_image_is_cut_with_a_warning(folder, add_text):
    add_text(folder / "Annotations" / "2007_000001.xml", xml(("cat", (0, 1, 9, 4), 0)))
    dataset, problems = read_dataset(folder)
    np.testing.assert_array_equal(dataset.samples[0].labels.boxes.xyxy, [[0, 0, 6, 4]])
    assert "is cut to the image" in whats(problems.warnings)[0]


def test_unknown_image_size_cuts_nothing(folder, add_text):
    text = xml(("cat", (1, 1, 900, 400), 0), size=(0, 0))
    add_text(folder / "Annotations" / "2007_000001.xml", text)
    dataset, problems = read_dataset(folder)
    assert whats(problems) == []
    np.testing.assert_array_equal(dataset.samples[0].labels.boxes.xyxy, [[0, 0, 900, 400]])


def test_own_classes_are_sorted_and_their_mask_ids_questioned(folder, add_text, add_mask):
    add_text(folder / "Annotations" / "2007_000001.xml", xml(("흠집", (1, 1, 2, 2), 0)))
    add_mask(folder / "SegmentationClass" / "2007_000001.png", 2)
    dataset, problems = read_dataset(folder)
    assert dataset.classes.names == ("cat", "흠집")
    assert "classes.csv: does not exist; the ids in SegmentationClass/" in whats(problems)[0]
    add_text(folder / "classes.csv", "id,name\n1,흠집\n2,cat\n")
    dataset, problems = read_dataset(folder)
    assert dataset.classes.names == ("흠집", "cat")
    assert whats(problems) == []


def test_unknown_class_is_an_error_with_the_nearest_name(folder):
    dataset, problems = read_dataset(folder, classes=["cat", "dgo"])
    assert (
        'class "dog" is not in the class list (cat, dgo). Did you mean "dgo"?'
        in (whats(problems.errors)[0])
    )
    assert "2007_000001" not in [s.id for s in dataset]


def test_parent_of_the_voc_folder_is_recognised(folder, tmp_path):
    (tmp_path / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    for name in ("JPEGImages", "Annotations", "ImageSets"):
        (folder / name).rename(tmp_path / "VOCdevkit" / "VOC2012" / name)
    with pytest.raises(DataError, match=r"VOC2012\" holds a data set: give that folder"):
        open_dataset(tmp_path / "VOCdevkit")


def test_list_in_another_encoding_is_an_error(folder, add_text):
    path = folder / "ImageSets" / "Segmentation" / "train.txt"
    add_text(path, "흠집\n", encoding="cp949")
    _, problems = read_dataset(folder)
    assert "train.txt: cannot be read as UTF-8" in whats(problems.errors)[0]


def test_class_names_that_a_table_cannot_hold_are_an_error(folder, add_text):
    add_text(folder / "Annotations" / "2007_000001.xml", xml(("a;b", (1, 1, 2, 2), 0)))
    with pytest.raises(DataError, match='"a;b" contains ";"'):
        open_dataset(folder)


def test_object_without_box_is_a_tag(folder, add_text):
    text = "<annotation><object><name>cat</name></object></annotation>"
    add_text(folder / "Annotations" / "2007_000001.xml", text)
    labels = open_dataset(folder).samples[0].labels
    assert (labels.tags, labels.boxes) == ({8}, None)

import subprocess
import sys
from dataclasses import replace

import pytest

from wsseg.data.discover import find_format, open_dataset, read_dataset
from wsseg.data.image_io import image_size, read_image, read_mask
from wsseg.data.labels import WeakLabels
from wsseg.data.mask_tags import tags_from_masks
from wsseg.data.problems import Problems
from wsseg.errors import DataError


def test_missing_folder_and_file_are_data_errors(tmp_path, add_image):
    with pytest.raises(DataError, match="nothing: no such folder"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"a\.png: is a file; give the folder"):
        open_dataset(add_image(tmp_path / "a.png"))


def test_unknown_layout_lists_what_was_seen_and_what_is_known(tmp_path, add_image, add_text):
    add_image(tmp_path / "1.png")
    add_image(tmp_path / "2.png")
    add_text(tmp_path / "labels" / "1.txt", "0 0.5 0.5 1 1")
    with pytest.raises(DataError) as caught:
        find_format(tmp_path)
    text = str(caught.value)
    assert "Seen: labels/, 2 .png file(s)." in text
    assert "labels.csv (columns file and tags)" in text


def test_empty_folder_says_nothing_was_seen(tmp_path):
    with pytest.raises(DataError, match="Seen: nothing"):
        find_format(tmp_path)


def test_two_formats_are_an_error_that_lists_both(tmp_path, add_image, add_text):
    add_image(tmp_path / "dent" / "1.png")
    add_text(tmp_path / "labels.csv", "file,tags\ndent/1.png,scratch\n")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    assert caught.value.problems == (
        "folder_per_class: folders with images: dent",
        "labels_csv: labels.csv",
    )
    assert open_dataset(tmp_path, format="labels_csv").classes.names == ("scratch",)
    assert open_dataset(tmp_path, format="folder_per_class").classes.names == ("dent",)


def test_unknown_format_name_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r'Did you mean "voc"\?.*folder_per_class'):
        read_dataset(tmp_path, format="vox")


def test_data_set_without_images_is_an_error(tmp_path, add_text):
    (tmp_path / "images").mkdir()
    add_text(tmp_path / "labels.csv", "file,tags\n")
    with pytest.raises(DataError, match=r"\(labels_csv\) has no images"):
        open_dataset(tmp_path, strict=False)


def test_wrong_format_for_a_folder_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read"):
        open_dataset(tmp_path, format="labels_csv")
    with pytest.raises(DataError, match="JPEGImages: cannot be read"):
        open_dataset(tmp_path, format="voc")


def test_reading_a_data_set_imports_no_heavy_package():
    code = "import sys, wsseg.data.discover; print({'torch', 'cv2', 'skimage'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "num_train", "num_val", "num_classes", "num_masks"),
    [
        ("mt_defect", 957, 385, 5, 1339),
        ("wbc", 286, 114, 5, 400),
        ("pets3", 420, 180, 3, 600),
        ("voc_animals", 3131, 445, 6, 3576),
        ("nuclei_dsb2018", 466, 198, 1, 664),
    ],
)
def test_real_sets_have_their_published_counts(
    real_data, name, num_train, num_val, num_classes, num_masks
):
    dataset, problems = read_dataset(real_data / name)
    assert [str(problem) for problem in problems] == []
    assert len(dataset.split("train")) == num_train
    assert len(dataset.split("val")) == num_val
    assert dataset.classes.num_classes == num_classes
    assert sum(sample.mask_path is not None for sample in dataset) == num_masks


def test_real_defect_set_has_ok_images_groups_and_two_unused_rows(real_data):
    dataset = open_dataset(real_data / "mt_defect")
    assert sum(sample.labels.is_ok for sample in dataset) == 952
    assert dataset.notes == ('2 row(s) with split "unused" left out.',)
    train, val = ({s.group for s in dataset.split(name)} for name in ("train", "val"))
    assert not train & val


def test_real_masks_have_the_size_of_their_image_and_known_values(real_data):
    for name in ("mt_defect", "voc_animals", "nuclei_dsb2018"):
        dataset = open_dataset(real_data / name)
        for sample in dataset.samples[::200]:
            if sample.mask_path is not None:
                mask = read_mask(sample.mask_path, dataset.classes)
                assert mask.shape == image_size(sample.image_path)
                assert mask.shape == read_image(sample.image_path).shape[:2]


def test_real_tags_can_be_derived_from_masks(real_data):
    dataset = open_dataset(real_data / "pets3")
    some = dataset.samples[::50]
    untagged = [replace(sample, labels=WeakLabels()) for sample in some]
    problems = Problems()
    tagged = tags_from_masks(untagged, dataset.classes, problems, root=dataset.root)
    assert [s.labels.tags for s in tagged] == [s.labels.tags for s in some]
    assert len(problems) == 0


def test_folder_of_data_sets_is_not_taken_for_one_class_per_set(tmp_path, add_image, add_text):
    for name in ("first", "second"):
        add_image(tmp_path / name / "images" / "1.png")
        add_text(tmp_path / name / "labels.csv", "file,tags\n1.png,dent\n")
    with pytest.raises(DataError, match=r'first" holds a data set: give that folder'):
        open_dataset(tmp_path)


def test_folders_named_like_splits_do_not_compete_with_annotation_files(
    tmp_path, add_image, add_text
):
    add_image(tmp_path / "train2017" / "1.png")
    text = '{"images": [], "annotations": [], "categories": []}'
    add_text(tmp_path / "instances_train2017.json", text)
    assert find_format(tmp_path) == "coco"
    add_image(tmp_path / "scratch" / "1.png")
    with pytest.raises(DataError, match="fits several formats") as caught:
        find_format(tmp_path)
    assert [line.split(":")[0] for line in caught.value.problems] == ["folder_per_class", "coco"]


def test_two_annotation_formats_in_one_folder_are_an_error_that_lists_both(
    tmp_path, add_image, add_text
):
    add_image(tmp_path / "images" / "1.png")
    add_text(tmp_path / "annotations.xml", "<annotations><image/></annotations>")
    add_text(tmp_path / "export.json", '[{"data": {"image": "1.png"}, "annotations": []}]')
    with pytest.raises(DataError, match="fits several formats") as caught:
        find_format(tmp_path)
    assert caught.value.problems == (
        "cvat: CVAT in annotations.xml",
        "label_studio: Label Studio tasks in export.json",
    )
    assert read_dataset(tmp_path, format="label-studio")[0].source == "label_studio"

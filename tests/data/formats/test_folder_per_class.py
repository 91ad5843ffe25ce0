import pytest

from wsseg.data.discover import find_format, open_dataset, read_dataset
from wsseg.errors import DataError


def whats(problems):
    return [str(problem) for problem in problems]


def rows(dataset):
    names = dataset.classes.names
    return [(s.id, sorted(names[i - 1] for i in s.labels.tags), s.split) for s in dataset]


def test_folder_names_are_the_tags(tmp_path, add_image):
    for name in ("scratch/1.png", "dent/1.png", "dent/2 b.jpg", "흠집/a.b.png"):
        add_image(tmp_path / name)
    dataset, problems = read_dataset(tmp_path)
    assert dataset.source == "folder_per_class"
    assert dataset.classes.names == ("dent", "scratch", "흠집")
    assert rows(dataset) == [
        ("dent/1", ["dent"], "train"),
        ("dent/2 b", ["dent"], "train"),
        ("scratch/1", ["scratch"], "train"),
        ("흠집/a.b", ["흠집"], "train"),
    ]
    assert whats(problems) == []


@pytest.mark.parametrize(
    "name",
    ["ok", "OK", "good", "Normal", "negative", "no_defect", "No Defect", "none", "Background"],
)
def test_normal_folders_mean_no_class(tmp_path, add_image, name):
    add_image(tmp_path / name / "1.png")
    add_image(tmp_path / "dent" / "1.png")
    dataset = open_dataset(tmp_path)
    assert dataset.classes.names == ("dent",)
    assert {s.id: s.labels.is_ok for s in dataset} == {f"{name}/1": True, "dent/1": False}
    assert dataset.notes == (f"Taken for images without any class: {name}.",)


def test_normal_name_is_a_class_when_the_user_lists_it(tmp_path, add_image):
    add_image(tmp_path / "negative" / "1.png")
    add_image(tmp_path / "positive" / "1.png")
    dataset = open_dataset(tmp_path, classes=["positive", "negative"])
    assert [s.labels.tags for s in dataset] == [{2}, {1}]


def test_split_folders_at_the_top_give_the_splits(tmp_path, add_image):
    for name in ("train/dent/1.png", "train/ok/1.png", "Validation/dent/1.png", "test/ok/1.png"):
        add_image(tmp_path / name)
    assert rows(open_dataset(tmp_path)) == [
        ("Validation/dent/1", ["dent"], "val"),
        ("test/ok/1", [], "test"),
        ("train/dent/1", ["dent"], "train"),
        ("train/ok/1", [], "train"),
    ]


def test_class_named_train_is_a_class_when_it_holds_images(tmp_path, add_image):
    add_image(tmp_path / "train" / "1.png")
    add_image(tmp_path / "bus" / "1.png")
    assert open_dataset(tmp_path).classes.names == ("bus", "train")


def test_split_folders_beside_others_are_an_error(tmp_path, add_image):
    add_image(tmp_path / "train" / "good" / "1.png")
    add_image(tmp_path / "ground_truth" / "hole" / "1.png")
    with pytest.raises(DataError, match=r"mixes split folders \(train\) with others \(ground_tr"):
        open_dataset(tmp_path)


def test_folders_inside_a_class_folder_belong_to_that_class(tmp_path, add_image):
    add_image(tmp_path / "dent" / "monday" / "cam 1" / "1.png")
    add_image(tmp_path / "ok" / "tuesday" / "1.png")
    assert rows(open_dataset(tmp_path)) == [
        ("dent/monday/cam 1/1", ["dent"], "train"),
        ("ok/tuesday/1", [], "train"),
    ]


def test_folder_around_the_class_folders_is_recognised(tmp_path, add_image):
    add_image(tmp_path / "photos" / "dent" / "1.png")
    add_image(tmp_path / "photos" / "ok" / "1.png")
    with pytest.raises(
        DataError, match=r"photos: is the only folder .* in dent, ok. Open .*photos"
    ):
        open_dataset(tmp_path)


def test_empty_class_folder_stays_a_class_and_is_a_warning(tmp_path, add_image):
    add_image(tmp_path / "dent" / "1.png")
    (tmp_path / "scratch").mkdir()
    dataset, problems = read_dataset(tmp_path)
    assert dataset.classes.names == ("dent", "scratch")
    assert whats(problems) == ["scratch: holds no image. Add images or remove the folder."]


def test_unknown_folder_suggests_the_nearest_class(tmp_path, add_image):
    add_image(tmp_path / "scrach" / "1.png")
    add_image(tmp_path / "dent" / "1.png")
    dataset, problems = read_dataset(tmp_path, classes=["scratch", "dent"])
    assert [s.id for s in dataset] == ["dent/1"]
    assert (
        'scrach: is not in the class list (scratch, dent). Did you mean "scratch"?'
        in (whats(problems)[0])
    )


def test_stray_images_and_other_files_are_reported(tmp_path, add_image, add_text):
    add_image(tmp_path / "dent" / "1.png")
    add_image(tmp_path / "stray.png")
    add_text(tmp_path / "dent" / "notes.txt", "x")
    add_text(tmp_path / "dent" / ".hidden.png", "x")
    add_text(tmp_path / "docs" / "readme.md", "x")
    dataset, problems = read_dataset(tmp_path)
    assert len(dataset) == 1
    assert dataset.classes.names == ("dent",)
    assert whats(problems) == [
        "stray.png: lies in no class folder and is left out. Move it into a class folder."
    ]
    assert dataset.notes == ("1 file(s) that are no images left out.",)


def test_duplicate_stem_is_an_error(tmp_path, add_image):
    add_image(tmp_path / "dent" / "1.png")
    add_image(tmp_path / "dent" / "1.bmp")
    with pytest.raises(DataError, match=r"dent/1\.png: has the duplicate stem of 1\.bmp"):
        open_dataset(tmp_path)


def test_loop_of_links_ends(tmp_path, add_image):
    add_image(tmp_path / "dent" / "1.png")
    (tmp_path / "dent" / "again").symlink_to(tmp_path / "dent")
    assert [s.id for s in open_dataset(tmp_path)] == ["dent/1"]


@pytest.mark.parametrize("name", ["a\\b.png", "a\nb.png"])
def test_names_that_cannot_be_written_are_errors(tmp_path, add_image, name):
    add_image(tmp_path / "dent" / name)
    _, problems = read_dataset(tmp_path)
    assert "Rename the file." in whats(problems)[0]


def test_name_that_is_not_utf8_is_an_error(tmp_path, add_image):
    good = add_image(tmp_path / "dent" / "1.png")
    try:
        good.rename(tmp_path / "dent" / "\udcff.png")
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    _, problems = read_dataset(tmp_path)
    assert "not valid UTF-8" in whats(problems)[0]


def test_class_name_that_a_table_cannot_hold_is_an_error(tmp_path, add_image):
    add_image(tmp_path / "a;b" / "1.png")
    with pytest.raises(DataError, match='a;b: contains ";", which separates tags'):
        open_dataset(tmp_path)


def test_folders_of_other_layouts_are_not_classes(tmp_path, add_image):
    add_image(tmp_path / "images" / "1.png")
    add_image(tmp_path / "other" / "1.png")
    with pytest.raises(DataError, match="no known data format"):
        find_format(tmp_path)


def test_class_folders_may_keep_their_photos_in_a_folder_named_images(tmp_path, add_image):
    add_image(tmp_path / "dent" / "images" / "1.png")
    add_image(tmp_path / "ok" / "images" / "1.png")
    assert rows(open_dataset(tmp_path)) == [
        ("dent/images/1", ["dent"], "train"),
        ("ok/images/1", [], "train"),
    ]

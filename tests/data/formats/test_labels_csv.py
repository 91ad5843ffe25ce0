import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsseg.data.dataset import Dataset, Sample
from wsseg.data.discover import open_dataset, read_dataset
from wsseg.data.formats.labels_csv_write import write_labels_csv
from wsseg.data.labels import ClassList, WeakLabels, class_name_fault
from wsseg.errors import DataError


@pytest.fixture
def folder(tmp_path, add_image, add_text):
    """Three images, five classes of trouble to be added by the tests."""
    for name in ("a.png", "b 2.png", "sub/흠집.jpg"):
        add_image(tmp_path / "images" / name)
    add_text(tmp_path / "classes.csv", "id,name\n0,background\n1,scratch\n2,dent\n")
    add_text(
        tmp_path / "labels.csv",
        "file,tags,split,group,extra\n"
        "a.png,scratch;dent,train,g1,x\n"
        "b 2.png,,val,,y\n"
        "sub/흠집.jpg, dent ,test,,z\n",
    )
    return tmp_path


def whats(problems):
    return [str(problem) for problem in problems]


def test_tags_splits_groups_and_names_are_read(folder):
    dataset, problems = read_dataset(folder)
    assert whats(problems) == []
    assert dataset.source == "labels_csv"
    assert dataset.classes.names == ("scratch", "dent")
    assert [(s.id, s.labels.tags, s.split, s.group) for s in dataset] == [
        ("a", {1, 2}, "train", "g1"),
        ("b 2", frozenset(), "val", None),
        ("sub/흠집", {2}, "test", None),
    ]
    assert dataset.samples[2].image_path == folder / "images" / "sub" / "흠집.jpg"


def test_images_may_lie_beside_the_table(tmp_path, add_image, add_text):
    add_image(tmp_path / "a.png")
    add_image(tmp_path / "x" / "b.png")
    add_text(tmp_path / "labels.csv", "file,tags\na.png,s\nx/b.png,ok\n")
    dataset, problems = read_dataset(tmp_path, format="labels_csv")
    assert whats(problems) == []
    assert [(s.id, s.labels.tags) for s in dataset] == [("a", {1}), ("x/b", frozenset())]
    assert dataset.classes.names == ("s",)


def test_byte_order_mark_tabs_semicolons_and_trailing_delimiters_are_understood(folder, add_text):
    expected = open_dataset(folder).samples
    text = (folder / "labels.csv").read_text()
    add_text(folder / "labels.csv", "\ufeff" + text.replace(",", "\t").replace("\n", "\r\n"))
    assert open_dataset(folder).samples == expected
    quoted = text.replace("scratch;dent", '"scratch|dent"').replace(",", ";").replace("|", ";")
    add_text(folder / "labels.csv", "\n".join(f"{line};;" for line in quoted.splitlines()))
    assert open_dataset(folder).samples == expected


def test_classes_come_from_the_tags_in_sorted_order_without_a_class_table(folder):
    (folder / "classes.csv").unlink()
    dataset = open_dataset(folder)
    assert dataset.classes.names == ("dent", "scratch")
    assert "No classes.csv" in dataset.notes[0]


def test_tag_ok_means_no_class_unless_it_is_a_class(folder, add_text):
    text = "file,tags\na.png,OK\nb 2.png,scratch\nsub/흠집.jpg,No Defect\n"
    add_text(folder / "labels.csv", text)
    dataset = open_dataset(folder)
    assert [sorted(s.labels.tags) for s in dataset] == [[], [1], []]
    add_text(folder / "classes.csv", "id,name\n1,OK\n2,scratch\n3,No Defect\n")
    assert [sorted(s.labels.tags) for s in open_dataset(folder)] == [[1], [2], [3]]


def test_tag_ok_beside_a_class_is_a_warning(folder, add_text):
    add_text(folder / "labels.csv", "file,tags\na.png,ok;dent\nb 2.png,\nsub/흠집.jpg,\n")
    dataset, problems = read_dataset(folder)
    assert dataset.samples[0].labels.tags == {2}
    assert whats(problems.warnings) == [
        'labels.csv line 2: column tags: "ok" means no class, beside "dent". Remove one of them.'
    ]


def test_empty_tags_and_untagged_are_different(folder, add_text):
    add_text(folder / "labels.csv", "file,tags\na.png,\nb 2.png,?\nsub/흠집.jpg,dent\n")
    assert [s.labels.tags for s in open_dataset(folder)] == [frozenset(), None, {2}]


def test_without_a_tags_column_nothing_is_tagged(folder, add_text):
    add_text(folder / "labels.csv", "file\na.png\nb 2.png\nsub/흠집.jpg\n")
    assert all(sample.labels.is_untagged for sample in open_dataset(folder))


def test_rows_of_another_split_are_left_out_and_noted(folder, add_text):
    add_text(
        folder / "labels.csv",
        "file,tags,split\na.png,dent,unused\nb 2.png,,Validation\nsub/흠집.jpg,dent,\n"
        "gone.png,dent,unused\n",
    )
    dataset, problems = read_dataset(folder)
    assert [(s.id, s.split) for s in dataset] == [("b 2", "val"), ("sub/흠집", "train")]
    assert dataset.notes == ('2 row(s) with split "unused" left out.',)
    assert len(problems) == 0


def test_misspelled_split_is_a_warning(folder, add_text):
    add_text(folder / "labels.csv", "file,tags,split\na.png,,trian\nb 2.png,,\nsub/흠집.jpg,,\n")
    _, problems = read_dataset(folder)
    assert 'labels.csv line 2: column split: "trian"' in whats(problems)[0]
    assert 'Did you mean "train"?' in whats(problems)[0]


def test_masks_are_ground_truth_only(folder, add_mask, add_text):
    add_mask(folder / "masks" / "a.png", 1)
    add_mask(folder / "masks" / "sub" / "흠집.png", 2)
    add_text(folder / "labels.csv", "file,has_mask\na.png,1\nb 2.png,\nsub/흠집.jpg,0\n")
    dataset = open_dataset(folder)
    assert [s.mask_path for s in dataset] == [folder / "masks" / "a.png", None, None]
    assert all(s.labels.is_untagged for s in dataset)


def test_use_masks_tags_untagged_images_only(folder, add_mask, add_text):
    add_mask(folder / "masks" / "a.png", 1, 255, 2)
    add_mask(folder / "masks" / "b 2.png", 1)
    add_text(folder / "labels.csv", "file,tags\na.png,?\nb 2.png,dent\nsub/흠집.jpg,?\n")
    dataset = open_dataset(folder, use_masks=True)
    assert [s.labels.tags for s in dataset] == [{1, 2}, {2}, None]


def test_missing_mask_that_the_table_promises_is_an_error(folder, add_text):
    add_text(folder / "labels.csv", "file,has_mask\na.png,1\nb 2.png,maybe\nsub/흠집.jpg,\n")
    _, problems = read_dataset(folder)
    assert whats(problems) == [
        "labels.csv line 2: column has_mask: is 1, but masks/a.png does not exist. "
        "Add the mask or write 0.",
        'labels.csv line 3: column has_mask: "maybe" is not 0 or 1. Correct it.',
    ]


def test_unknown_tag_names_line_class_and_the_nearest(folder, add_text):
    add_text(folder / "labels.csv", "file,tags\na.png,scrach\nb 2.png,\nsub/흠집.jpg,\n")
    dataset, problems = read_dataset(folder)
    assert whats(problems) == [
        'labels.csv line 2: column tags: class "scrach" is not in the class list (scratch, dent). '
        'Did you mean "scratch"? Correct the tag, or add the class to classes.csv.'
    ]
    assert [sample.id for sample in dataset] == ["b 2", "sub/흠집"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("gone.png", '"gone.png" is not in images/.'),
        ("A.PNG", 'Did you mean "a.png"?'),
        ("a.jpg", 'Did you mean "a.png"?'),
        ("흠집.jpg", 'Did you mean "sub/흠집.jpg"?'),
        ("", "column file: is empty."),
        ("beside.png", "It lies beside images/; move it inside."),
        ("x" * 5000, "is not in images/."),
        ("a\0.png", "is not in images/."),
    ],
)
def test_missing_image_is_named_with_what_is_near(folder, add_image, add_text, cell, said):
    add_image(folder / "beside.png")
    add_text(folder / "labels.csv", f"file,tags\n{cell},dent\n")
    _, problems = read_dataset(folder, format="labels_csv")
    assert "labels.csv line 2: column file: " in whats(problems.errors)[0]
    assert said in whats(problems.errors)[0]


@pytest.mark.parametrize(
    "cell", ["../secret.png", "/etc/passwd", "x/../../secret.png", "C:\\secret.png", ".", ".."]
)
def test_paths_cannot_leave_the_data_folder(tmp_path, add_image, add_text, cell):
    folder = tmp_path / "data"
    add_image(tmp_path / "secret.png")
    add_image(folder / "images" / "a.png")
    add_text(folder / "labels.csv", f"file,tags\n{cell},dent\na.png,dent\n")
    dataset, problems = read_dataset(folder)
    assert [sample.id for sample in dataset] == ["a"]
    assert "points out of the data folder" in whats(problems.errors)[0]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_cannot_leave_the_data_folder(tmp_path, add_image, add_text, kind):
    folder = tmp_path / "data"
    secret = add_image(tmp_path / "outside" / "secret.png")
    add_image(folder / "images" / "a.png")
    if kind == "file":
        (folder / "images" / "secret.png").symlink_to(secret)
        name = "secret.png"
    else:
        (folder / "images" / "out").symlink_to(secret.parent)
        name = "out/secret.png"
    add_text(folder / "labels.csv", f"file,tags\n{name},dent\na.png,dent\n")
    dataset, problems = read_dataset(folder)
    assert [sample.id for sample in dataset] == ["a"]
    assert any("is a link to" in text and "outside" in text for text in whats(problems.errors))


def test_image_folder_itself_may_be_a_link(tmp_path, add_image, add_text):
    add_image(tmp_path / "disk" / "a.png")
    add_text(tmp_path / "data" / "labels.csv", "file,tags\na.png,dent\n")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "disk")
    assert len(open_dataset(tmp_path / "data")) == 1


def test_prefix_images_and_backslashes_are_understood(folder, add_text):
    add_text(folder / "labels.csv", "file,tags\nimages/a.png,\nb 2.png,\nsub\\흠집.jpg,dent\n")
    assert [sample.id for sample in open_dataset(folder)] == ["a", "b 2", "sub/흠집"]


def test_repeated_row_is_a_warning_and_a_contradiction_an_error(folder, add_text):
    add_text(
        folder / "labels.csv",
        "file,tags\na.png,dent\nb 2.png,\nsub/흠집.jpg,\na.png,dent\na.png,scratch\n",
    )
    dataset, problems = read_dataset(folder)
    assert len(dataset) == 3
    assert "labels.csv line 5: repeats the image" in whats(problems.warnings)[0]
    assert 'labels.csv line 6: gives the image "a" of line 2 other' in whats(problems.errors)[0]


def test_duplicate_stem_is_an_error_that_names_both(folder, add_image):
    add_image(folder / "images" / "a.bmp")
    _, problems = read_dataset(folder)
    assert "images/a.png: has the duplicate stem of a.bmp" in whats(problems.errors)[0]


def test_image_without_row_and_mask_without_image_are_warnings(folder, add_image, add_mask):
    add_image(folder / "images" / "new.png")
    add_mask(folder / "masks" / "old.png")
    dataset, problems = read_dataset(folder)
    assert len(dataset) == 3
    assert whats(problems.warnings) == [
        "images/new.png: has no row in labels.csv and is left out. Add a row, or remove the image.",
        "masks/old.png: has no image of the same name. Rename or remove it.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv: is empty. Write a header line"),
        ("name,tags\na.png,\n", 'labels.csv line 1: has no column "file"; found name, tags.'),
        ("fiel,tags\n", 'Did you mean "fiel"?'),
        ("file,tags,tags\n", 'line 1: has the column "tags" more than once'),
        ("file,tags\na.png,x,y\n", 'line 2: has 3 cells for 2 columns; column 3, "y"'),
        ("file,tags\n\na.png\n", 'line 3: has 1 cells for 2 columns; column "tags" is missing'),
        ('file,tags\n"a.png,x\n', "line 2: column 1: the quotes are malformed"),
        ('file,tags\na.png,"x"y\n', "line 2: column 7: the quotes are malformed"),
    ],
)
def test_malformed_table_names_line_and_column(folder, add_text, text, said):
    add_text(folder / "labels.csv", text)
    _, problems = read_dataset(folder)
    assert any(said in text for text in whats(problems.errors)), whats(problems)


def test_other_encodings_name_the_place_and_the_remedy(folder, add_text):
    add_text(folder / "labels.csv", "file,tags\na.png,흠집\n", encoding="cp949")
    _, problems = read_dataset(folder)
    assert "labels.csv line 2: column 7: byte 0x" in whats(problems)[0]
    assert 'Save it as "CSV UTF-8".' in whats(problems)[0]
    add_text(folder / "labels.csv", "file,tags\n", encoding="utf-16")
    _, problems = read_dataset(folder)
    assert "is UTF-16" in whats(problems)[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,name\n1,a\n3,b\n", "has the ids [1, 3]; expected 1 to 2 without gaps"),
        ("id,name\n1,a\n1,b\n", 'line 3: repeats id 1 or name "b"'),
        ("id,name\nx,a\n", 'line 2: column id: "x" is not a number from 0 to 255'),
        ("id,name\n1,background\n", "is reserved for class id 0"),
        ("number,name\n1,a\n", 'has no column "id"'),
    ],
)
def test_wrong_class_table_is_explained(folder, add_text, text, said):
    add_text(folder / "classes.csv", text)
    _, problems = read_dataset(folder)
    assert any(said in text for text in whats(problems.errors)), whats(problems)


def test_classes_given_must_agree_with_the_class_table(folder):
    assert len(open_dataset(folder, classes=["scratch", "dent"])) == 3
    with pytest.raises(DataError, match="lists scratch, dent, but the classes given are dent"):
        open_dataset(folder, classes=["dent", "scratch"])


def test_strict_shows_all_errors_and_lenient_keeps_the_rest(folder, add_text):
    add_text(folder / "labels.csv", "file,tags\na.png,x\nb 2.png,y\nsub/흠집.jpg,dent\n")
    with pytest.raises(DataError) as caught:
        open_dataset(folder)
    assert "has 2 error(s); 1 image(s) are fine" in str(caught.value)
    assert len(caught.value.problems) == 2
    dataset = open_dataset(folder, strict=False)
    assert [sample.id for sample in dataset] == ["sub/흠집"]
    assert "2 error(s); what they concern is left out" in dataset.notes[-1]


def test_tags_that_look_like_a_list_are_questioned(folder, add_text):
    (folder / "classes.csv").unlink()
    add_text(folder / "labels.csv", 'file,tags\na.png,"x,y"\nb 2.png,\nsub/흠집.jpg,\n')
    dataset, problems = read_dataset(folder)
    assert dataset.classes.names == ("x,y",)
    assert whats(problems) == [
        'labels.csv line 2: column tags: "x,y" is taken for one class. Separate tags by ";".'
    ]


def test_more_tags_than_a_mask_holds_are_an_error(folder, add_text):
    (folder / "classes.csv").unlink()
    tags = ";".join(f"c{number}" for number in range(255))
    add_text(folder / "labels.csv", f"file,tags\na.png,{tags}\n")
    _, problems = read_dataset(folder)
    assert "has 255 different tags; at most 254 fit" in whats(problems.errors)[0]


def test_without_tags_and_classes_the_table_says_nothing(folder, add_text):
    (folder / "classes.csv").unlink()
    add_text(folder / "labels.csv", "file\na.png\n")
    with pytest.raises(DataError, match=r'has no column "tags", and there is no classes\.csv'):
        open_dataset(folder)
    assert open_dataset(folder, classes=["dent"]).classes.names == ("dent",)


names = st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\:"), min_size=1)
file_names = names.filter(
    lambda name: not name.startswith(".") and len(name.encode()) < 200 and "." not in name
)
class_names = names.filter(lambda name: not class_name_fault(name))


@given(
    classes=st.lists(class_names, min_size=1, max_size=4, unique=True),
    ids=st.lists(file_names, min_size=1, max_size=5, unique_by=str.casefold),
    data=st.data(),
)
def test_written_data_set_reads_back_the_same(tmp_path_factory, classes, ids, data):
    root = tmp_path_factory.mktemp("set")
    image = root / "one.png"
    Image.new("L", (1, 1)).save(image)
    tags = st.none() | st.frozensets(st.integers(1, len(classes)))
    samples = [
        Sample(
            name,
            image,
            WeakLabels(tags=data.draw(tags)),
            data.draw(st.sampled_from(["train", "val", "test"])),
            group=data.draw(st.sampled_from([None, "g 1", "그룹"])),
        )
        for name in ids
    ]
    dataset = Dataset(root, ClassList(tuple(classes)), tuple(samples))
    back, problems = read_dataset(write_labels_csv(dataset, root / "out"))
    assert whats(problems) == []
    assert back.classes == dataset.classes
    assert [(s.id, s.labels, s.split, s.group) for s in back] == [
        (s.id, s.labels, s.split, s.group) for s in samples
    ]


def test_written_data_set_has_its_masks_and_can_be_written_in_place(folder, tmp_path, add_mask):
    add_mask(folder / "masks" / "a.png", 2, 255)
    dataset = open_dataset(folder)
    out = write_labels_csv(dataset, tmp_path / "out")
    copy = open_dataset(out)
    assert (out / "masks" / "a.png").read_bytes() == (folder / "masks" / "a.png").read_bytes()
    assert [s.mask_path is not None for s in copy] == [True, False, False]
    before = (out / "labels.csv").read_bytes()
    write_labels_csv(copy, out)
    assert (out / "labels.csv").read_bytes() == before
    assert open_dataset(out).fingerprint() == copy.fingerprint()


def test_writing_tables_only_leaves_images_alone(folder, tmp_path):
    out = write_labels_csv(open_dataset(folder), tmp_path / "out", files="none")
    assert sorted(path.name for path in out.iterdir()) == ["classes.csv", "labels.csv"]


def test_writing_names_a_missing_image(folder, tmp_path):
    dataset = open_dataset(folder)
    (folder / "images" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        write_labels_csv(dataset, tmp_path / "out")

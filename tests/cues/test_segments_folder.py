from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.cues.segments import Prompt, SegmentsContext, open_segments
from wsseg.cues.segments_folder import FolderSegments, LabelMapSegments, folder
from wsseg.errors import DataError

NUMBERS = np.zeros((6, 8), np.uint8)
NUMBERS[0:2, 0:3] = 7
NUMBERS[4:6, 5:8] = 7
NUMBERS[3, :] = 255
NUMBERS[4:6, 0:2] = 9
IMAGE = np.zeros((6, 8, 3), np.uint8)


@pytest.fixture
def opened(tmp_path):
    def open_folder(numbers=NUMBERS, image=IMAGE, **settings):
        (tmp_path / "sub").mkdir(exist_ok=True)
        Image.fromarray(numbers).save(tmp_path / "sub" / "a.png")
        config = FolderSegments(path=str(tmp_path), **settings)
        return open_segments(image, config, SegmentsContext(sample_id="sub/a"))

    return open_folder


def test_every_number_is_a_segment_and_the_largest_comes_first(opened):
    found = opened().everything()
    np.testing.assert_array_equal(found.masks, [NUMBERS == 7, NUMBERS == 9])
    assert found.scores.tolist() == [1, 1]


def test_separate_areas_and_the_ground_are_segments_where_asked(opened):
    split = opened(split=True).everything()
    assert sorted(split.areas().tolist()) == [4, 6, 6]
    with_ground = opened(zero_is_segment=True).everything()
    np.testing.assert_array_equal(with_ground.masks[0], NUMBERS == 0)
    assert len(with_ground) == 3


def test_pictures_of_16_bits_hold_more_than_255_segments(opened):
    numbers = np.arange(400, dtype=np.uint16).reshape(20, 20)
    found = opened(numbers, np.zeros((20, 20, 3), np.uint8)).everything()
    assert len(found) == 399
    assert not found.masks[:, 0, 0].any()
    # 255 is a segment like any other there.
    assert found.masks[:, 12, 15].sum() == 1


def test_points_get_the_segments_under_them(opened):
    both, without, nothing = opened().at(
        [
            Prompt([(0.5, 0.5), (1.2, 5.9)]),
            Prompt([(0.5, 0.5), (1.2, 5.9)], [True, False]),
            Prompt([(4.5, 0.5)]),
        ]
    )
    np.testing.assert_array_equal(both.masks, [(NUMBERS == 7) | (NUMBERS == 9)])
    np.testing.assert_array_equal(without.masks, [NUMBERS == 7])
    assert len(nothing) == 0
    with pytest.raises(DataError, match="outside"):
        opened().at([Prompt([(8, 1)])])


def test_boxes_get_the_segment_that_fits_them_best():
    labels = np.zeros((6, 8), np.int32)
    labels[1:5, 1:5] = 1
    labels[1:3, 6:8] = 2
    inside, reaching_out, both = LabelMapSegments(labels).at(
        [Prompt(box=(1, 1, 6, 5)), Prompt(box=(1, 1, 4, 4)), Prompt(box=(0, 0, 8, 6))]
    )
    np.testing.assert_array_equal(inside.masks, [labels == 1])
    assert inside.scores.tolist() == pytest.approx([16 / 20])
    assert len(reaching_out) == 0
    np.testing.assert_array_equal(both.masks, [labels == 1])


def test_a_picture_of_another_size_is_resized_and_of_another_shape_refused(opened):
    found = opened(image=np.zeros((3, 4, 3), np.uint8)).everything()
    assert found.size == (3, 4)
    assert set(found.label_map().ravel().tolist()) <= {0, 1, 2}
    with pytest.raises(DataError, match="8 x 6 px, their image 9 x 3 px"):
        opened(image=np.zeros((3, 9, 3), np.uint8))


def test_an_image_may_have_no_segment_at_all(opened):
    assert len(opened(np.zeros((6, 8), np.uint8)).everything()) == 0


def test_what_is_wrong_with_the_folder_is_told(make_dataset, tmp_path, opened):
    dataset = make_dataset({"a": {"tags": {1}}, "b": {"tags": {1}}})
    with pytest.raises(DataError, match="does not exist"):
        folder.check(dataset, config=FolderSegments(path=str(tmp_path / "nowhere")))
    path = tmp_path / "segments"
    path.mkdir()
    Image.fromarray(NUMBERS).save(path / "a.png")
    with pytest.raises(DataError, match=r"no segments of these images[\s\S]*- b"):
        folder.check(dataset, config=FolderSegments(path=str(path)))
    with pytest.raises(DataError, match="3 channels"):
        opened(np.zeros((6, 8, 3), np.uint8))
    (path / "a.png").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read"):
        open_segments(IMAGE, FolderSegments(path=str(path)), SegmentsContext(sample_id="a"))
    with pytest.raises(DataError, match="image's id"):
        open_segments(IMAGE, FolderSegments(path=str(path)))

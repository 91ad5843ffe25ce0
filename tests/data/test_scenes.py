"""The synthetic scenes keep what their descriptions promise."""

import numpy as np
import pytest

from wsseg.data.image_io import read_image, read_mask
from wsseg.data.scenes import CLASSES, FAMILIES, make_dataset, make_scene, scene_seed
from wsseg.data.scenes.canvas import blank
from wsseg.data.scenes.drawing import coverage, ellipse, stroke
from wsseg.errors import DataError, OutputError

NUM_SCENES = 120


@pytest.fixture(scope="module")
def scenes():
    cache = {}

    def of(family):
        if family not in cache:
            cache[family] = [make_scene(family, seed, (96, 96)) for seed in range(NUM_SCENES)]
        return cache[family]

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_gives_the_same_pixels_and_touches_no_global_generator(family):
    np.random.seed(3)  # noqa: NPY002 - the global state is what is watched
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = make_scene(family, 7, (64, 80)), make_scene(family, 7, (64, 80))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert not np.array_equal(first.image, make_scene(family, 8, (64, 80)).image)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(48, 48), (50, 121), (121, 50)])
def test_shapes_types_and_tags_agree_with_the_mask(family, size):
    for seed in range(8):
        scene = make_scene(family, seed, size)
        assert scene.image.shape == (*size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.mask.shape == size
        assert scene.mask.dtype == np.uint8
        assert scene.tags == frozenset(np.unique(scene.mask).tolist()) - {0}
        assert scene.mask.max() <= len(CLASSES[family])
        np.testing.assert_array_equal(scene.instances > 0, scene.mask > 0)
        for region in scene.regions.values():
            assert region.shape == size
            assert region.dtype == np.bool_


@pytest.mark.parametrize("family", FAMILIES)
def test_an_object_has_one_class(family, scenes):
    for scene in scenes(family):
        for number in np.unique(scene.instances[scene.instances > 0]):
            assert len(np.unique(scene.mask[scene.instances == number])) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_is_common(family, scenes):
    for class_id in range(1, len(CLASSES[family]) + 1):
        share = np.mean([class_id in scene.tags for scene in scenes(family)])
        assert share > 0.1, CLASSES[family][class_id - 1]


def test_discriminative_part_is_a_small_share_of_the_object(scenes):
    shares, per_image = [], []
    for scene in scenes("parts"):
        assert not scene.regions["part"][scene.mask == 0].any()
        numbers = np.unique(scene.instances[scene.instances > 0])
        per_image.append(len(numbers))
        for number in numbers:
            pixels = scene.instances == number
            shares.append(np.count_nonzero(scene.regions["part"] & pixels) / pixels.sum())
    assert 0.12 < np.median(shares) < 0.2
    assert np.mean((np.array(shares) > 0.1) & (np.array(shares) < 0.21)) > 0.95
    assert 0.03 < np.mean(np.array(per_image) == 0) < 0.25
    assert 0.2 < np.mean(np.array(per_image) == 2) < 0.5


def body_colours(scenes):
    """Mean colours (N, 3) of the bodies of each class."""
    found = {class_id: [] for class_id in range(1, 5)}
    for scene in scenes:
        body = (scene.mask > 0) & ~scene.regions["part"]
        for class_id in scene.tags:
            found[class_id].append(scene.image[body & (scene.mask == class_id)].mean(axis=0))
    return [np.array(colours) for colours in found.values()]


def right_guesses(groups):
    """Share of the colours that are nearest to the mean of their own class."""
    means = np.array([colours.mean(axis=0) for colours in groups])
    right = [
        np.linalg.norm(colours[:, None] - means, axis=-1).argmin(axis=1) == index
        for index, colours in enumerate(groups)
    ]
    return np.concatenate(right).mean()


def test_body_colour_does_not_tell_the_class(scenes):
    groups = body_colours(scenes("parts"))
    means = np.array([colours.mean(axis=0) for colours in groups])
    spread = np.mean([colours.std(axis=0) for colours in groups])
    assert np.ptp(means, axis=0).max() < spread


def test_body_colour_hints_at_the_class_in_graded_scenes(scenes):
    assert right_guesses(body_colours(scenes("parts"))) < 0.45
    assert 0.55 < right_guesses(body_colours(scenes("graded"))) < 0.85


@pytest.mark.parametrize(("region", "class_id"), [("rail", 1), ("water", 2)])
def test_companion_is_background_and_hardly_ever_alone(region, class_id):
    found = [make_scene("cooccurrence", seed, (64, 64)) for seed in range(400)]
    has_class = np.array([class_id in scene.tags for scene in found])
    has_companion = np.array([scene.regions[region].any() for scene in found])
    assert has_companion[has_class].all()
    assert 0.0 < has_companion[~has_class].mean() < 0.07
    assert 0.35 < has_class.mean() < 0.55
    for scene in found:
        assert not scene.mask[scene.regions[region]].any()


def test_house_has_no_companion(scenes):
    with_rail = [scene for scene in scenes("cooccurrence") if scene.regions["rail"].any()]
    without = [scene for scene in scenes("cooccurrence") if not scene.regions["rail"].any()]
    shares = [np.mean([3 in scene.tags for scene in group]) for group in (with_rail, without)]
    assert abs(shares[0] - shares[1]) < 0.25


def test_instances_are_several_touching_and_of_many_scales(scenes):
    areas, numbers, touching = [], [], 0
    for scene in scenes("instances"):
        sizes = np.bincount(scene.instances.ravel())[1:] / scene.mask.size
        areas += sizes.tolist()
        numbers.append(len(sizes))
        left, right = scene.instances[:, :-1], scene.instances[:, 1:]
        touching += bool(((left != right) & (left > 0) & (right > 0)).any())
    assert min(areas) >= 0.03
    assert max(areas) <= 0.63
    assert max(areas) > 0.35
    assert np.median(areas) < 0.15
    assert min(numbers) >= 1
    assert np.mean(np.array(numbers) >= 2) > 0.95
    assert touching > 0.7 * NUM_SCENES
    assert np.mean([len(scene.tags) > 1 for scene in scenes("instances")]) > 0.7


def test_defects_have_ok_images_and_stated_areas(scenes):
    ok_share = np.mean([not scene.tags for scene in scenes("defects")])
    assert 0.28 < ok_share < 0.52
    areas = [
        np.mean(scene.mask == class_id) for scene in scenes("defects") for class_id in scene.tags
    ]
    assert min(areas) >= 0.001
    assert max(areas) <= 0.08
    numbers = [scene.instances.max() for scene in scenes("defects") if scene.tags]
    assert np.mean(np.array(numbers) >= 2) > 0.4


def test_defects_do_not_touch_each_other(scenes):
    for scene in scenes("defects"):
        for shifted in (scene.instances[:, 1:], scene.instances[1:, :]):
            other = scene.instances[: shifted.shape[0], : shifted.shape[1]]
            assert not ((shifted != other) & (shifted > 0) & (other > 0)).any()


def test_coverage_of_a_disc_is_its_area_and_half_covered_pixels_belong_to_it():
    cover = coverage([ellipse((20.3, 17.8), (9.0, 9.0))], (40, 40))
    assert cover.sum() == pytest.approx(np.pi * 81, rel=0.03)
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(40) + 0.5)
    exact = np.hypot(x - 20.3, y - 17.8) <= 9.0
    assert np.count_nonzero((cover >= 0.5) != exact) <= 8


def test_a_stroke_has_its_width():
    cover = coverage(stroke([(5.0, 10.0), (35.0, 10.0)], 4.0), (20, 40))
    np.testing.assert_allclose(cover[:, 10:30].sum(axis=0), 4.0, atol=0.3)


def test_half_transparent_paint_and_claims_follow_the_coverage():
    canvas = blank((4, 4))
    cover = np.zeros((4, 4), np.float32)
    cover[1, 1:3] = 0.5, 0.49
    canvas.paint(cover, (1.0, 0.0, 0.0))
    canvas.claim(cover, 3)
    np.testing.assert_allclose(canvas.rgb[1, 1], [0.5, 0, 0])
    assert canvas.mask.tolist()[1] == [0, 3, 0, 0]
    canvas.hide(cover)
    assert not canvas.mask.any()
    assert not canvas.instances.any()


def test_unknown_family_small_size_and_negative_seed_are_named():
    with pytest.raises(DataError, match='Did you mean "defects"'):
        make_scene("defekts", 0)
    with pytest.raises(DataError, match="40x200"):
        make_scene("parts", 0, (40, 200))
    with pytest.raises(DataError, match="-1"):
        make_scene("parts", -1)


def test_dataset_on_disk_is_what_the_scenes_are(tmp_path):
    make_dataset("defects", tmp_path, num_train=5, num_val=3, seed=4, size=(64, 64))
    rows = (tmp_path / "labels.csv").read_text().splitlines()
    assert rows[0] == "file,tags,split"
    assert len(rows) == 9
    assert (tmp_path / "classes.csv").read_text().splitlines() == [
        "id,name",
        "0,background",
        "1,scratch",
        "2,dent",
        "3,stain",
        "4,pore",
    ]
    for row in rows[1:]:
        name, tags, split = row.split(",")
        scene = make_scene("defects", scene_seed(4, split, int(name[-9:-4])), (64, 64))
        np.testing.assert_array_equal(read_image(tmp_path / "images" / name), scene.image)
        np.testing.assert_array_equal(read_mask(tmp_path / "masks" / name), scene.mask)
        names = [CLASSES["defects"][class_id - 1] for class_id in sorted(scene.tags)]
        assert tags == ";".join(names)


def test_more_images_do_not_change_the_first_ones(tmp_path):
    for folder, number in (("few", 2), ("many", 4)):
        make_dataset("parts", tmp_path / folder, num_train=number, num_val=1, size=(48, 48))
    for name in ("train_00000", "train_00001", "val_00000"):
        few, many = (tmp_path / folder / "images" / f"{name}.png" for folder in ("few", "many"))
        assert few.read_bytes() == many.read_bytes()


def test_dataset_is_not_mixed_with_other_images(tmp_path):
    make_dataset("parts", tmp_path, num_train=3, num_val=0, size=(48, 48))
    make_dataset("parts", tmp_path, num_train=3, num_val=0, size=(48, 48))
    with pytest.raises(OutputError, match="holds 1 files of another set"):
        make_dataset("parts", tmp_path, num_train=2, num_val=0, size=(48, 48))
    with pytest.raises(DataError, match="num_val=-1"):
        make_dataset("parts", tmp_path, num_train=3, num_val=-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_validation_scenes_differ(family):
    train, val = (
        make_scene(family, scene_seed(0, split, 0), (48, 48)) for split in ("train", "val")
    )
    assert not np.array_equal(train.image, val.image)

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsseg.cues.segments import Segments
from wsseg.cues.segments_folder import FolderSegments
from wsseg.data.scores import Scores
from wsseg.refine import map_prompts as module
from wsseg.refine.map_prompts import (
    MapPrompts,
    choose_answer,
    class_prompts,
    map_prompts,
    soft_mask,
)
from wsseg.refine.protocol import RefineContext

SIZE = (40, 60)
IMAGE = np.zeros((*SIZE, 3), np.uint8)


def make_scores():
    """Class 3 has two peaks on the left, class 7 one on the right that reaches over."""
    values = np.zeros((3, *SIZE), np.float32)
    values[1, 4:8, 4:8] = 0.6
    values[1, 5, 5] = 1.0
    values[1, 32, 10] = 0.8
    values[2, 10:30, 40:55] = 0.4
    values[2, 20, 45] = 0.9
    values[2, 5, 6] = 0.2
    return Scores(values, np.array([0, 3, 7], np.uint8), SIZE)


def test_a_class_asks_by_all_its_peaks_and_the_others_say_where_it_is_not():
    values = make_scores().values
    [prompt] = class_prompts(values, 1, MapPrompts())
    assert prompt.points.tolist() == [[5.5, 5.5], [10.5, 32.5], [45.5, 20.5]]
    assert prompt.positive.tolist() == [True, True, False]
    [bare] = class_prompts(values, 1, MapPrompts(negatives=False))
    assert bare.positive.tolist() == [True, True]


def test_boxes_are_asked_one_by_one_with_their_own_peaks():
    values = make_scores().values
    settings = {"box_threshold": 0.5, "min_box_area_px": 1}
    boxes = class_prompts(values, 1, MapPrompts(prompts="boxes", **settings))
    assert [prompt.box.tolist() for prompt in boxes] == [[4, 4, 8, 8], [10, 32, 11, 33]]
    assert [len(prompt.points) for prompt in boxes] == [0, 0]
    both = class_prompts(values, 1, MapPrompts(prompts="both", **settings))
    assert [prompt.points.tolist() for prompt in both] == [[[5.5, 5.5]], [[10.5, 32.5]]]
    # Where all areas are too small, the peaks ask.
    [small] = class_prompts(values, 1, MapPrompts(prompts="boxes", min_box_area_px=500))
    assert small.box is None


def test_a_class_without_evidence_asks_nothing():
    assert class_prompts(np.zeros((2, *SIZE), np.float32), 1, MapPrompts()) == []


def test_one_of_three_answers_is_chosen_by_the_rule():
    masks = np.zeros((3, 1, 6), bool)
    masks[0, 0, :1] = masks[1, 0, :3] = masks[2] = True
    answer = Segments.of_masks(masks, np.array([0.9, 0.5, 0.6]))
    wanted = np.array([[1, 1, 0, 0, 0, 0]], bool)
    chosen = {rule: choose_answer(answer, wanted, rule) for rule in ("whole", "score", "overlap")}
    assert chosen == {"whole": 2, "score": 0, "overlap": 1}


def test_logits_weigh_the_pixels_of_a_mask():
    mask = np.array([[[True, True, False, False]]])
    logits = np.array([[[2.0, 0.5, -1.0, -3.0]]], np.float32)
    soft = soft_mask(Segments.of_masks(mask, np.ones(1), logits), 0)
    np.testing.assert_allclose(soft, [[2.0, 0.5, 0, 0]])
    assert soft_mask(Segments.of_masks(mask, np.ones(1)), 0).tolist() == [[1, 1, 0, 0]]


class Answers:
    """A backend that gives one prepared answer per class, in the order of the classes."""

    def __init__(self, answers):
        self.answers = list(answers)

    def at(self, prompts):
        return [self.answers.pop(0) for _ in prompts]


def refine(monkeypatch, answers, scores):
    monkeypatch.setattr(module, "open_kept", lambda *_: Answers(answers))
    context = RefineContext(sample_id="a")
    return map_prompts(IMAGE, scores, context=context), context.facts


def test_classes_compete_by_logit_and_mean_score(monkeypatch):
    scores = make_scores()
    masks = np.zeros((2, *SIZE), bool)
    masks[0, :20, :30] = masks[1, 5:35, 20:58] = True
    rng = np.random.default_rng(0)
    logits = rng.uniform(0.5, 4, (2, *SIZE)).astype(np.float32)
    answers = [
        Segments.of_masks(m[None], np.ones(1), z[None]) for m, z in zip(masks, logits, strict=True)
    ]
    found, facts = refine(monkeypatch, answers, scores)
    means = [scores.values[i + 1].astype(np.float64)[masks[i]].mean() for i in range(2)]
    confidence = np.where(masks, logits * np.array(means)[:, None, None], -1e5)
    expected = np.where(confidence.max(axis=0) < 0, 0, 1 + confidence.argmax(axis=0))
    np.testing.assert_array_equal(found.values.argmax(axis=0), expected)
    np.testing.assert_allclose(found.values[1][expected == 1], means[0], rtol=1e-5)
    np.testing.assert_array_equal(found.values[0], expected == 0)
    assert facts == {}


def test_peaks_that_ask_in_place_of_boxes_are_noted(monkeypatch):
    mask = np.zeros((1, *SIZE), bool)
    mask[0, :, :50] = True
    answers = [Segments.of_masks(mask, np.ones(1))] * 3
    monkeypatch.setattr(module, "open_kept", lambda *_: Answers(answers))
    for prompts, least, expected in (
        ("points", 1, None),
        ("boxes", 1, None),
        ("boxes", 15, "no area for a box in the classes [7]; their peaks asked"),
        ("both", 500, "no area for a box in the classes [3, 7]; their peaks asked"),
    ):
        context = RefineContext(sample_id="a")
        config = MapPrompts(prompts=prompts, min_box_area_px=least)
        answers[:] = [answers[0]] * 3
        map_prompts(IMAGE, make_scores(), config=config, context=context)
        assert context.facts.get("note") == expected


NONE = Segments.of_masks(np.zeros((0, *SIZE), bool), np.zeros(0))


def test_an_image_without_answers_keeps_its_scores_and_says_so(monkeypatch):
    scores = make_scores()
    found, facts = refine(monkeypatch, [NONE, NONE], scores)
    np.testing.assert_array_equal(found.values, scores.values)
    assert facts["note"] == "no segment; scores kept"


def test_a_class_without_an_answer_keeps_what_it_wins_outside_of_the_masks(monkeypatch):
    scores = make_scores()
    mask = np.zeros((1, *SIZE), bool)
    mask[0, :, :50] = True
    found, facts = refine(monkeypatch, [Segments.of_masks(mask, np.ones(1)), NONE], scores)
    assert "classes [7]" in facts["note"]
    np.testing.assert_allclose(found.values[2][:, 50:], scores.values[2][:, 50:])
    assert not found.values[2][:, :50].any()
    assert (found.values[1][:, :50] > 0).all()


@pytest.mark.parametrize("prompts", ["points", "boxes", "both"])
def test_true_objects_are_found_from_their_peaks(tmp_path, prompts):
    numbers = np.zeros(SIZE, np.uint8)
    numbers[2:15, 2:14] = 1
    numbers[28:38, 5:20] = 2
    numbers[8:33, 35:58] = 3
    Image.fromarray(numbers).save(tmp_path / "a.png")
    config = MapPrompts(
        prompts=prompts, box_threshold=0.3, min_box_area_px=500,
        segments=FolderSegments(path=str(tmp_path)),
    )  # fmt: skip
    context = RefineContext(sample_id="a")
    scores = make_scores()
    found = map_prompts(IMAGE, scores, config=config, context=context)
    expected = np.array([0, 1, 1, 2])[numbers]
    np.testing.assert_array_equal(found.values.argmax(axis=0), expected)

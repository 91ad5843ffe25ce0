from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsseg.errors import DataError
from wsseg.report.collect import collect
from wsseg.report.figures import curve_figures, stage_figures, threshold_figures
from wsseg.report.model import ReportData, StageResult
from wsseg.report.render import build_report, render
from wsseg.report.tables import confusion_table, largest_confusions

MakeRun = Callable[..., Any]
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Collects elements and texts, and checks that elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def html(make_run: MakeRun) -> str:
    return build_report(make_run().path).read_text("utf-8")


def stage_result(confusion: list[list[int]], names: list[str]) -> StageResult:
    from wsseg.report.results import _stage

    classes = [{"id": i, "name": name} for i, name in enumerate(names)]
    return _stage({"stage": "pseudo", "confusion": confusion, "classes": classes}, ())


def test_the_page_is_well_formed_and_all_sections_can_be_reached(html: str):
    page = Page(html)
    ids = {attributes.get("id") for _, attributes in page.elements}
    targets = [str(link["href"]) for link in page.all("a")]
    assert len(targets) >= 8
    assert all(target.startswith("#") and target[1:] in ids for target in targets)


def test_the_page_refers_to_nothing_outside_itself(html: str):
    page = Page(html)
    for name, attributes in page.elements:
        for key in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (name, key, value)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    assert not re.search(r"https?://", html)


def test_the_policy_of_the_page_forbids_requests(html: str):
    policies = [m for m in Page(html).all("meta") if m.get("http-equiv")]
    assert str(policies[0]["content"]).startswith("default-src 'none'; img-src data:")


def test_names_with_html_characters_are_shown_as_text(html: str):
    page = Page(html)
    assert "<img src=x onerror=alert(1)>&'\"" in page.text
    assert not any(attributes.get("onerror") for _, attributes in page.elements)
    assert not page.all("b") or "<b>&" in page.text
    assert "한국어/부품 2" in page.text
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img")[:-1])


def test_gallery_rows_come_worst_first(html: str):
    rows = [a for a in Page(html).all("article") if a.get("class") == "item"]
    doubts = [float(str(row["data-doubt"])) for row in rows]
    assert len(doubts) == 9
    assert doubts == sorted(doubts, reverse=True)


def test_what_was_tuned_on_masks_carries_a_badge(html: str):
    text = Page(html).text
    assert "CAM, best threshold tuned on masks" in text
    assert "Dense_crf tuned on masks" not in text
    assert "for comparison only: CAM, best threshold (val)" in text


def test_the_summary_prefers_unseen_images(html: str):
    text = Page(html).text
    assert "Segmenter mIoU 63.0 %" in text
    assert "Pseudo-mask mIoU 57.0 % val" in text


def test_values_that_are_undefined_are_dashes_and_not_numbers(html: str):
    lowered = Page(html).text.lower()
    assert " nan" not in lowered
    assert " none " not in lowered.replace("weights none", "")
    assert "–" in lowered


def test_images_have_words_for_those_who_cannot_see_them(html: str):
    for image in Page(html).all("img")[:-1]:
        assert image["alt"]


def test_a_run_without_ground_truth_says_so(make_run: MakeRun):
    run = make_run(num_images=3)
    (run.path / "metrics.json").unlink()
    text = Page(build_report(run.path).read_text("utf-8")).text
    assert "Nothing was scored" in text
    assert "wsseg evaluate" in text


def test_a_run_with_nothing_but_a_recipe_still_gives_a_page(make_run: MakeRun):
    run = make_run(num_images=3)
    for entry in run.path.iterdir():
        if entry.name != "recipe.yaml":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    text = Page(build_report(run.path).read_text("utf-8")).text
    for sentence in ("no readable samples.jsonl", "Nothing was scored", "no image to show"):
        assert sentence in text


def test_an_empty_report_renders():
    page = Page(render(ReportData(run_dir="runs/x", name="x")))
    assert "no readable recipe.yaml" in page.text


def test_files_that_cannot_be_read_are_listed(make_run: MakeRun):
    run = make_run(num_images=3)
    (run.path / "metrics.json").write_text("{")
    text = Page(build_report(run.path).read_text("utf-8")).text
    assert "Parts of this report are missing" in text


def test_commands_for_the_next_step_quote_the_folder(html: str):
    assert re.search(r"wsseg predict '[^']*run & 결과' NEW_IMAGES", Page(html).text)


def test_the_same_run_gives_the_same_page(make_run: MakeRun):
    data = collect(make_run(num_images=3).path)
    assert render(data) == render(data)


def test_an_old_report_survives_when_the_new_one_cannot_be_made(make_run: MakeRun, tmp_path: Path):
    run = make_run(num_images=3)
    old = build_report(run.path).read_bytes()
    with pytest.raises(DataError):
        build_report(tmp_path / "absent")
    assert (run.path / "report.html").read_bytes() == old
    assert not list(run.path.glob(".tmp-*"))


def test_a_page_of_pure_noise_stays_below_ten_megabytes(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
):
    # Five noise images with the room of five of sixty; what is left holds the rest of the page.
    from wsseg.report import gallery

    monkeypatch.setattr(gallery, "MAX_TOTAL_BYTES", gallery.MAX_TOTAL_BYTES // 12)
    run = make_run(num_images=5)
    rng = np.random.default_rng(0)
    for sample in run.dataset.samples:
        noise = rng.integers(0, 255, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(sample.image_path)
    html = build_report(run.path).read_text("utf-8")
    pictures = sum(len(str(image["src"])) for image in Page(html).all("img")[:-1])
    assert 12 * pictures + (len(html) - pictures) < 10_000_000


def test_stages_are_drawn_once_per_split_and_sweeps_once_per_curve(make_run: MakeRun):
    data = collect(make_run(num_images=3).path)
    bars, sweeps = stage_figures(data.stages), threshold_figures(data.stages)
    assert [figure.title for figure in bars] == [
        "Mean IoU by stage, val",
        "Mean IoU by stage, train",
    ]
    assert len(sweeps) == 1
    # The ring is at the threshold that was chosen without masks, not at the best one.
    assert "“CAM”, 42.0 at 0.25" in sweeps[0].caption
    assert "Best 50.0 at 0.35" in sweeps[0].caption


def test_losses_share_a_chart_and_measures_have_their_own(make_run: MakeRun):
    figures = curve_figures(collect(make_run(num_images=3).path).curves)
    assert [figure.title for figure in figures] == [
        f"{stage}: {what}"
        for stage in ("localize", "segment")
        for what in ("loss", "val mIoU", "learning rate")
    ]


def test_rows_of_the_confusion_table_are_shares_of_the_true_class():
    table = confusion_table(stage_result([[8, 2], [0, 0]], ["background", "dent"]))
    assert [cell.text for cell in table.rows[0].cells] == ["80.0", "20.0"]
    assert [cell.heat for cell in table.rows[0].cells] == ["0.800", "0.200"]
    assert [cell.text for cell in table.rows[1].cells] == ["", ""]


def test_the_largest_confusions_are_named_worst_first():
    confusion = [[98, 2, 0], [50, 50, 0], [0, 10, 90]]
    found = largest_confusions(stage_result(confusion, ["background", "a", "b"]))
    assert found == [
        "50.0 % of a is taken for background",
        "10.0 % of b is taken for a",
        "2.0 % of background is taken for a",
    ]


def test_stages_inside_of_others_count_once_in_the_working_time(make_run: MakeRun):
    from wsseg.report.render import _working_seconds

    run = make_run()
    masks = run.path / "segment" / "round_1" / "masks"
    masks.mkdir(parents=True)
    (masks / "stage.json").write_text('{"progress": "done", "seconds": 1000}')
    data = collect(run.path)
    assert "segment/round_1/masks" in [one.name for one in data.stage_runs]
    assert _working_seconds(data) == 120

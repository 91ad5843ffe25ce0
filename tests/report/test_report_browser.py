"""The report in a real browser: layout, script, pictures, and silence on the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def report(make_run: Any) -> Path:
    from wsseg.report.render import build_report

    return build_report(make_run(num_images=7).path)


def open_page(
    browser: Any, path: Path, size: str = "desktop", *, dark: bool = False, script: bool = True
) -> None:
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())


def requested(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def shown_names(browser: Any) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('.item:not([hidden])')].map(i => i.dataset.name)"
    )


def choose(browser: Any, field: str, value: str) -> None:
    browser.execute_script(
        "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
        "f.dispatchEvent(new Event(f.tagName === 'INPUT' ? 'input' : 'change'))",
        field,
        value,
    )


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_its_width_and_neither_complains_nor_calls(
    browser: Any, report: Path, size: str, dark: bool
):
    open_page(browser, report, size, dark=dark)
    assert browser.execute_script("return innerWidth") == SIZES[size][0]
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    scroll_width, client_width = browser.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    assert scroll_width <= client_width
    assert browser.get_log("browser") == []
    outside = [url for url in requested(browser) if not url.startswith("data:")]
    assert outside == [report.as_uri()]


def test_every_picture_is_decoded(browser: Any, report: Path):
    open_page(browser, report)
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.tile img')].map(i => i.naturalWidth)"
    )
    assert len(widths) > 25
    assert min(widths) > 0


def test_letters_are_large_enough_on_a_phone(browser: Any, report: Path):
    open_page(browser, report, "phone")
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('svg.chart text')].map(t => "
        "parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a))"
    )
    assert smallest >= 10


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_background(browser: Any, report: Path, dark: bool):
    open_page(browser, report, dark=dark)
    colours = browser.execute_script(
        "const s = getComputedStyle(document.body); const v = n => s.getPropertyValue(n).trim();"
        "return [v('--ink'), v('--weak'), v('--accent'), v('--paper')]"
    )
    *texts, paper = [_luminance(colour) for colour in colours]
    for text in texts:
        lighter, darker = max(text, paper), min(text, paper)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_gallery_is_filtered_by_class_split_and_name(browser: Any, report: Path):
    open_page(browser, report)
    everything = shown_names(browser)
    assert len(everything) == 7
    choose(browser, "f-class", "1")
    assert set(shown_names(browser)) == {"plain", "<img src=x onerror=alert(1)>&'\"", "part_005"}
    choose(browser, "f-split", "val")
    assert shown_names(browser) == ["part_005"]
    choose(browser, "f-class", "ok")
    assert shown_names(browser) == ["한국어/부품 2"]
    choose(browser, "f-name", "no such name")
    assert shown_names(browser) == []
    assert browser.execute_script("return !document.getElementById('f-empty').hidden")
    for field in ("f-class", "f-split", "f-name"):
        choose(browser, field, "")
    assert shown_names(browser) == everything
    assert browser.find_element("id", "f-count").text == "7 of 7 shown"


def test_the_gallery_is_sorted_by_doubt_and_by_name(browser: Any, report: Path):
    open_page(browser, report)
    worst = shown_names(browser)
    choose(browser, "f-order", "best")
    assert shown_names(browser) == worst[::-1]
    choose(browser, "f-order", "name")
    assert shown_names(browser) == sorted(worst)


def test_a_tile_opens_enlarged_and_the_keyboard_walks_on_and_closes(browser: Any, report: Path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, report)
    tile = browser.find_element("css selector", ".tile")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", tile)
    small = tile.find_element("css selector", "img").size["width"]
    tile.click()
    image = browser.find_element("id", "lb-image")
    title = browser.find_element("id", "lb-title")
    assert image.is_displayed()
    assert image.size["width"] > 1.5 * small
    assert title.text.startswith("Image · ")
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert not title.text.startswith("Image · ")
    ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
    assert title.text.startswith("Image · ")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not browser.execute_script("return document.getElementById('lightbox').open")
    assert browser.execute_script("return document.activeElement.className") == "tile"


def test_the_enlarged_view_opens_with_the_enter_key_and_fits_a_phone(browser: Any, report: Path):
    open_page(browser, report, "phone")
    browser.execute_script(
        "const t = document.querySelector('.tile'); t.focus();"
        "t.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))"
    )
    box = browser.find_element("id", "lightbox").rect
    assert box["width"] <= SIZES["phone"][0]
    assert box["height"] <= SIZES["phone"][1]
    browser.find_element("id", "lb-close").click()
    assert not browser.execute_script("return document.getElementById('lightbox').open")


def test_without_script_everything_is_there_but_the_controls(browser: Any, report: Path):
    open_page(browser, report, script=False)
    try:
        text = browser.find_element("tag name", "body").text
        assert "Stage by stage" in text
        assert "part_005" in text
        assert not browser.find_element("css selector", ".tools").is_displayed()
        images = browser.find_elements("css selector", ".tile img")
        assert all(int(image.get_property("naturalWidth")) > 0 for image in images[:5])
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

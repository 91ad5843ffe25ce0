from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from wsseg import console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_log_lines_go_to_stderr_and_results_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    console.info("reading")
    console.warning("odd")
    console.result("done", {"count": 1})
    captured = capsys.readouterr()
    assert captured.out == "done\n"
    assert captured.err == "reading\nwarning: odd\n"


def test_json_leaves_stdout_to_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(json_output=True)
    console.info("reading")
    with console.progress(3, "work") as shown:
        shown.advance(3)
        shown.set("loss 1")
    console.result("Müller", {"name": "Müller", "value": None})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"name": "Müller", "value": None}
    assert "Müller" in captured.out
    assert captured.err == ""
    assert console.is_json()


def test_json_still_shows_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(json_output=True)
    console.warning("no masks")
    assert capsys.readouterr().err == "warning: no masks\n"


def test_json_prints_nothing_where_there_is_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(json_output=True)
    console.result("only for people")
    assert capsys.readouterr().out == ""


def test_quiet_shows_only_warnings_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(quiet=True)
    console.info("reading")
    with console.progress(3, "work") as shown:
        shown.advance(3)
    console.warning("odd")
    console.result("done")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("done\n", "warning: odd\n")


def test_debug_shows_debug_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(debug=True)
    logging.getLogger("wsseg").debug("detail")
    assert capsys.readouterr().err == "detail\n"


def test_configuring_twice_says_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    console.configure()
    console.info("reading")
    assert capsys.readouterr().err == "reading\n"


def test_an_automatic_choice_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    for _ in range(3):
        console.once("layer: the last")
    console.once("layer: the first")
    assert capsys.readouterr().err == "layer: the last\nlayer: the first\n"


def test_later_processes_stay_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    console.configure()
    console.info("reading")
    console.warning("odd")
    with console.progress(1, "work") as shown:
        shown.advance()
    console.result("done", {})
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_without_a_terminal_progress_is_a_line_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.configure()
    with console.progress(4, "maps") as shown:
        shown.advance()
        shown.advance(3)
        shown.set("loss 0.5")
    assert capsys.readouterr().err == "maps 4/4 (0 s, loss 0.5)\n"


def test_without_a_terminal_a_line_now_and_then_says_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    console.configure()
    with console.progress(10, "maps", done=4) as shown:
        now[0] += 6
        shown.advance()
        now[0] += 6
        shown.advance()
        now[0] += 1
        shown.advance()
    # Two of the six that were left took 12 s, so the other four take 24 s.
    assert capsys.readouterr().err.splitlines() == [
        "maps 6/10 (12 s, 24 s left)",
        "maps 7/10 (13 s, 13 s left)",
    ]


def test_progress_of_unknown_length_counts(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()
    with console.progress(None, "files") as shown:
        shown.advance(7)
    assert capsys.readouterr().err == "files 7 (0 s)\n"


def test_progress_is_told_even_when_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure()

    def fail() -> None:
        with console.progress(4, "maps") as shown:
            shown.advance()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert capsys.readouterr().err.startswith("maps 1/4")


def test_in_a_terminal_a_bar_shows_title_count_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(4, "maps [train]", done=1) as shown:
        shown.advance(3)
        shown.set("file [a].png")
    text = terminal.getvalue()
    assert "maps [train]" in text
    assert "4/4" in text
    assert "file [a].png" in text

from __future__ import annotations

import sys

import pytest

from wsseg.errors import (
    DataError,
    MissingExtraError,
    MissingWeightsError,
    OutputError,
    RecipeError,
)


@pytest.fixture
def failing(monkeypatch):
    """Let ``wsseg doctor`` fail with a given fault."""

    def fail_with(fault: BaseException) -> None:
        def examine():
            raise fault

        monkeypatch.setattr("wsseg.doctor.examine", examine)

    return fail_with


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (RecipeError("wrong key"), 2),
        (DataError("bad image:", ["a.png: empty"]), 3),
        (OutputError("disk full"), 3),
        (MissingWeightsError("no weights"), 4),
        (MissingExtraError("ONNX", "onnx"), 4),
    ],
)
def test_each_fault_is_one_message_and_an_exit_code(fault, code, cli, failing):
    failing(fault)
    done = cli("doctor")
    assert done.code == code
    assert done.err == f"error: {fault}\n"
    assert done.out == ""


def test_under_json_the_fault_is_a_document_too(cli, failing):
    failing(DataError("bad image"))
    done = cli("doctor", "--json")
    assert done.code == 3
    assert done.json == {"error": "bad image", "exit_code": 3}
    assert done.err == "error: bad image\n"


def test_debug_shows_where_the_fault_came_from(cli, failing):
    failing(DataError("bad image"))
    done = cli("doctor", "--debug")
    assert done.code == 3
    assert "Traceback" in done.err
    assert done.err.endswith("error: bad image\n")


def test_ctrl_c_says_how_to_go_on(cli, failing):
    failing(KeyboardInterrupt())
    done = cli("doctor")
    assert done.code == 130
    assert "run the same command again to continue" in done.err
    assert "Traceback" not in done.err


def test_a_reader_that_has_gone_is_no_fault(cli, failing, monkeypatch):
    class Stderr:
        closed = False

        def close(self):
            self.closed = True

    stderr = Stderr()
    failing(BrokenPipeError())
    monkeypatch.setattr("wsseg.cli._command.sys.stderr", stderr)
    assert cli("doctor").code == 0
    assert stderr.closed


def test_a_bug_keeps_its_traceback(failing, monkeypatch, capsys):
    from wsseg.cli import main

    failing(ZeroDivisionError("a bug"))
    monkeypatch.setattr(sys, "argv", ["wsseg", "doctor"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main()
    assert "error:" not in capsys.readouterr().err


def test_later_processes_repeat_no_fault(cli, failing, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    failing(DataError("bad image"))
    done = cli("doctor")
    assert (done.code, done.out, done.err) == (3, "", "")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fly"], "fly"),
        (["run"], "DATA"),
        (["run", "x", "--no-such-option"], "--no-such-option"),
        (["data", "split", "x", "--val", "2"], "--val"),
        (["data", "scenes", "defects", "--out", "x", "--size", "10"], "--size"),
        (["data", "scenes", "defects"], "--out"),
        (["compare", "x"], "--recipes"),
        (["export", "x"], "--to"),
    ],
)
def test_wrong_usage_names_the_argument(arguments, word, cli):
    done = cli(*arguments)
    assert done.code == 2
    assert word in done.err
    assert "Usage: wsseg" in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["data", "--help"]])
def test_help_is_a_result(arguments, cli):
    done = cli(*arguments)
    assert done.code == 0
    assert done.out.startswith("Usage: wsseg")
    assert done.err == ""


def test_without_a_verb_the_help_is_shown(cli):
    done = cli()
    assert "Usage: wsseg" in done.out + done.err
    assert done.code in (0, 2)

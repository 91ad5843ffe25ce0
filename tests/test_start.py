"""What happens before any work: imports, help, version, usage errors."""

from __future__ import annotations

import subprocess
import sys

import pytest


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from wsseg.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("statement", ["import wsseg", "from wsseg.cli import main, data, run"])
def test_starting_imports_nothing_heavy(statement: str) -> None:
    heavy = "{'torch', 'cv2', 'numpy', 'numba', 'timm', 'skimage', 'matplotlib', 'pydantic'}"
    script = f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported() -> None:
    import wsseg

    assert [name for name in wsseg.__all__ if getattr(wsseg, name, None) is None] == []
    with pytest.raises(AttributeError):
        _ = wsseg.no_such_name


def test_help_lists_every_verb() -> None:
    text = _run("--help").stdout
    verbs = (
        "demo run localize refine pseudo segment evaluate report predict compare data recipes "
        "doctor export"
    )
    assert [verb for verb in verbs.split() if verb not in text] == []


def test_version_is_printed() -> None:
    from wsseg import __version__

    assert _run("--version").stdout == f"wsseg {__version__}\n"


def test_a_usage_error_exits_with_2() -> None:
    done = _run("run")
    assert done.returncode == 2
    assert "DATA" in done.stderr

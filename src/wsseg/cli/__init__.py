"""The command line: one function per verb that parses, calls and prints.

Nothing heavy is imported before a verb runs, so ``wsseg --help`` answers at once.
Exit codes: 0 done, 1 a bug (with traceback), 2 usage or recipe, 3 data or output,
4 missing weights or extra, 130 interrupted.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from wsseg import console
from wsseg._version import __version__

app = typer.Typer(
    name="wsseg",
    help="Weakly supervised semantic segmentation: cheap labels to pixel masks and a model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)

_GLOBAL_FLAGS = ("--json", "--quiet", "--debug")


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"wsseg {__version__}\n")
        raise typer.Exit


@app.callback()
def _everywhere(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results as one JSON document; no progress.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only warnings.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show debug lines, and tracebacks of every error.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Weakly supervised semantic segmentation: cheap labels to pixel masks and a model."""
    console.configure(json_output=as_json, quiet=quiet, debug=debug)


def main() -> None:
    """Run the command line; ``--json``, ``--quiet`` and ``--debug`` may stand anywhere."""
    from wsseg.cli import data, export, recipes, run  # noqa: F401 - they register their verbs

    for stream in (sys.stdout, sys.stderr):
        # A terminal whose encoding lacks a letter of a file's name shows its number instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    flags = [argument for argument in arguments if argument in _GLOBAL_FLAGS]
    rest = [argument for argument in arguments if argument not in _GLOBAL_FLAGS]
    app(args=[*flags, *rest], prog_name="wsseg")

"""What all verbs share: faults become one message and an exit code."""

from __future__ import annotations

import functools
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from wsseg import console
from wsseg.errors import WssegError
from wsseg.processes import is_main_process

INTERRUPTED = 130


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a verb so that faults print a message without traceback and set the exit code."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except WssegError as error:
            _show(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            sys.stderr.write(
                "\nInterrupted. Nothing that was finished is lost; "
                "run the same command again to continue.\n"
            )
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output (head, less) has gone; that is no fault of ours.
            sys.stderr.close()
            raise typer.Exit(0) from None

    return wrapped


def _show(error: WssegError) -> None:
    if not is_main_process():
        return
    if logging.getLogger("wsseg").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    if console.is_json():
        console.result("", {"error": str(error), "exit_code": error.exit_code})
    sys.stderr.write(f"error: {error}\n")

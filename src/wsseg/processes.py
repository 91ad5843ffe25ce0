"""Which of several processes this is, and how the others wait for the first one.

Under ``torchrun`` or ``accelerate launch`` every process runs the same pipeline. All of them train;
everything else, such as maps, masks and files, is the work of the first, whose result the others
are told. They wait on the CPU (gloo), for as long as it takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from wsseg.errors import WssegError

T = TypeVar("T")

# A stage over a hundred thousand images may keep the others waiting for days.
_LONGEST_WAIT = timedelta(days=30)
_state: dict[str, Any] = {"group": None, "alone": False}


def num_processes() -> int:
    """Count the processes that run this program together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Tell whether this is the process that writes files, without starting anything.

    True everywhere but in the second and later processes of ``torchrun`` and
    ``accelerate launch``.
    """
    return int(os.environ.get("RANK", "0")) == 0


def from_main_process(work: Callable[[], T]) -> T:
    """Do something in the first process only, and give all processes its result.

    With one process, and inside of such a piece of work, it is a plain call.

    Args:
        work: What to do; all processes must come here in the same order. Its result must consist
            of plain values.

    Returns:
        The result.

    Raises:
        WssegError: What ``work`` raised, in every process, so that none waits for ever.

    Example:
        >>> from_main_process(lambda: 3)
        3
    """
    if num_processes() == 1 or _state["alone"]:
        return work()
    import torch.distributed as dist

    group = _group()
    box: list[Any] = [None]
    fault: WssegError | None = None
    if is_main_process():
        _state["alone"] = True
        try:
            box = [("result", work())]
        except WssegError as error:
            fault = error
            box = [("fault", str(error), error.exit_code)]
        finally:
            _state["alone"] = False
    dist.broadcast_object_list(box, src=0, group=group)
    if fault is not None:
        raise fault
    if box[0][0] == "fault":
        raise _ToldError(box[0][1], box[0][2])
    result: T = box[0][1]
    return result


class _ToldError(WssegError):
    """A fault of the first process, as the others hear of it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _group() -> Any:
    """Connect to the other processes; trainings use connections of their own."""
    if _state["group"] is None:
        import torch.distributed as dist
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
        _state["group"] = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    return _state["group"]

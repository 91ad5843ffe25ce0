from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from wsseg.memory import peak_memory

SIZE = 200_000_000


def test_a_peak_that_is_gone_at_the_end_is_seen():
    with peak_memory(interval_s=0.01) as before:
        pass
    with peak_memory(interval_s=0.01) as peak:
        held = np.ones(SIZE, np.uint8)
        time.sleep(0.2)
        del held
    assert peak.bytes > before.bytes + 0.8 * SIZE


def test_the_watch_ends_with_the_block_even_when_it_fails():
    with pytest.raises(ValueError, match="inside"), peak_memory():
        raise ValueError("inside")
    assert "wsseg-memory" not in {thread.name for thread in threading.enumerate()}

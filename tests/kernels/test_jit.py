import threading

import numpy as np
import pytest

from wsseg.kernels import _jit
from wsseg.kernels._jit import Team, compiled, num_threads


def test_results_keep_the_order_of_the_tasks():
    for threads in (1, 2, 5):
        with Team(threads) as team:
            assert team.run(pow, [(n, 2) for n in range(11)]) == [n**2 for n in range(11)]


def test_tasks_of_one_phase_run_at_the_same_time():
    meeting = threading.Barrier(2, timeout=30)
    with Team(2) as team:
        assert sorted(team.run(lambda _: meeting.wait(), [(0,), (1,)])) == [0, 1]


def test_a_fault_in_another_thread_is_raised_here():
    def fail_at(number):
        if number == 1:
            raise KeyError("one")

    with Team(2) as team, pytest.raises(KeyError, match="one"):
        team.run(fail_at, [(0,), (1,)])


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 10])
def test_ranges_cover_everything_once(threads, size):
    with Team(threads) as team:
        covered = [place for start, stop in team.ranges(size) for place in range(start, stop)]
    assert covered == list(range(size))


def test_environment_limits_the_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert num_threads() == 1
    assert num_threads(3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert num_threads() >= 1


def test_a_number_of_threads_below_one_is_refused():
    with pytest.raises(ValueError, match="threads is 0; expected at least 1"):
        num_threads(0)


def _double(x):
    return x * 2


def test_kernels_run_where_no_cache_can_be_written(monkeypatch):
    def refuse(function):
        raise RuntimeError(f"cannot cache function {function}: no locator available")

    monkeypatch.setattr(_jit, "_KernelCache", refuse)
    np.testing.assert_array_equal(compiled(_double)(np.arange(3.0)), [0, 2, 4])


def test_kernels_run_when_the_disk_is_full(monkeypatch):
    def fail(self, sig, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_jit.FunctionCache, "save_overload", fail)
    np.testing.assert_array_equal(compiled(_double)(np.arange(3)), [0, 2, 4])

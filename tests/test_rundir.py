from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wsseg.atomic import write_text
from wsseg.errors import DataError, OutputError
from wsseg.rundir import RunDir, StageDir


@dataclass(frozen=True)
class Item:
    id: str


ITEMS = [Item("a"), Item("sub/b"), Item("c")]


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "localize", "f1")
    assert not stage.begin()
    stage.finish(seconds=1.0)
    assert StageDir(tmp_path / "localize", "f1").begin()


def test_changed_settings_clear_the_stage(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "localize", "f1")
    stage.begin()
    write_text(stage.file("scores", "a", ".npz"), "old")
    stage.finish()
    changed = StageDir(tmp_path / "localize", "f2")
    assert not changed.begin()
    assert not changed.file("scores", "a", ".npz").exists()


def test_a_folder_that_wsseg_did_not_make_is_never_cleared(tmp_path: Path) -> None:
    precious = tmp_path / "masks" / "hand-painted.png"
    write_text(precious, "hours of work")
    with pytest.raises(OutputError, match="not made by wsseg"):
        StageDir(tmp_path / "masks", "f1").begin()
    assert precious.read_text() == "hours of work"


def test_a_stage_whose_very_first_write_was_killed_is_begun_again(tmp_path: Path) -> None:
    half = tmp_path / "masks" / ".tmp-0123456789ab.json"
    write_text(half, "{")
    assert not StageDir(tmp_path / "masks", "f1").begin()
    assert not half.exists()


def test_a_stage_whose_clearing_was_killed_is_cleared_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = StageDir(tmp_path / "localize", "f1")
    stage.begin()
    for name in ("scores/a.npz", "training/last.safetensors"):
        write_text(stage.path / name, "old")
    stage.finish()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        StageDir(stage.path, "f2").begin()
    monkeypatch.undo()
    # What is left must not be taken for a result, not even with the settings it was made with.
    assert not StageDir(stage.path, "f1").begin()
    assert [path.name for path in stage.path.iterdir()] == ["stage.json"]


def test_an_invalidated_stage_is_done_again(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "masks", "f1")
    stage.invalidate()
    assert not stage.path.exists()
    stage.begin()
    stage.finish()
    assert stage.is_done
    stage.invalidate()
    assert not stage.is_current
    assert not stage.begin()


def test_only_a_stage_of_ours_is_removed(tmp_path: Path) -> None:
    own = StageDir(tmp_path / "own", "f1")
    own.begin()
    write_text(own.path / "sub" / "a.png", "x")
    own.remove()
    assert not own.path.exists()
    write_text(tmp_path / "foreign" / "a.png", "x")
    StageDir(tmp_path / "foreign", "f1").remove()
    assert (tmp_path / "foreign" / "a.png").read_text() == "x"


def test_a_result_that_does_not_hold_any_more_is_made_again(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "s", "f")
    stage.begin()
    seen: list[str] = []

    def work(item: Item) -> dict[str, Any]:
        seen.append(item.id)
        return {"source": item.id}

    stage.for_each(ITEMS, work, title="first")
    stage.for_each(
        ITEMS, work, title="second", is_still_good=lambda _, line: line["source"] != "sub/b"
    )
    assert seen == ["a", "sub/b", "c", "sub/b"]


def test_only_images_without_a_result_are_worked_on(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "s", "f")
    stage.begin()
    seen: list[str] = []

    def work(item: Item) -> None:
        seen.append(item.id)

    stage.for_each(ITEMS[:2], work, title="first")
    stage.for_each(ITEMS, work, title="second")
    assert seen == ["a", "sub/b", "c"]
    assert stage.usable(ITEMS) == ITEMS


def test_a_bad_image_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "s", "f")
    stage.begin()

    def work(item: Item) -> dict[str, Any]:
        if item.id == "sub/b":
            raise DataError("sub/b.jpg: the file is empty")
        return {"extra": 1}

    stage.for_each(ITEMS, work, title="work")
    assert stage.failures() == {"sub/b": "sub/b.jpg: the file is empty"}
    assert [item.id for item in stage.usable(ITEMS)] == ["a", "c"]
    assert stage.manifest()["a"]["extra"] == 1


def test_a_repaired_image_is_no_failure_any_more(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "s", "f")
    stage.begin()
    broken = {"a"}

    def work(item: Item) -> None:
        if item.id in broken:
            raise DataError("broken")

    stage.for_each(ITEMS, work, title="work")
    broken.clear()
    stage.for_each(ITEMS, work, title="work")
    assert stage.failures() == {}


def test_a_full_disk_stops_the_stage_and_keeps_what_was_done(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "s", "f")
    stage.begin()

    def work(item: Item) -> None:
        if item.id == "c":
            raise OutputError("Cannot write: the disk is full")

    with pytest.raises(OutputError):
        stage.for_each(ITEMS, work, title="work")
    assert [item.id for item in stage.usable(ITEMS)] == ["a", "sub/b"]


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    script = f"""
        from pathlib import Path
        from wsseg.errors import OutputError
        from wsseg.rundir import RunDir
        try:
            with RunDir(Path({str(run.path)!r})).locked():
                print("inside")
        except OutputError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with run.locked():
        held = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    free = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Another wsseg process" in held
    assert free == "inside\n"


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX signal")
def test_after_kill_9_the_next_run_does_the_rest(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from dataclasses import dataclass
        from pathlib import Path
        from wsseg.atomic import atomic_path
        from wsseg.rundir import StageDir

        @dataclass
        class Item:
            id: str

        stage = StageDir(Path(sys.argv[1]), "f")
        stage.begin()
        def work(item):
            with atomic_path(stage.file("scores", item.id, ".txt")) as temporary:
                temporary.write_text(item.id)
                if item.id == "5" and sys.argv[2] == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
        stage.for_each([Item(str(i)) for i in range(10)], work, title="work")
        stage.finish()
    """
    folder = tmp_path / "stage"
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    killed = subprocess.run([*command, "die"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((folder / "scores").glob("[0-9].txt"))) == 5
    subprocess.run([*command, "live"], check=True)
    files = sorted((folder / "scores").iterdir())
    assert [path.read_text() for path in files] == [str(i) for i in range(10)]
    assert StageDir(folder, "f").state()["progress"] == "done"


@pytest.mark.skipif(os.name != "posix", reason="fork is POSIX")
def test_children_of_a_killed_process_do_not_keep_others_out(tmp_path: Path) -> None:
    script = """
        import os, signal, sys, time
        from pathlib import Path
        from wsseg.rundir import RunDir
        with RunDir(Path(sys.argv[1])).locked():
            if os.fork() == 0:
                time.sleep(30)
                os._exit(0)
            print("locked", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "locked\n"
        assert killed.wait(timeout=20) == -signal.SIGKILL
        try:
            with RunDir(tmp_path / "run").locked():
                pass
        finally:
            os.killpg(killed.pid, signal.SIGKILL)


def test_seconds_of_a_run_are_those_of_its_complete_stages(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.seconds() == 0
    run.stage("localize", "mark").finish(seconds=4.0)
    run.stage("refine/2_dense_crf", "mark").finish(seconds=0.5)
    # Part of localize, which counts it already.
    run.stage("localize/training/round_1", "mark").finish(seconds=3.0)
    run.stage("segment", "mark").begin()
    run.stage("evaluate", "mark").finish()
    assert run.seconds() == 4.5

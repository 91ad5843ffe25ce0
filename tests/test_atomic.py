from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wsseg.atomic import (
    append_jsonl,
    atomic_path,
    read_jsonl,
    remove_temporaries,
    write_json,
    write_text,
)
from wsseg.errors import OutputError


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "mask.png"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists()
        assert temporary.suffix == ".png"
        assert temporary.parent == target.parent
    assert target.read_bytes() == b"half"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "--out")],
)
def test_a_full_or_read_only_disk_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    target = tmp_path / "a.txt"
    write_text(target, "old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=words) as caught:
        write_text(target, "new")
    assert str(target) in str(caught.value)
    assert caught.value.exit_code == 3
    assert target.read_text() == "old"


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "m.json"
    write_json(target, {"miou": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"miou": float("nan")})
    assert '"miou": 0.5' in target.read_text()


def test_a_torn_last_line_is_left_out_and_closed_by_the_next_append(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    append_jsonl(path, {"id": "a"})
    with path.open("ab") as stream:
        stream.write('{"id": "한글 b", "st'.encode())
    assert read_jsonl(path) == [{"id": "a"}]
    append_jsonl(path, {"id": "c"})
    assert read_jsonl(path) == [{"id": "a"}, {"id": "c"}]


def test_a_line_torn_inside_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    append_jsonl(path, {"id": "a"})
    with path.open("ab") as stream:
        stream.write('{"id": "한'.encode()[:-1])
    assert read_jsonl(path) == [{"id": "a"}]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    keep = tmp_path / "sub" / "a.png"
    write_text(keep, "x")
    (tmp_path / "sub" / ".tmp-0123456789ab.png").write_text("half")
    (tmp_path / ".tmp-0123456789ab").write_text("half")
    remove_temporaries(tmp_path, below=False)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [".tmp-0123456789ab.png", "a.png"]
    remove_temporaries(tmp_path)
    assert [path.name for path in keep.parent.iterdir()] == ["a.png"]


def test_a_users_file_is_never_taken_for_a_leftover(tmp_path: Path) -> None:
    (tmp_path / ".tmp-notes.txt").write_text("mine")
    remove_temporaries(tmp_path)
    assert (tmp_path / ".tmp-notes.txt").read_text() == "mine"

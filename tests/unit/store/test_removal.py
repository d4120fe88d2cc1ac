"""Deleted files: their space comes back, and a power cut leaves no gap in a row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmq.store.commitlog import file_name
from shmq.store.disk import DISK
from shmq.store.removal import HELD_MAX, Removal, find_log_files, find_queue_files

FORCE_MS = 1000
SIZE = 8192


def make(folder: Path, number: int, *, size: int = SIZE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(number * SIZE)
    path.write_bytes(b"x" * size)
    return path


def test_deleted_and_counted(tmp_path: Path) -> None:
    files = Removal(force_ms=FORCE_MS)
    assert files.remove(make(tmp_path, 0), now_ms=0) >= SIZE
    assert files.remove(tmp_path / file_name(0), now_ms=0) == 0, "gone already"
    assert list(tmp_path.iterdir()) == []
    assert files.held_size == 0
    assert files.release(FORCE_MS) == []


def test_held_while_it_is_read(tmp_path: Path) -> None:
    files = Removal(force_ms=FORCE_MS)
    path = make(tmp_path, 0)
    with path.open("rb") as reader:
        files.remove(path, now_ms=0)
        assert files.release(FORCE_MS - 1) == []
        assert files.held_size >= SIZE
        assert reader.read() == b"x" * SIZE
    assert files.release(1) == []
    assert files.held_size == 0


def test_emptied_when_it_is_read_too_long(tmp_path: Path) -> None:
    files = Removal(force_ms=FORCE_MS)
    path = make(tmp_path, 0)
    with path.open("rb") as reader:
        files.remove(path, now_ms=0)
        assert files.release(FORCE_MS) == [path]
        assert reader.read() == b""
    assert files.held_size == 0


def test_only_so_many_are_held(tmp_path: Path) -> None:
    files = Removal(force_ms=FORCE_MS)
    readers = []
    paths = [make(tmp_path, number, size=1) for number in range(HELD_MAX + 3)]
    for path in paths:
        readers.append(path.open("rb"))
        files.remove(path, now_ms=0)
    assert files.release(1) == paths[:3], "the oldest"
    files.close()
    for reader in readers:
        reader.close()


def test_the_folder_is_synced_before_the_next_of_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut may bring back the first and not the second: a gap."""
    steps: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, *, missing_ok: bool = False) -> None:
        steps.append(path.parent.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(DISK, "fsync_folder", lambda folder: steps.append(f"sync {folder.name}"))
    monkeypatch.setattr(Path, "unlink", noted)
    files = Removal(force_ms=FORCE_MS)
    for folder, number in (("a", 0), ("b", 0), ("a", 1), ("a", 2)):
        files.remove(make(tmp_path / folder, number), now_ms=0)
    assert steps == ["a", "b", "sync a", "a", "sync a", "a"]


def test_what_cannot_be_deleted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, 0)

    def refuse(_path: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(PermissionError):
        Removal(force_ms=FORCE_MS).remove(path, now_ms=0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = make(tmp_path / "other", 0)
    link = tmp_path / file_name(0)
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        Removal(force_ms=0).remove(link, now_ms=0)
    assert target.exists()


def test_commitlog_files_are_found(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        os.utime(make(tmp_path, number), (number, number))
    make(tmp_path, 3, size=SIZE - 1)
    (tmp_path / "notes.txt").write_text("x")
    found = find_log_files(tmp_path, file_size=SIZE)
    assert [(one.start, one.end, one.modified_ms) for one in found] == [
        (number * SIZE, (number + 1) * SIZE, number * 1000) for number in range(3)
    ]
    assert all(one.disk_size >= SIZE for one in found)
    assert find_log_files(tmp_path / "none", file_size=SIZE) == []


def test_consumequeue_files_are_found(tmp_path: Path) -> None:
    make(tmp_path / "T" / "0", 1)
    make(tmp_path / "T" / "0", 0)
    make(tmp_path / "T" / "12", 5)
    make(tmp_path / "T" / "x", 0)
    (tmp_path / "U" / "3").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    found = sorted(find_queue_files(tmp_path))
    assert [one[:3] for one in found] == [("T", 0, [0, SIZE]), ("T", 12, [5 * SIZE])]
    assert found[0][3] >= 2 * SIZE
    assert list(find_queue_files(tmp_path / "none")) == []

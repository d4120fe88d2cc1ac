"""Commitlog files: written across files, read by offset, synced all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmq.errors import StoreError
from shmq.store import commitlog
from shmq.store.commitlog import LogFiles, LogWriter, file_name, list_files

FILE_SIZE = 4096


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_written_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "commitlog"
    writer = LogWriter(folder, file_size=FILE_SIZE)
    parts = [memoryview(b"abc"), memoryview(b"defg")]
    assert writer.write(10, parts) == 17
    assert writer.write(FILE_SIZE, [memoryview(b"next")]) == FILE_SIZE + 4
    writer.sync()
    assert names(folder) == [file_name(0), file_name(FILE_SIZE)]
    assert {(folder / name).stat().st_size for name in names(folder)} == {FILE_SIZE}
    files = LogFiles(folder, file_size=FILE_SIZE)
    assert files.read(10, 7) == b"abcdefg"
    assert files.read(FILE_SIZE, 4) == b"next"
    assert len(files.read(FILE_SIZE - 5, 100)) == 5, "one file at a time"
    with pytest.raises(StoreError, match="not there"):
        files.read(2 * FILE_SIZE, 1)
    files.forget_before(FILE_SIZE)
    assert files.read(FILE_SIZE, 4) == b"next"
    files.close()
    writer.close()


def test_a_write_never_crosses_files(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, file_size=FILE_SIZE)
    writer.write(FILE_SIZE - 4, [memoryview(b"1234")])
    with pytest.raises(AssertionError, match="never crosses"):
        writer.write(FILE_SIZE - 4, [memoryview(b"12345")])
    writer.close()


def test_sync_reaches_every_file_written_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(tmp_path, file_size=FILE_SIZE)
    for number in range(3):
        writer.write(number * FILE_SIZE, [memoryview(b"x")])
    synced: list[str] = []

    def noted(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    monkeypatch.setattr(os, "fdatasync", noted)
    writer.sync()
    assert sorted(synced) == names(tmp_path)
    synced.clear()
    writer.write(2 * FILE_SIZE, [memoryview(b"y")])
    writer.sync()
    assert synced == [file_name(2 * FILE_SIZE)]
    successor = LogWriter(tmp_path, file_size=FILE_SIZE)
    successor.adopt(FILE_SIZE + 5, 2 * FILE_SIZE + 1)
    synced.clear()
    successor.sync()
    assert sorted(synced) == [file_name(FILE_SIZE), file_name(2 * FILE_SIZE)]
    with pytest.raises(FileNotFoundError):
        successor.adopt(9 * FILE_SIZE, 9 * FILE_SIZE + 1)
    writer.close()
    successor.close()


def test_adopting_nothing_opens_nothing(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, file_size=FILE_SIZE)
    writer.adopt(FILE_SIZE, FILE_SIZE)
    writer.sync()
    assert names(tmp_path) == []


def test_an_empty_file_of_a_killed_process_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / file_name(0)).touch()
    assert list_files(tmp_path, file_size=FILE_SIZE) == []
    writer = LogWriter(tmp_path, file_size=FILE_SIZE)
    writer.write(0, [memoryview(b"x")])
    assert list_files(tmp_path, file_size=FILE_SIZE) == [0]
    writer.ensure(FILE_SIZE)
    assert list_files(tmp_path, file_size=FILE_SIZE) == [0, FILE_SIZE]
    writer.close()


def test_many_files_are_not_all_kept_open(tmp_path: Path) -> None:
    count = commitlog.OPEN_FILES_MAX + 5
    writer = LogWriter(tmp_path, file_size=FILE_SIZE)
    for number in range(count):
        writer.write(number * FILE_SIZE, [memoryview(b"%d" % number)])
    writer.sync()
    files = LogFiles(tmp_path, file_size=FILE_SIZE)
    for number in (*range(count), 0):
        assert files.read(number * FILE_SIZE, len(str(number))) == str(number).encode()
    assert len(files._fds) == commitlog.OPEN_FILES_MAX
    files.close()
    writer.close()


@pytest.mark.parametrize("name", ["x", "0" * 19, "0" * 21, "0" * 19 + "x", "\u0660" * 20])
def test_foreign_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(FILE_SIZE))
    with pytest.raises(StoreError, match="foreign file"):
        list_files(tmp_path, file_size=FILE_SIZE)


@pytest.mark.parametrize("starts", [[0, 2 * FILE_SIZE], [1], [FILE_SIZE + 1]])
def test_rows_with_gaps(tmp_path: Path, starts: list[int]) -> None:
    for start in starts:
        (tmp_path / file_name(start)).write_bytes(bytes(FILE_SIZE))
    with pytest.raises(StoreError, match="gap in the row"):
        list_files(tmp_path, file_size=FILE_SIZE)


def test_a_row_may_begin_anywhere(tmp_path: Path) -> None:
    for start in (3, 4, 5):
        (tmp_path / file_name(start * FILE_SIZE)).write_bytes(bytes(FILE_SIZE))
    assert list_files(tmp_path, file_size=FILE_SIZE) == [
        3 * FILE_SIZE,
        4 * FILE_SIZE,
        5 * FILE_SIZE,
    ]
    assert list_files(tmp_path / "none", file_size=FILE_SIZE) == []

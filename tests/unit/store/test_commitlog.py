"""Commitlog files: written across files, read by offset, synced all of them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from shmq.errors import StoreError
from shmq.store import commitlog
from shmq.store.commitlog import LogFiles, LogWriter, file_name, list_files
from shmq.units import MiB

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
    with pytest.raises(StoreError, match="cannot be opened"):
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


def aligned(data: bytes) -> memoryview:
    """Bytes in memory that begins at a page, as the hot pages do."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memoryview(memory)


PIECE = 2 * MiB


@pytest.mark.parametrize(("start", "cut"), [(0, 0), (0, 100), (4000, 0), (4095, 1), (4096, 4095)])
@pytest.mark.parametrize("direct", [True, False])
def test_large_pieces_are_written_whole(
    tmp_path: Path,
    start: int,
    cut: int,
    direct: bool,  # noqa: FBT001
) -> None:
    log = os.urandom(PIECE)
    part = aligned(log)[start : PIECE - cut]
    writer = LogWriter(tmp_path, file_size=4 * MiB, direct=direct)
    assert writer.write(start, [part, memoryview(b"small")]) == PIECE - cut + 5
    writer.sync()
    files = LogFiles(tmp_path, file_size=4 * MiB)
    assert files.read(start, len(part) + 5) == bytes(part) + b"small"
    assert files.read(0, start) == bytes(start)
    assert files.read(PIECE - cut + 5, 9) == bytes(9)
    files.close()
    writer.close()


def cached_size(path: Path) -> int:
    """Bytes of a file in the page cache, as mincore says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        vector = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
        address = np.frombuffer(memory, dtype=np.uint8).ctypes.data
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(
            ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(vector.ctypes.data)
        )
        assert not failed, os.strerror(ctypes.get_errno())
    return int((vector & 1).sum()) * mmap.PAGESIZE


def test_large_pieces_leave_the_page_cache_alone(tmp_path: Path) -> None:
    """On a file system that has no O_DIRECT this fails: choose another for the tests."""
    part = aligned(os.urandom(PIECE))
    for number, direct in enumerate((True, False)):
        folder = tmp_path / str(number)
        writer = LogWriter(folder, file_size=PIECE, direct=direct)
        writer.write(0, [part])
        assert (cached_size(folder / file_name(0)) < PIECE // 2) == direct
        writer.close()


@pytest.mark.parametrize("refused", ["open", "pwrite"])
def test_a_file_system_without_direct_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Some refuse the flag, some the write."""
    real_open, real_pwrite = os.open, os.pwrite
    direct: list[int] = []

    def open_or_refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT and refused == "open":
            raise OSError(errno.EINVAL, "Invalid argument")
        fd = real_open(path, flags, mode)
        if flags & os.O_DIRECT:
            direct.append(fd)
        return fd

    def pwrite_or_refuse(fd: int, data: memoryview, at: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_pwrite(fd, data, at)

    monkeypatch.setattr(os, "open", open_or_refuse)
    monkeypatch.setattr(os, "pwrite", pwrite_or_refuse)
    writer = LogWriter(tmp_path, file_size=PIECE, direct=True)
    part = aligned(os.urandom(PIECE))
    writer.write(0, [part])
    writer.write(PIECE, [part])
    assert len(direct) == (refused == "pwrite"), "asked once"
    monkeypatch.undo()
    files = LogFiles(tmp_path, file_size=PIECE)
    assert files.read(0, PIECE) == files.read(PIECE, PIECE) == bytes(part)
    files.close()
    writer.close()


def test_a_full_disk_is_an_error_of_direct_writes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(tmp_path, file_size=PIECE, direct=True)
    writer.write(0, [memoryview(b"x")])

    def full(_fd: int, _data: memoryview, _at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        writer.write(0, [aligned(bytes(PIECE))])
    writer.close()


def test_a_direct_write_that_is_cut_short_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    calls: list[int] = []

    def short(fd: int, data: memoryview, at: int) -> int:
        calls.append(len(data))
        return real(fd, data[: len(data) // 2] if len(calls) == 1 else data, at)

    monkeypatch.setattr(os, "pwrite", short)
    writer = LogWriter(tmp_path, file_size=PIECE, direct=True)
    part = aligned(os.urandom(PIECE))
    writer.write(0, [part])
    assert calls == [PIECE, PIECE // 2]
    assert (tmp_path / file_name(0)).read_bytes() == bytes(part)
    writer.close()

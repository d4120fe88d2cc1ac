"""A row of files as one stream: every byte once and in its order, wherever the walker stands."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from shmq.store.commitlog import DIRECT_ALIGNMENT, file_name
from shmq.store.disk import Disk
from shmq.store.logstream import LogStream

BLOCK = 2 * DIRECT_ALIGNMENT
ALIGNED = 16 * DIRECT_ALIGNMENT
ODD = 40_007


class Row:
    """Files of random bytes."""

    def __init__(self, folder: Path, *, file_size: int, count: int = 3, first: int = 0) -> None:
        self.folder = folder
        self.file_size = file_size
        self.start = first * file_size
        self.end = (first + count) * file_size
        self.data = np.random.default_rng(1).bytes(count * file_size)
        folder.mkdir()
        for number in range(count):
            piece = self.data[number * file_size : (number + 1) * file_size]
            (folder / file_name(self.start + number * file_size)).write_bytes(piece)

    def stream(self, start: int, *, disk: Disk | None = None, direct: bool = False) -> LogStream:
        """From `start` to the end of the row."""
        return LogStream(
            self.folder,
            file_size=self.file_size,
            start=start,
            end=self.end,
            direct=direct,
            disk=disk or Disk(),
            block_size=BLOCK,
        )


def walk(row: Row, stream: LogStream, start: int, rng: np.random.Generator) -> None:
    """Take bytes, leave some, and now and then go to the next file."""
    offset = start
    while offset < row.end:
        file_end = offset - offset % row.file_size + row.file_size
        chunk, whole = stream.take(offset)
        chunk_end = offset + len(chunk)
        assert chunk == row.data[offset - row.start : chunk_end - row.start]
        assert whole == (chunk_end == file_end)
        left = 0 if whole else int(rng.choice([0, 1, 100, stream.rest_max]))
        assert len(chunk) > 0
        offset = chunk_end - min(left, stream.rest_max, len(chunk))
        if rng.random() < 0.1:
            offset = file_end
        elif rng.random() < 0.1:
            offset = min(offset + int(rng.integers(3 * BLOCK)), file_end)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("file_size", [ALIGNED, ODD])
def test_every_byte_comes_in_its_place(tmp_path: Path, file_size: int, direct: bool) -> None:  # noqa: FBT001
    row = Row(tmp_path / "log", file_size=file_size, first=2)
    rng = np.random.default_rng(7)
    for _ in range(60):
        start = int(rng.integers(row.start, row.end))
        with row.stream(start, direct=direct) as stream:
            walk(row, stream, start, rng)


def test_a_file_system_without_direct_reads_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some say so when a file is opened, others at the first read."""
    row = Row(tmp_path / "log", file_size=ALIGNED)
    refusals: list[str] = []

    class Plain(Disk):
        refuses_open = True

        def open(self, path: Path, flags: int, mode: int = 0) -> int:
            if flags & os.O_DIRECT and self.refuses_open:
                refusals.append("open")
                raise OSError(errno.EINVAL, "no direct reads", str(path))
            self.direct = bool(flags & os.O_DIRECT)
            return super().open(path, flags & ~os.O_DIRECT, mode)

        def pread_into(self, fd: int, buffer: memoryview, at: int) -> int:
            if self.direct:
                refusals.append("read")
                raise OSError(errno.EINVAL, "no direct reads")
            return super().pread_into(fd, buffer, at)

    for refuses_open in (True, False):
        monkeypatch.setattr(Plain, "refuses_open", refuses_open)
        with row.stream(0, disk=Plain(), direct=True) as stream:
            walk(row, stream, 0, np.random.default_rng(3))
    assert refusals == ["open", "read"]


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_read_error_comes_to_who_takes(tmp_path: Path, at: int) -> None:
    row = Row(tmp_path / "log", file_size=ALIGNED)

    class Failing(Disk):
        reads = 0

        def pread_into(self, fd: int, buffer: memoryview, at_byte: int) -> int:
            self.reads += 1
            if self.reads > at:
                raise OSError(errno.EIO, "Input/output error", "the file")
            return super().pread_into(fd, buffer, at_byte)

    with row.stream(0, disk=Failing()) as stream:
        for number in range(at):
            stream.take(number * BLOCK)
        with pytest.raises(OSError, match="the file"):
            stream.take(at * BLOCK)


def test_a_file_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    row = Row(tmp_path / "log", file_size=ALIGNED)
    os.truncate(row.folder / file_name(0), ALIGNED - 1)
    last = ALIGNED - BLOCK
    with row.stream(0) as stream:
        for offset in range(0, last, BLOCK):
            stream.take(offset)
        with pytest.raises(OSError, match="too short"):
            stream.take(last)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    row = Row(tmp_path / "log", file_size=ALIGNED)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with row.stream(0) as stream:
        stream.take(0)
        stream.take(BLOCK)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

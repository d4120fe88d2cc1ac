"""Consumequeue files: entries by queue offset, whatever the number of files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from shmq.errors import StoreError
from shmq.layout.cqentry import ENTRY
from shmq.store import consumequeue
from shmq.store.commitlog import list_files
from shmq.store.consumequeue import QueueFiles, queue_folder
from tests.disk.disks import RecordingDisk
from tests.disk.powercut import PowerCut

FILE_SIZE = 200  # Ten entries.


def entries(first: int, count: int) -> memoryview:
    made = np.zeros(count, dtype=ENTRY)
    made["physical_offset"] = np.arange(first, first + count) * 100
    made["size"] = 100
    return memoryview(made.tobytes())


@pytest.fixture
def files(tmp_path: Path) -> QueueFiles:
    return QueueFiles(tmp_path, file_size=FILE_SIZE, writable=True)


def offsets(files: QueueFiles, first: int, count: int) -> list[int]:
    found: list[int] = files.read("T", 0, first, count)["physical_offset"].tolist()
    return found


def test_written_across_files(files: QueueFiles, tmp_path: Path) -> None:
    files.write("T", 0, 5, entries(5, 27))
    folder = tmp_path / "T" / "0"
    assert [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())] == [
        (f"{start:020d}", FILE_SIZE) for start in (0, 200, 400, 600)
    ]
    reader = QueueFiles(tmp_path, file_size=FILE_SIZE)
    assert offsets(reader, 5, 100) == [500, 600, 700, 800, 900], "to the file's end"
    assert offsets(reader, 10, 3) == [1000, 1100, 1200]
    assert offsets(reader, 31, 2) == [3100, 0]
    with pytest.raises(StoreError, match="not there"):
        offsets(reader, 40, 1)
    reader.close()
    files.close()


def test_data_bounds_leave_the_hole_out(tmp_path: Path) -> None:
    files = QueueFiles(tmp_path, file_size=60_000, writable=True)  # 3000 entries a file.
    files.write("T", 0, 3000, entries(3000, 1))
    assert files.data_bounds("T", 0, 60_000) == (3000, 3000 + 4096 // 20 + 1)
    files.write("T", 0, 3990, entries(3990, 1))
    lower, upper = files.data_bounds("T", 0, 60_000)
    assert lower <= 3000
    assert 3991 <= upper <= 3990 + 4096 // 20 + 1
    assert files.data_bounds("T", 1, 0) == (0, 0), "a file without data"
    files.close()


def test_file_size_is_rounded_up_to_whole_entries(tmp_path: Path) -> None:
    files = QueueFiles(tmp_path, file_size=FILE_SIZE - 19, writable=True)
    files.write("T", 0, 0, entries(0, 11))
    assert {file.stat().st_size for file in (tmp_path / "T" / "0").iterdir()} == {FILE_SIZE}
    files.close()


@pytest.mark.parametrize("end", [0, 1, 9, 10, 11, 20, 31, 32, 40])
def test_truncated_anywhere(files: QueueFiles, tmp_path: Path, end: int) -> None:
    files.write("T", 0, 0, entries(0, 32))
    files.truncate("T", 0, end)
    folder = tmp_path / "T" / "0"
    data = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
    kept = min(end, 32)
    assert data[: kept * 20] == bytes(entries(0, kept))
    assert not any(data[kept * 20 :])
    assert len(data) == max(1, -(-end // 10)) * FILE_SIZE
    files.close()


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_row_with_a_gap_is_mended(files: QueueFiles, tmp_path: Path, left: str) -> None:
    """A power cut may leave a later file without the one before it, or without its bytes."""
    files.write("T", 0, 10, entries(10, 25))
    files.close()
    gap = tmp_path / "T" / "0" / f"{2 * FILE_SIZE:020d}"
    gap.unlink()
    if left == "an empty file":
        gap.touch()
    again = QueueFiles(tmp_path, file_size=FILE_SIZE, writable=True)
    again.mend("T", 0)
    again.sync()
    assert list_files(tmp_path / "T" / "0", file_size=FILE_SIZE) == [
        FILE_SIZE,
        2 * FILE_SIZE,
        3 * FILE_SIZE,
    ]
    assert gap.read_bytes() == bytes(FILE_SIZE)
    again.close()


@pytest.mark.parametrize("size", [1, FILE_SIZE - 1, FILE_SIZE + 1])
def test_a_row_of_another_file_size_is_not_mended(
    files: QueueFiles, tmp_path: Path, size: int
) -> None:
    folder = tmp_path / "T" / "0"
    folder.mkdir(parents=True)
    (folder / f"{0:020d}").touch()
    (folder / f"{FILE_SIZE:020d}").write_bytes(bytes(size))
    files.mend("T", 0)
    assert [path.stat().st_size for path in sorted(folder.iterdir())] == [0, size]


def test_a_sync_brings_new_names_to_the_disk(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    files = QueueFiles(tmp_path / "queues", file_size=FILE_SIZE, writable=True, disk=disk)
    cut = PowerCut(disk.first, disk.first_numbers)
    for first in (0, 10):
        files.write("T", 0, first, entries(first, 10))
        files.sync()
        for change in disk.changes[cut.change_count :]:
            cut.follow(change)
        assert cut.doubtful == []
    files.close()


def test_sync_reaches_what_was_written(
    files: QueueFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(str(fd)))
    files.write("T", 0, 0, entries(0, 15))
    files.write("U", 3, 0, entries(0, 1))
    files.sync()
    assert len(set(synced)) == 3
    files.sync()
    assert len(synced) == 3, "nothing new"
    files.close()


def test_files_are_closed_when_there_are_many_and_none_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumequeue, "OPEN_FILES_MAX", 4)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    files = QueueFiles(tmp_path, file_size=FILE_SIZE, writable=True)
    for queue_id in range(10):
        files.write("T", queue_id, 0, entries(queue_id, 1))
    assert len(files._fds) == 4
    files.sync()
    assert len(synced) == 10
    for queue_id in range(10):
        assert files.read("T", queue_id, 0, 1)["physical_offset"][0] == queue_id * 100
    files.close()


@pytest.mark.parametrize("topic", ["", ".", "..", "a/b", "/etc", "a\0b", "../x"])
def test_names_cannot_leave_the_folder(tmp_path: Path, topic: str) -> None:
    with pytest.raises(StoreError, match="no folder name"):
        queue_folder(tmp_path, topic, 0)
    with pytest.raises(StoreError):
        QueueFiles(tmp_path, file_size=FILE_SIZE, writable=True).write(topic, 0, 0, entries(0, 1))

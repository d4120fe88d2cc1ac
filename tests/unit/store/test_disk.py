"""The disk: all of a write or an error that names the file, and folders that stay."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shmq.store.disk import Disk
from tests.disk.disks import RecordingDisk
from tests.disk.powercut import PowerCut


class ShortDisk(Disk):
    """Takes at most `most` bytes with each write."""

    def __init__(self, most: int) -> None:
        self._most = most

    def pwrite(self, fd: int, data: memoryview | bytes, at: int) -> int:
        """Write the first of `data`."""
        return super().pwrite(fd, data[: self._most], at)


def make(disk: Disk, path: Path) -> int:
    return disk.open(path, os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_write_goes_on_until_all_is_taken(tmp_path: Path, most: int) -> None:
    disk = ShortDisk(most)
    fd = make(disk, tmp_path / "file")
    disk.write(fd, b"0123456789", 5)
    disk.close(fd)
    assert disk.read_file(tmp_path / "file", 100) == bytes(5) + b"0123456789"
    assert disk.read_file(tmp_path / "file", 7) == bytes(5) + b"01"


def test_a_write_of_which_nothing_is_taken_ends(tmp_path: Path) -> None:
    disk = ShortDisk(0)
    fd = make(disk, tmp_path / "file")
    with pytest.raises(OSError, match="no byte of a write") as caught:
        disk.write(fd, b"x", 0)
    disk.close(fd)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "file"))


@pytest.mark.parametrize("call", ["pwrite", "truncate"])
def test_an_error_names_the_file(tmp_path: Path, call: str) -> None:
    disk = Disk()
    (tmp_path / "file").touch()
    fd = disk.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        disk.pwrite(fd, b"x", 0) if call == "pwrite" else disk.truncate(fd, 1)
    disk.close(fd)


def test_kept_folders_outlive_a_power_cut(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    disk.keep_folders(tmp_path / "a" / "b" / "c")
    disk.keep_folders(tmp_path / "a" / "b" / "c")
    cut = PowerCut(disk.first, disk.first_numbers)
    for change in disk.changes:
        cut.follow(change)
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert cut.doubtful == []


def test_a_folder_whose_maker_died_is_synced_by_who_finds_it(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    disk.make_folders(tmp_path / "a", {})
    disk.keep_folders(tmp_path / "a")
    cut = PowerCut(disk.first, disk.first_numbers)
    for change in disk.changes:
        cut.follow(change)
    assert cut.doubtful == []

"""Two disks for tests: one that writes down all that is done to a store, one that refuses calls."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, TypeAlias

from shmq.store.disk import FILE_MODE, Disk

FOLDER: Final = -1
"""Stands for a file's number where the name is a folder's."""


class Made(NamedTuple):
    """A new name, of an empty file with a number of its own, or of a folder."""

    path: str
    file: int


class Renamed(NamedTuple):
    """A name that took another's place."""

    path: str
    target: str


class Unlinked(NamedTuple):
    """A name that is gone."""

    path: str


class Wrote(NamedTuple):
    """Bytes put into a file."""

    file: int
    at: int
    data: bytes
    grown_to: int | None
    """The file's new size, if it had to grow."""


class Truncated(NamedTuple):
    """A file made shorter or longer."""

    file: int
    size: int


class Synced(NamedTuple):
    """Barrier: what was done to a file's bytes is on the disk."""

    file: int


class SyncFailed(NamedTuple):
    """No barrier, and none of the later ones covers what was done to the file before."""

    file: int


class FolderSynced(NamedTuple):
    """Barrier: the names in a folder are on the disk."""

    path: str


class AllSynced(NamedTuple):
    """Barrier: everything is on the disk."""


Change: TypeAlias = (
    Made | Renamed | Unlinked | Wrote | Truncated | Synced | SyncFailed | FolderSynced | AllSynced
)


class TimedDisk(Disk):
    """A disk whose changes are counted, so that a promise can be noted with its moment."""

    @property
    def moment(self) -> int:
        """How many changes there were."""
        raise NotImplementedError


class RecordingDisk(TimedDisk):
    """The real disk under a folder, with a record of every change in it; paths are from there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.changes: list[Change] = []
        self.first: dict[str, bytes | None] = tree(root)
        """Files (None: a folder) that were there before the first change."""
        self._numbers = {
            path: FOLDER if data is None else number
            for number, (path, data) in enumerate(self.first.items())
        }
        self.first_numbers = dict(self._numbers)
        self._made = len(self._numbers)
        self._sizes = {
            self._numbers[path]: len(data) for path, data in self.first.items() if data is not None
        }
        self._open: dict[int, int] = {}

    @property
    def moment(self) -> int:
        return len(self.changes)

    def open(self, path: Path, flags: int, mode: int = FILE_MODE) -> int:
        name = self._name(path)
        fd = super().open(path, flags, mode)
        if name not in self._numbers:
            self._numbers[name] = self._made
            self.changes.append(Made(name, self._made))
            self._made += 1
        elif flags & os.O_TRUNC:
            self._sizes[self._numbers[name]] = 0
            self.changes.append(Truncated(self._numbers[name], 0))
        self._open[fd] = self._numbers[name]
        return fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)
        super().close(fd)

    def pwrite(self, fd: int, data: memoryview | bytes, at: int) -> int:
        done = super().pwrite(fd, data, at)
        file, end = self._open[fd], at + done
        grown_to = end if end > self._sizes.get(file, 0) else None
        self._sizes[file] = max(end, self._sizes.get(file, 0))
        self.changes.append(Wrote(file, at, bytes(data[:done]), grown_to))
        return done

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self._sizes[self._open[fd]] = size
        self.changes.append(Truncated(self._open[fd], size))

    def fsync(self, fd: int) -> None:  # The page cache is all that these tests look at:
        self.changes.append(Synced(self._open[fd]))  # the real call would only cost time.

    def fdatasync(self, fd: int) -> None:
        self.changes.append(Synced(self._open[fd]))

    def fsync_folder(self, folder: Path) -> None:
        self.changes.append(FolderSynced(self._name(folder)))

    def rename(self, path: Path, target: Path) -> None:
        super().rename(path, target)
        self._numbers[self._name(target)] = self._numbers.pop(self._name(path))
        self.changes.append(Renamed(self._name(path), self._name(target)))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        del self._numbers[self._name(path)]
        self.changes.append(Unlinked(self._name(path)))

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._numbers[self._name(path)] = FOLDER
        self.changes.append(Made(self._name(path), FOLDER))

    def sync_all(self, folder: Path) -> None:
        self.changes.append(AllSynced())

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))


class Fault(NamedTuple):
    """What goes wrong with one call of a disk, and perhaps with all after it."""

    name: str
    error: int = 0
    lasts: bool = False
    short: bool = False
    kills: bool = False

    def can_befall(self, call: str) -> bool:
        """Whether a call can go wrong so: a full disk still reads, syncs and removes."""
        if self.short:
            return call == "pwrite"
        if self.error == errno.ENOSPC:
            return call in {"make", "pwrite", "truncate", "mkdir"}
        return True


FAULTS: Final = (
    Fault("input/output error", errno.EIO),
    Fault("full once", errno.ENOSPC),
    Fault("short write", short=True),
    Fault("full from then on", errno.ENOSPC, lasts=True),
    Fault("dead from then on", errno.EIO, lasts=True),
    Fault("broker killed before it", kills=True),
)


class Killed(BaseException):
    """The process is no more."""


class FaultyDisk(RecordingDisk):
    """A recording disk that refuses its n-th call, counted from 0; None refuses nothing."""

    def __init__(self, root: Path, *, fail_at: int | None = None, fault: Fault = FAULTS[0]) -> None:
        super().__init__(root)
        self.calls: list[str] = []
        """Every call so far, by its name."""
        self.refusals: list[str] = []
        """The file of every call that failed."""
        self._fail_at = fail_at
        self._fault = fault

    @property
    def lacks_room(self) -> bool:
        """Whether it refuses for want of room, which may come back."""
        return self._fault.error == errno.ENOSPC

    def repair(self) -> None:
        """Refuse nothing any more."""
        self._fail_at = None

    def open(self, path: Path, flags: int, mode: int = FILE_MODE) -> int:
        if self._fails("make" if flags & os.O_CREAT and not path.exists() else "open"):
            self._refuse(path)
        return super().open(path, flags, mode)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        if self._fails("pread"):
            self._refuse(fd)
        return super().pread(fd, size, at)

    def pread_into(self, fd: int, buffer: memoryview, at: int) -> int:
        if self._fails("pread"):
            self._refuse(fd)
        return super().pread_into(fd, buffer, at)

    def pwrite(self, fd: int, data: memoryview | bytes, at: int) -> int:
        if self._fails("pwrite"):
            if not self._fault.short:
                self._refuse(fd)
            data = data[: len(data) // 2]
        return super().pwrite(fd, data, at)

    def truncate(self, fd: int, size: int) -> None:
        if self._fails("truncate"):
            self._refuse(fd)
        super().truncate(fd, size)

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)
        super().fdatasync(fd)

    def fsync_folder(self, folder: Path) -> None:
        if self._fails("fsync_folder"):
            self._refuse(folder)
        super().fsync_folder(folder)

    def rename(self, path: Path, target: Path) -> None:
        if self._fails("rename"):
            self._refuse(path)
        super().rename(path, target)

    def unlink(self, path: Path) -> None:
        if self._fails("unlink"):
            self._refuse(path)
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        if self._fails("mkdir"):
            self._refuse(path)
        super().mkdir(path)

    def _sync(self, call: str, fd: int) -> None:
        if self._fails(call):
            self.changes.append(SyncFailed(self._open[fd]))
            self._refuse(fd)

    def _fails(self, call: str) -> bool:
        number = len(self.calls)
        self.calls.append(call)
        if self._fail_at is None or not self._fault.can_befall(call):
            return False
        if self._fault.kills and number == self._fail_at:
            raise Killed
        return number >= self._fail_at if self._fault.lasts else number == self._fail_at

    def _refuse(self, file: Path | int) -> NoReturn:
        path = file if isinstance(file, Path) else Path(f"/proc/self/fd/{file}").readlink()
        self.refusals.append(str(path))
        raise OSError(self._fault.error, os.strerror(self._fault.error), str(path))


def tree(root: Path) -> dict[str, bytes | None]:
    """All files under `root` with their bytes, all folders with None; parents come first."""
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        found[str(path.relative_to(root))] = None if path.is_dir() else path.read_bytes()
    return found

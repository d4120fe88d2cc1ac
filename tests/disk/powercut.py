"""What a power cut may leave of a store, built from the record of what was done to it.

After Pillai et al. 2014, "All file systems are not created equal" (ALICE). The changes up to some
moment fall into those that a barrier has brought to the disk, and those in doubt. Of the latter any
set may be there: names, sizes and bytes independently of each other, later ones without earlier
ones, a write also only in some of its sectors. No one file system does all of that.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from tests.disk.disks import (
    FOLDER,
    AllSynced,
    Change,
    FolderSynced,
    Made,
    Renamed,
    Synced,
    SyncFailed,
    Truncated,
    Unlinked,
    Wrote,
)

SECTOR_SIZES: Final = (512, 4096)
Image: TypeAlias = dict[str, bytes | None]
"""A store: every file with its bytes, every folder with None."""


class CrashState(NamedTuple):
    """A store after a power cut."""

    change_count: int
    """How many changes had been made."""
    image: Image
    how: str
    """What of the changes in doubt is there."""

    def __str__(self) -> str:
        return f"after change {self.change_count}, {self.how}"

    @property
    def digest(self) -> bytes:
        """Equal for equal images."""
        found = hashlib.blake2b(digest_size=16)
        for path, data in sorted(self.image.items()):
            found.update(repr((path, None if data is None else len(data))).encode())
            found.update(data or b"")
        return found.digest()


class _Disk:
    """Names, sizes and bytes of files by their numbers.

    A size is a fact of its own: bytes past it may be on the disk, but are not in the file.
    """

    def __init__(
        self, names: dict[str, int], sizes: dict[int, int], data: dict[int, bytearray]
    ) -> None:
        self.names = names
        self.sizes = sizes
        self.data = data

    def copy(self) -> _Disk:
        data = {file: bytearray(data) for file, data in self.data.items()}
        return _Disk(dict(self.names), dict(self.sizes), data)

    def apply(self, change: Made | Unlinked | Wrote | _Lost | Truncated) -> None:
        if isinstance(change, Made):
            self.names[change.path] = change.file
        elif isinstance(change, Unlinked):
            self.names.pop(change.path, None)
        elif isinstance(change, Wrote | _Lost):
            self.write(change.file, change.at, change.data)
            self.grow(change)
        elif isinstance(change, Truncated):
            self.sizes[change.file] = change.size
            del self.data.setdefault(change.file, bytearray())[change.size :]

    def grow(self, change: Wrote | _Lost) -> None:
        if change.grown_to is not None:
            self.sizes[change.file] = change.grown_to

    def write(self, file: int, at: int, piece: bytes) -> None:
        data = self.data.setdefault(file, bytearray())
        data.extend(bytes(max(0, at + len(piece) - len(data))))
        data[at : at + len(piece)] = piece

    def image(self) -> Image:
        """What can be reached: a name counts only when every folder above it is there."""
        found: Image = {}
        for path, file in sorted(self.names.items()):
            folder = path.rpartition("/")[0]
            if not folder or (folder in found and found[folder] is None):
                found[path] = None if file == FOLDER else self._content(file)
        return found

    def _content(self, file: int) -> bytes:
        size = self.sizes.get(file, 0)
        return bytes(self.data.get(file, b"")[:size]).ljust(size, b"\0")


class _Moved(NamedTuple):
    """A rename with what it moves, so that it can be done without what came before."""

    path: str
    target: str
    file: int


class _Lost(NamedTuple):
    """A Wrote that a sync did not take: no later one does, though size and name may get there."""

    file: int
    at: int
    data: bytes
    grown_to: int | None


_Doubt: TypeAlias = Made | _Moved | Unlinked | Wrote | _Lost | Truncated
_Bytes: Final = (Wrote, _Lost, Truncated)


class PowerCut:
    """Follows the changes of a store; gives what a power cut right now may leave."""

    def __init__(self, first: Image, first_numbers: dict[str, int]) -> None:
        self._safe = _Disk(
            dict(first_numbers),
            {first_numbers[path]: len(data) for path, data in first.items() if data},
            {first_numbers[path]: bytearray(data) for path, data in first.items() if data},
        )
        self._names = dict(first_numbers)
        self.doubtful: list[_Doubt] = []
        self.change_count = 0

    def follow(self, change: Change) -> None:
        """Take the next change."""
        self.change_count += 1
        if isinstance(change, Synced):
            self._settle(lambda one: isinstance(one, _Bytes) and one.file == change.file)
        elif isinstance(change, SyncFailed):
            self.doubtful = [
                _Lost(*one) if isinstance(one, Wrote) and one.file == change.file else one
                for one in self.doubtful
            ]
        elif isinstance(change, FolderSynced):
            self._settle(lambda one: not isinstance(one, _Bytes) and _in(one, change))
        elif isinstance(change, AllSynced):
            self._settle(lambda _one: True)
        elif isinstance(change, Renamed):
            file = self._names.pop(change.path)
            self._names[change.target] = file
            self.doubtful.append(_Moved(change.path, change.target, file))
        else:
            if isinstance(change, Made):
                self._names[change.path] = change.file
            elif isinstance(change, Unlinked):
                del self._names[change.path]
            self.doubtful.append(change)

    def states(self, rng: random.Random) -> Iterator[CrashState]:
        """States without end: nothing in doubt, all of it, all but one, one alone, by chance."""
        doubtful = self.doubtful
        yield self._state([], "nothing in doubt")
        yield self._state(doubtful, "all in doubt")
        for number, one in enumerate(doubtful):
            yield self._state(doubtful[:number] + doubtful[number + 1 :], f"all but {_show(one)}")
        for one in doubtful:
            yield self._state([one], f"only {_show(one)}")
        while True:
            share = rng.choice((0.1, 0.5, 0.9, 1.0))
            kept = [one for one in doubtful if rng.random() < share]
            sector = rng.choice((0, *SECTOR_SIZES))
            yield self._state(kept, f"chance, torn at {sector}", sector=sector, rng=rng)

    def _settle(self, covers: Callable[[_Doubt], bool]) -> None:
        left: list[_Doubt] = []
        for one in self.doubtful:
            if not covers(one):
                left.append(one)
            elif isinstance(one, _Lost):
                self._safe.grow(one)
                left.append(one)
            else:
                _do(self._safe, one)
                left = [part for old in left for part in _without(old, one)]
        self.doubtful = left

    def _state(
        self,
        kept: Sequence[_Doubt],
        how: str,
        *,
        sector: int = 0,
        rng: random.Random | None = None,
    ) -> CrashState:
        disk = self._safe.copy()
        for one in kept:
            if sector and rng is not None and isinstance(one, Wrote | _Lost):
                _tear(disk, one, sector, rng)
            else:
                _do(disk, one)
        return CrashState(self.change_count, disk.image(), how)


def _do(disk: _Disk, one: _Doubt) -> None:
    if isinstance(one, _Moved):
        if disk.names.get(one.path) == one.file:
            del disk.names[one.path]
        disk.names[one.target] = one.file
    else:
        disk.apply(one)


def _tear(disk: _Disk, one: Wrote | _Lost, sector: int, rng: random.Random) -> None:
    """Write some of the sectors; whether the file has grown for them is another matter."""
    if rng.random() < 0.5:
        disk.grow(one)
    at, end = one.at, one.at + len(one.data)
    while at < end:
        stop = min(end, at - at % sector + sector)
        if rng.random() < 0.5:
            disk.write(one.file, at, one.data[at - one.at : stop - one.at])
        at = stop


def _without(old: _Doubt, one: _Doubt) -> list[_Doubt]:
    """What is left of a lost write after `one` was done in its place, and taken by a sync."""
    if isinstance(old, _Lost) and isinstance(one, Truncated):
        return [] if one.file == old.file and one.size <= old.at else [old]
    if not isinstance(old, _Lost) or not isinstance(one, Wrote) or one.file != old.file:
        return [old]
    begin = max(0, min(one.at - old.at, len(old.data)))
    end = max(0, min(one.at + len(one.data) - old.at, len(old.data)))
    if begin >= end:
        return [old]
    parts = ((old.at, old.data[:begin]), (old.at + end, old.data[end:]))
    return [old._replace(at=at, data=data) for at, data in parts if data]


def _in(one: _Doubt, synced: FolderSynced) -> bool:
    """Whether a change of names is one of the folder's; a rename is in one folder."""
    path = one.path if isinstance(one, Made | _Moved | Unlinked) else ""
    folder = path.rpartition("/")[0] or "."
    return folder == synced.path


def _show(one: _Doubt) -> str:
    if isinstance(one, Wrote | _Lost):
        return f"{len(one.data)} bytes at {one.at} of file {one.file}"
    return repr(one)

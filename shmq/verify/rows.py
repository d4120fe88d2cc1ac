"""Rows of files as they are found: names, sizes and gaps, and their bytes by position in the row.

Unlike shmq.store, which refuses a row that is not as it should be, this reads whatever is there.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shmq.store.commitlog import NAME_DIGITS, file_name
from shmq.verify.findings import Findings, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROW_NAME: Final = re.compile(rf"[0-9]{{{NAME_DIGITS}}}")
OFFSET_MAX: Final = 2**62
SIZE_VOTES_MIN: Final = 2
"""So many files of one size outvote the settings."""
OPEN_FILES_MAX: Final = 256


@dataclass
class Row:
    """A row of files whose names are the positions of their first bytes."""

    folder: Path
    label: str
    """How findings call the folder."""
    file_size: int
    sizes: dict[int, int] = field(default_factory=dict)
    """Size of each file by its start, ascending."""

    @property
    def start(self) -> int:
        """Position of the first byte; 0 without a file."""
        return next(iter(self.sizes), 0)

    @property
    def end(self) -> int:
        """Position after the last byte."""
        return max((start + size for start, size in self.sizes.items()), default=0)

    def path(self, start: int) -> Path:
        """Path of the file that begins at `start`."""
        return self.folder / file_name(start)

    def name(self, start: int) -> str:
        """The file that begins at `start`, as findings call it."""
        return f"{self.label}/{file_name(start)}"


class RowReader:
    """Bytes of one row or many, with a bounded number of open files."""

    def __init__(self) -> None:
        self._fds: dict[Path, int] = {}

    def read(self, row: Row, at: int, size: int) -> bytes:
        """Bytes from position `at` of the row on, within one file; fewer where nothing is."""
        start = at - at % row.file_size
        if start not in row.sizes or size <= 0:
            return b""
        fd = self._fds.get(row.path(start))
        if fd is None:
            fd = self._open(row.path(start))
            if fd is None:
                return b""
        try:
            return os.pread(fd, min(size, start + row.file_size - at), at - start)
        except OSError:
            return b""  # Unreadable is not there; the file's own check names the error.

    def close(self) -> None:
        """Close all files."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _open(self, path: Path) -> int | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if len(self._fds) >= OPEN_FILES_MAX:
            os.close(self._fds.pop(next(iter(self._fds))))
        self._fds[path] = fd
        return fd


def likely_size(sizes: Iterable[int], *, configured: int) -> int:
    """The size that the files of a store are made with: the settings', unless files disagree."""
    votes = Counter(size for size in sizes if size > 0)
    if not votes or configured in votes:
        return configured
    size, count = votes.most_common(1)[0]
    return size if count >= SIZE_VOTES_MIN else configured


def sizes_in(folder: Path) -> dict[str, int]:
    """Size of each plain file in a folder, by name, ascending; nothing when there is none."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file():
                        found[entry.name] = entry.stat().st_size
                except OSError:
                    continue  # Deleted meanwhile.
    except OSError:
        return {}
    return dict(sorted(found.items()))


def find_row(folder: Path, label: str, findings: Findings, *, file_size: int, size_key: str) -> Row:
    """The row in `folder`, with what is wrong with its names and sizes."""
    row = Row(folder, label, file_size)
    sizes = sizes_in(folder)
    for name, size in sizes.items():
        place = f"{label}/{shown_name(name)}"
        if not ROW_NAME.fullmatch(name) or int(name) > OFFSET_MAX:
            findings.damage(
                place,
                "foreign file in a row of store files",
                allowed=f"names of {NAME_DIGITS} digits",
                hint="move it out of this folder: a broker does not start with it",
            )
            continue
        if size == 0 and name == list(sizes)[-1]:
            findings.add(Severity.INFO, place, "empty file, made ahead of its use")
            continue
        if size != file_size:
            findings.damage(
                place,
                "file has another size than the row",
                found=size,
                allowed=file_size,
                hint=f"if the store was made with this size, say so: --set {size_key}={size}; "
                "else the file was cut or extended, restore it from a copy",
            )
        row.sizes[int(name)] = size
    _check_gaps(row, findings)
    return row


def shown_name(name: str) -> str:
    """A file's name as text; one that is not UTF-8 has marks in it."""
    return os.fsencode(name).decode(errors="replace")


def _check_gaps(row: Row, findings: Findings) -> None:
    expected = row.start
    for start in row.sizes:
        if start % row.file_size:
            findings.damage(
                row.name(start),
                "file's name is no multiple of the file size",
                found=start,
                allowed=f"multiples of {row.file_size}",
                hint="restore the name that it had",
            )
        elif start != expected:
            findings.damage(
                row.name(start),
                "gap in the row of files",
                found=file_name(start),
                allowed=file_name(expected),
                hint="files before this one are missing; restore them, a broker does not start",
            )
        expected = start + row.file_size

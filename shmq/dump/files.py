"""Files of a store as items. What a file is, is told by its place, its name, then its content."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import orjson

from shmq.dump.records import DAMAGE_SHOWN_MAX, RECORD_MAGICS, ZEROS, damage, record_items
from shmq.errors import LayoutError, ProtocolError, StoreError
from shmq.layout import checkpoint, cqentry, indexfile, offsetjournal, record
from shmq.store.commitlog import NAME_DIGITS
from shmq.wire import jsonish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROW_NAME: Final = re.compile(rf"^[0-9]{{{NAME_DIGITS}}}$")
INDEX_NAME: Final = re.compile(r"^[0-9]{17}$")
JSON_NAME: Final = re.compile(r"\.json(\.|$)")
CHUNK_ENTRIES: Final = 4096
FOREIGN_ROWS: Final = frozenset({"timerlog"})
"""Folders of Apache's broker whose files have commitlog names and another content."""
DELAY_TOPIC: Final = "SCHEDULE_TOPIC_XXXX"
INDEX_RATIO: Final = indexfile.ENTRY_COUNT // indexfile.SLOT_COUNT
_MAGIC: Final = struct.Struct(">I")


class _File:
    """An open file, read at positions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise StoreError("cannot read", file=shown(path), cause=error.strerror) from error
        facts = os.fstat(self._fd)
        self.is_regular = stat.S_ISREG(facts.st_mode)
        self.size = facts.st_size if self.is_regular else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes at position `at`, fewer where the file ends."""
        try:
            return os.pread(self._fd, size, at)
        except OSError as error:
            raise StoreError(
                "cannot read", file=shown(self.path), at=at, size=size, cause=error.strerror
            ) from error


def shown(path: Path) -> str:
    """A path as text; a name that is not UTF-8 has marks in it."""
    return os.fsencode(path).decode(errors="replace")


def file_items(path: Path, *, first: int, with_body: bool) -> Iterator[dict[str, Any]]:
    """What is in one file; `first` as its kind counts."""
    with _File(path) as file:
        if not file.is_regular:
            yield damage("no regular file", at=0)
            return
        if file.size == 0:
            yield {"kind": "end", "at": 0, "what": "empty file"}
            return
        kind = _kind(file)
        if kind == "commitlog":
            yield from record_items(
                file.read,
                begin=0,
                end=file.size,
                first=first,
                physical_start=_row_start(path),
                with_body=with_body,
            )
        elif kind in _READERS:
            try:
                yield from _READERS[kind](file, first)
            except (LayoutError, ProtocolError) as error:
                yield damage(error, at=0, data=file.read(0, DAMAGE_SHOWN_MAX))
        else:
            head = file.read(0, DAMAGE_SHOWN_MAX)
            yield {"kind": "unknown", "what": "no file that shmq reads", "bytes": head.hex()}


def _row_start(path: Path) -> int | None:
    return int(path.name) if ROW_NAME.match(path.name) else None


def _kind(file: _File) -> str:
    path = file.path
    name = path.name
    head = file.read(0, len(offsetjournal.MAGIC))
    if name == "checkpoint":
        return "checkpoint"
    if JSON_NAME.search(name):
        return "table"
    if ROW_NAME.match(name):
        return _row_kind(path, head)
    if INDEX_NAME.match(name):
        return "index"
    if head in {offsetjournal.MAGIC, offsetjournal.OLD_MAGIC}:
        return "journal"
    if _has_record_magic(head):
        return "commitlog"  # A copy under another name.
    return "table" if head.lstrip()[:1] == b"{" else "unknown"


def _row_kind(path: Path, head: bytes) -> str:
    folders = [folder.name for folder in path.absolute().parents][:3]
    if folders[0] in FOREIGN_ROWS:
        return "unknown"
    if folders[0] == "commitlog":
        return "commitlog"
    if folders[2:] == ["consumequeue"] or folders[0].isdecimal():
        return "consumequeue"
    return "commitlog" if _has_record_magic(head) or not any(head) else "consumequeue"


def _has_record_magic(head: bytes) -> bool:
    if len(head) < record.BLANK_HEAD_SIZE:
        return False
    magic = _MAGIC.unpack_from(head, record.MAGIC_AT)[0]
    return magic in RECORD_MAGICS or magic == record.BLANK_MAGIC


# Consumequeue


def _consumequeue(file: _File, first: int) -> Iterator[dict[str, Any]]:
    delayed = file.path.absolute().parent.parent.name == DELAY_TOPIC
    queue_first = (_row_start(file.path) or 0) // cqentry.ENTRY_SIZE
    index = filled = first
    while len(entries := _entries(file, index)):
        for row in entries.tolist():
            entry = cqentry.Entry(*row)
            if entry.is_filler:
                index += 1
                continue
            if filled < index:
                yield _fillers(queue_first + filled, index - filled)
            at = index * cqentry.ENTRY_SIZE
            if entry == (0, 0, 0):
                yield {"kind": "end", "at": at, "what": ZEROS}
                return
            if not entry.is_valid:
                yield damage("no entry", at=at, data=file.read(at, cqentry.ENTRY_SIZE))
                return
            yield entry_item(entry, queue_offset=queue_first + index, delayed=delayed)
            index += 1
            filled = index
    if filled < index:
        yield _fillers(queue_first + filled, index - filled)
    at = index * cqentry.ENTRY_SIZE
    if at < file.size:
        yield damage("less than an entry", at=at, data=file.read(at, file.size - at))


def _fillers(queue_offset: int, count: int) -> dict[str, Any]:
    return {"kind": "fillers", "queueOffset": queue_offset, "count": count}


def _entries(file: _File, index: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    data = file.read(index * cqentry.ENTRY_SIZE, CHUNK_ENTRIES * cqentry.ENTRY_SIZE)
    return np.frombuffer(data[: len(data) - len(data) % cqentry.ENTRY_SIZE], dtype=cqentry.ENTRY)


def entry_item(
    entry: cqentry.Entry, *, queue_offset: int, delayed: bool, **more: object
) -> dict[str, Any]:
    """One entry of a consumequeue; one of a delayed message holds the time of its delivery."""
    code = "deliverTimestamp" if delayed else "tagsCode"
    return {
        "kind": "entry",
        **more,
        "queueOffset": queue_offset,
        "physicalOffset": entry.physical_offset,
        "size": entry.size,
        code: entry.tags_code,
    }


# Index file


def _index(file: _File, first: int) -> Iterator[dict[str, Any]]:
    header = indexfile.decode_header(file.read(0, indexfile.HEADER_SIZE))
    # The counts stand nowhere in the file; Apache's and ours have four entries a slot.
    slots, rest = divmod(
        file.size - indexfile.HEADER_SIZE,
        indexfile.SLOT_SIZE + INDEX_RATIO * indexfile.ENTRY_SIZE,
    )
    if rest or not slots:
        raise LayoutError("size of an index file", found=file.size, allowed="40 + 84 a slot")
    yield {
        "kind": "indexHeader",
        "beginTimestamp": header.begin_timestamp,
        "endTimestamp": header.end_timestamp,
        "beginOffset": header.begin_offset,
        "endOffset": header.end_offset,
        "usedSlotCount": header.used_slot_count,
        "entryCount": header.entry_count - indexfile.FIRST_ENTRY_COUNT,
        "slotCount": slots,
        "entryCountMax": slots * INDEX_RATIO,
    }
    index = max(indexfile.FIRST_ENTRY_COUNT, first)
    end = min(header.entry_count, slots * INDEX_RATIO)
    while index < end:
        count = min(CHUNK_ENTRIES, end - index)
        data = file.read(
            indexfile.entry_position(index, slot_count=slots), count * indexfile.ENTRY_SIZE
        )
        for row in np.frombuffer(data, dtype=indexfile.ENTRY).tolist():
            entry = indexfile.IndexEntry(*row)
            yield {
                "kind": "indexEntry",
                "entry": index,
                "slot": entry.key_hash % slots,
                "keyHash": entry.key_hash,
                "physicalOffset": entry.physical_offset,
                "storeTimestamp": header.begin_timestamp + entry.seconds * 1000,
                "previous": entry.previous,
            }
            index += 1
    if header.entry_count > slots * INDEX_RATIO or header.entry_count < 1:
        raise LayoutError(
            "entry count of an index file",
            found=header.entry_count,
            allowed=(indexfile.FIRST_ENTRY_COUNT, slots * INDEX_RATIO),
        )


# Small files


def _checkpoint(file: _File, _first: int) -> Iterator[dict[str, Any]]:
    found = checkpoint.decode(file.read(0, checkpoint.FILE_SIZE))
    yield {
        "kind": "checkpoint",
        "physicalTimestamp": found.physical_timestamp,
        "queuesTimestamp": found.queues_timestamp,
        "indexTimestamp": found.index_timestamp,
        "masterFlushedOffset": found.master_flushed_offset,
        "confirmOffset": found.confirm_offset,
        "vouchedOffset": found.vouched_offset,
    }


def _table(file: _File, first: int) -> Iterator[dict[str, Any]]:
    """Fields of a table; of an object in it, each member is an item of its own."""
    data = file.read(0, file.size)
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError:
        content = jsonish.loads(data)
    fields = content.items() if isinstance(content, dict) else [("", content)]
    number = 0
    for name, value in fields:
        members = value.items() if isinstance(value, dict) else [(None, value)]
        for key, member in members:
            if number >= first:
                item = {"kind": "field", "name": str(name)}
                yield item | ({"value": member} if key is None else {"key": key, "value": member})
            number += 1


def _journal(file: _File, first: int) -> Iterator[dict[str, Any]]:
    data = file.read(0, file.size)
    try:
        _generation, entries, end = offsetjournal.decode(data)
    except UnicodeDecodeError as error:
        raise LayoutError("a name in the journal is not UTF-8", cause=error.reason) from error
    for number, entry in enumerate(entries[first:], first):
        removal = entry.queue_id == offsetjournal.ALL_QUEUES
        yield {
            "kind": "removal" if removal else "commit",
            "entry": number,
            "group": entry.group,
            "topic": entry.topic,
        } | ({} if removal else {"queueId": entry.queue_id, "queueOffset": entry.queue_offset})
    if end < len(data):
        yield damage("no whole entry", at=end, data=data[end : end + DAMAGE_SHOWN_MAX])


_READERS: Final[dict[str, Callable[[_File, int], Iterator[dict[str, Any]]]]] = {
    "consumequeue": _consumequeue,
    "index": _index,
    "checkpoint": _checkpoint,
    "table": _table,
    "journal": _journal,
}


# Folders


def folder_items(folder: Path, *, first: int, with_body: bool) -> Iterator[dict[str, Any]]:
    """Every file below `folder`, each after an item of kind `file` with its path.

    Raises:
        StoreError: `first` is given, and the folder is no row of files that could be counted.
    """
    row = _row(folder)
    if first and not row:
        raise StoreError(
            "no place to begin at: the folder holds other things than one row of files",
            folder=shown(folder),
            allowed="a folder of a commitlog or of one consumequeue, or a single file",
        )
    for path in row or _files_below(folder):
        skipped = _skipped(path, first) if row else 0
        if skipped is None:
            continue
        with contextlib.suppress(FileNotFoundError):  # Retention may delete it meanwhile.
            yield {"kind": "file", "path": shown(path), "size": path.lstat().st_size}
            yield from file_items(path, first=skipped, with_body=with_body)


def _row(folder: Path) -> list[Path]:
    """The files of a folder that holds nothing but one row of them."""
    found = sorted(folder.iterdir())
    return found if found and all(ROW_NAME.match(path.name) for path in found) else []


def _skipped(path: Path, first: int) -> int | None:
    """Where to begin in one file of a row, as that file counts; None: the file lies before."""
    start, size = int(path.name), path.lstat().st_size
    with _File(path) as file:
        kind = _kind(file) if file.is_regular else "unknown"
    unit = cqentry.ENTRY_SIZE if kind == "consumequeue" else 1
    if first and start + size <= first * unit:
        return None
    return max(0, first - start // unit)


def _files_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path)
        elif not path.is_dir():
            yield path

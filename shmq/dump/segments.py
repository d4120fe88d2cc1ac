"""Shared memory of a broker as items: words, counters, queues, descriptors, rings, hot pages.

Works on a running broker and on what a killed one left. What a segment means often stands in
another one, so that is attached too. A running broker goes on meanwhile: the items are a picture of
a moment, and what was used again during the look is shown as it was found.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shmq.dump.files import DELAY_TOPIC, entry_item
from shmq.dump.records import DAMAGE_SHOWN_MAX, damage, record_items
from shmq.errors import LayoutError
from shmq.layout import control, counters, cqentry, queuetable
from shmq.layout import ring as ring_layout
from shmq.layout.control import Word
from shmq.shm.arena import EVENT_ROLES, SEMAPHORE_ROLES
from shmq.shm.queuetable import QueueTable
from shmq.shm.ring import Ring
from shmq.shm.segment import Segment, segment_name
from shmq.shm.words import Cell, WordReader, check_control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEGMENT_NAME: Final = re.compile(
    r"^/?shmq\.(?P<instance>[0-9a-zA-Z_-]+)\.(?P<what>[a-z]+[a-z0-9-]*)$"
)
STATUS_NAMES: Final = {
    ring_layout.STATUS_OK: "ok",
    ring_layout.STATUS_BAD_RECORD: "bad record",
    ring_layout.STATUS_BAD_SLOT: "bad slot",
    ring_layout.STATUS_CLOSED: "closed",
}


def segment_items(name: str, *, first: int, with_body: bool) -> Iterator[dict[str, Any]]:
    """What is in the segment `name`; `first` as its kind counts.

    Raises:
        LayoutError: there is no such segment, or it belongs to another user.
    """
    match = SEGMENT_NAME.match(name)
    assert match is not None, "the caller looked"
    instance, what = match["instance"], match["what"]
    view = _attach(instance, what)
    try:
        if what == "pool":
            yield from _pool(instance, view, first=first, with_body=with_body)
        elif what.startswith("ring-"):
            yield from _ring(view, first)
        elif what in _READERS:
            yield from _READERS[what](instance, view, first)
        else:
            yield damage("no segment that shmq knows", at=0, data=view[:DAMAGE_SHOWN_MAX])
    except LayoutError as error:
        yield damage(error, at=0, data=view[:DAMAGE_SHOWN_MAX])


def _attach(instance: str, what: str) -> memoryview:
    return Segment.attach(segment_name(instance, what)).view


def _control_of(instance: str) -> memoryview:
    view = _attach(instance, "control")
    _check_size(view, control.SEGMENT_SIZE)
    check_control(view)
    return view


def _check_size(view: memoryview, size_min: int) -> None:
    if len(view) < size_min:
        raise LayoutError("segment too short", size=len(view), size_min=size_min)


# Words


def _control(instance: str, view: memoryview, first: int) -> Iterator[dict[str, Any]]:
    _control_of(instance)
    for word in Word:
        if word >= first and word != Word.MAGIC:
            value = WordReader(view, word).load()
            item = {"kind": "word", "line": int(word), "word": word.name}
            yield item | {"value": value, "writer": control.OWNERS[word]}
    for number in range(control.ROLES_MAX):
        line = control.SLEEPING_LINE + number
        if line >= first and (value := Cell(view, line * control.LINE_SIZE).load()):
            yield {"kind": "sleeping", "line": line, "role": _sleeper(number), "value": value}
    for serve in range(control.SERVES_MAX):
        line = control.HOLDING_LINE + serve
        if line >= first and (value := Cell(view, line * control.LINE_SIZE).load()):
            yield {"kind": "holding", "line": line, "role": f"serve{serve}", "value": value}


def _sleeper(number: int) -> str:
    """The role whose SLEEPING word this is, as the arena counts them."""
    roles = (*SEMAPHORE_ROLES, *EVENT_ROLES)
    return roles[number] if number < len(roles) else f"serve{number - len(roles)}"


def _counters(_instance: str, view: memoryview, first: int) -> Iterator[dict[str, Any]]:
    """The row of each process that has ever counted."""
    _check_size(view, counters.SEGMENT_SIZE)
    for row in range(first, control.SERVES_MAX):
        start = row * counters.ROW_SIZE
        cells = view[start : start + len(counters.Counter) * counters.CELL_SIZE].cast("q")
        if any(cells):
            values = {counter.name: cells[counter] for counter in counters.Counter}
            yield {"kind": "counters", "role": f"serve{row}", **values}


# Queues


def _queue_table(view: memoryview, hot: memoryview) -> QueueTable:
    _check_size(view, queuetable.HEAD_SIZE)
    (slots_max,) = struct.unpack_from("=I", view, queuetable.SLOTS_MAX_AT)
    _check_size(view, queuetable.segment_size(slots_max))
    table = QueueTable(view, hot)
    if not 0 <= len(table) <= table.slots_max:
        raise LayoutError("slot count", found=len(table), allowed=(0, table.slots_max))
    return table


def _name(table: QueueTable, slot: int) -> tuple[str, int]:
    try:
        return table.name(slot)
    except UnicodeDecodeError as error:
        raise LayoutError("topic name is not UTF-8", slot=slot) from error


def _queues(_instance: str, view: memoryview, first: int) -> Iterator[dict[str, Any]]:
    table = _queue_table(view, memoryview(b""))
    for slot in range(first, len(table)):
        topic, queue_id = _name(table, slot)
        yield {
            "kind": "queue",
            "slot": slot,
            "topic": topic,
            "queueId": queue_id,
            "minOffset": table.min_offset(slot),
            "maxOffset": table.max_offset(slot),
            "hotStart": table.hot_starts[slot],
        }


def _hot_entries(instance: str, view: memoryview, first: int) -> Iterator[dict[str, Any]]:
    table = _queue_table(_attach(instance, "queues"), view)
    _check_size(view, queuetable.hot_size(table.slots_max, table.hot_entries))
    number = 0
    for slot in range(len(table)):
        topic, queue_id = _name(table, slot)
        end = table.max_offset(slot)
        start = max(table.hot_starts[slot], end - table.hot_entries, 0)
        ring_at = slot * table.hot_entries
        for queue_offset in range(start, end):
            if number >= first:
                entry = cqentry.decode(view, ring_at + queue_offset % table.hot_entries)
                delayed = topic == DELAY_TOPIC
                place = {"topic": topic, "queueId": queue_id}
                yield entry_item(entry, queue_offset=queue_offset, delayed=delayed, **place)
            number += 1


# What passes between the roles


def _descriptors(instance: str, view: memoryview, first: int) -> Iterator[dict[str, Any]]:
    for number, row in _descriptor_rows(_control_of(instance), view):
        if number >= first:
            fields = dict(zip(control.DESCRIPTOR.names or (), row, strict=True))
            yield {
                "kind": "descriptor",
                "number": number,
                "physicalOffset": fields["physical_offset"],
                "size": fields["size"],
                "slot": fields["slot"],
                "queueOffset": fields["queue_offset"],
                "tagsCode": fields["tags_code"],
                "storeTimestamp": fields["store_timestamp"],
                "ring": fields["ring"],
                "ringSequence": fields["ring_sequence"],
                "remaining": fields["remaining"],
            }


def _descriptor_rows(words: memoryview, view: memoryview) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The descriptors that are still there, oldest first, by number."""
    _check_size(view, control.DESCRIPTORS_MAX * control.DESCRIPTOR.itemsize)
    rows = np.frombuffer(view, dtype=control.DESCRIPTOR, count=control.DESCRIPTORS_MAX)
    end = WordReader(words, Word.DESCRIPTOR_COUNT).load()
    for number in range(max(0, end - control.DESCRIPTORS_MAX), end):
        yield number, rows[number % control.DESCRIPTORS_MAX].item()


def _ring(view: memoryview, first: int) -> Iterator[dict[str, Any]]:
    _check_size(view, ring_layout.ENTRIES_AT)
    ring = Ring(view)
    completed, submitted = ring.completed.load(), ring.submitted.load()
    yield {
        "kind": "ringHead",
        "entryCount": ring.entry_count,
        "dataSize": ring.data_size,
        "submitted": submitted,
        "completed": completed,
    }
    if ring.entry_count == 0 or not 0 <= submitted - completed <= ring.entry_count:
        raise LayoutError("ring words", submitted=submitted, completed=completed)
    entries, completions = ring.entry_array(), ring.completion_array()
    for number in range(max(first, submitted - ring.entry_count, 0), submitted):
        entry = entries[number % ring.entry_count]
        item = {
            "kind": "submission",
            "number": number,
            "dataPosition": int(entry["data_position"]),
            "dataSize": int(entry["data_size"]),
            "recordCount": int(entry["record_count"]),
            "slot": int(entry["slot"]),
            "opaque": int(entry["opaque"]),
            "connection": int(entry["connection"]),
        }
        if number >= completed:
            yield item | {"state": "waiting"}
            continue
        answer = completions[number % ring.entry_count]
        status = int(answer["status"])
        yield item | {
            "state": STATUS_NAMES.get(status, f"status {status}"),
            "physicalOffset": int(answer["physical_offset"]),
            "queueOffset": int(answer["queue_offset"]),
            "storeTimestamp": int(answer["store_timestamp"]),
        }


# Hot pages


def _pool(
    instance: str, view: memoryview, *, first: int, with_body: bool
) -> Iterator[dict[str, Any]]:
    words = _control_of(instance)
    start = WordReader(words, Word.HOT_START).load()
    end = WordReader(words, Word.APPEND_OFFSET).load()
    if not 0 <= end - start <= len(view) or start < 0:
        raise LayoutError("hot pages", hot_start=start, append_offset=end, pool_size=len(view))
    if start == end:
        yield {"kind": "end", "at": end, "what": "the hot pages are empty"}
        return

    def read(at: int, size: int) -> bytes:
        size = min(size, end - at)
        place = at % len(view)
        head = bytes(view[place : place + size])
        return head + bytes(view[: size - len(head)])

    yield from record_items(
        read,
        begin=_first_record(instance, words, start),
        end=end,
        first=first,
        physical_start=0,
        with_body=with_body,
    )


def _first_record(instance: str, words: memoryview, start: int) -> int:
    """Where the first whole record of the hot pages begins: a page may begin inside of one."""
    for _, row in _descriptor_rows(words, _attach(instance, "descriptors")):
        if row[0] >= start:
            return row[0]
    return start


_READERS: Final[dict[str, Callable[[str, memoryview, int], Iterator[dict[str, Any]]]]] = {
    "control": _control,
    "counters": _counters,
    "queues": _queues,
    "hot-cq": _hot_entries,
    "descriptors": _descriptors,
}

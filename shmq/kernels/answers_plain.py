"""Plain twin of answers.py. Layouts: layout/ring.py, wire/header.py."""

from __future__ import annotations

import json
import struct
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shmq.errors import LayoutError
from shmq.layout.ring import (
    ANSWER_AT_ONCE,
    ANSWER_BINARY,
    ANSWER_BY_HAND,
    ANSWER_ONEWAY,
    COMPLETION,
    ENTRY,
    STATUS_OK,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

LANGUAGE: Final = ("PYTHON", 3)
VERSION: Final = 513
FLAG_RESPONSE: Final = 1
SERIALIZATION_JSON: Final = 0
SERIALIZATION_BINARY: Final = 1

_PLACE: Final = struct.Struct(">iq")  # port, physical offset
_BINARY_HEADER: Final = struct.Struct(">hbhiiii")  # code to the size of the ext fields, no remark


class What(Enum):
    """What to do about an entry."""

    BUILD = auto()
    SKIP = auto()
    REPORT = auto()
    WAIT = auto()


class AnswerBuilder:
    """Builds the answers to the entries of one submission ring."""

    def __init__(
        self,
        *,
        entries: Buffer,
        completions: Buffer,
        data: Buffer,
        entry_count: int,
        data_size: int,
        store_host: bytes,
        store_port: int,
        region: bytes = b"DefaultRegion",
        trace_on: bool,
    ) -> None:
        if entry_count < 1 or entry_count & (entry_count - 1):
            raise LayoutError("entry count is no power of two", entry_count=entry_count)
        if len(store_host) not in {4, 16}:
            raise LayoutError("store host size", size=len(store_host), allowed=(4, 16))
        self._entries = _array(entries, "entries", ENTRY, entry_count)
        self._completions = _array(completions, "completions", COMPLETION, entry_count)
        self._data = _array(data, "data", np.dtype(np.uint8), data_size)
        self._entry_count = entry_count
        self._store_host = store_host
        self._store_port = store_port
        self._region = region.decode()
        self._trace_on = "true" if trace_on else "false"

    def close(self) -> None:
        """Let go of the ring; nothing may be called after."""
        self._entry_count = 0
        del self._entries, self._completions, self._data

    def build(
        self, first: int, end: int, flushed_limit: int, out: Buffer
    ) -> tuple[int, list[tuple[int, int, int, int]]]:
        """Answer the completed entries first..end-1, in order, from the start of `out` on.

        Returns (next sequence number, runs); see the kernel.
        """
        if not 0 <= end - first <= self._entry_count:
            raise LayoutError(
                "range of entries", first=first, end=end, entry_count=self._entry_count
            )
        target = memoryview(out).cast("B")
        runs: list[tuple[int, int, int, int]] = []
        at = 0
        run_may_grow = False
        sequence = first
        while sequence < end:
            entry = self._entries[sequence % self._entry_count]
            completion = self._completions[sequence % self._entry_count]
            what = judge(entry, completion, flushed_limit)
            if what == What.WAIT:
                break
            if what == What.REPORT:
                runs.append((-1, sequence, 0, 0))
                run_may_grow = False
            elif what == What.BUILD:
                frame = self._frame(entry, completion)
                if len(frame) > len(target) - at:
                    if sequence == first:
                        raise LayoutError("no room for one answer", size=len(target))
                    break
                target[at : at + len(frame)] = frame
                connection = (int(entry["connection"]), int(entry["connection_id"]))
                start = at
                if run_may_grow and runs[-1][:2] == connection:
                    start = runs.pop()[2]
                at += len(frame)
                runs.append((*connection, start, at))
                run_may_grow = True
            sequence += 1
        return sequence, runs

    def _frame(self, entry: np.void, completion: np.void) -> bytes:
        """The whole answer to one entry."""
        position = int(entry["data_position"])
        unique_at, unique_size = int(entry["unique_at"]), int(entry["unique_size"])
        if min(position, unique_at, unique_size) < 0 or (
            position + unique_at + unique_size > len(self._data)
        ):
            raise LayoutError(
                "entry outside of the data",
                data_position=position,
                unique_at=unique_at,
                unique_size=unique_size,
                data_size=len(self._data),
            )
        place = _PLACE.pack(self._store_port, int(completion["physical_offset"]))
        unique = self._data[position + unique_at :][:unique_size].tobytes()
        ext = {"queueId": str(entry["queue_id"])}
        if unique_at > 0 and unique_size > 0:
            ext["transactionId"] = unique.decode(errors="surrogateescape")
        ext |= {
            "msgId": (self._store_host + place).hex().upper(),
            "TRACE_ON": self._trace_on,
            "MSG_REGION": self._region,
            "queueOffset": str(completion["queue_offset"]),
        }
        if entry["answer_flags"] & ANSWER_BINARY:
            return frame_of(binary_header(int(entry["opaque"]), ext), SERIALIZATION_BINARY)
        return frame_of(json_header(int(entry["opaque"]), ext), SERIALIZATION_JSON)


def judge(entry: np.void, completion: np.void, flushed_limit: int) -> What:
    """What to do about an entry, given how far the log is safe."""
    by_hand = bool(entry["answer_flags"] & ANSWER_BY_HAND)
    if entry["answer_flags"] & ANSWER_ONEWAY:
        return What.REPORT if by_hand else What.SKIP
    if completion["status"] != STATUS_OK:
        return What.REPORT
    count = int(entry["record_count"])
    size = int(entry["data_size"]) - (8 * count if count > 1 else 0)
    at_once = bool(entry["answer_flags"] & ANSWER_AT_ONCE)
    if int(completion["physical_offset"]) + size > flushed_limit and not at_once:
        return What.WAIT
    return What.REPORT if by_hand else What.BUILD


def json_header(opaque: int, ext: dict[str, str]) -> bytes:
    """Header in Java's order of keys."""
    header = {
        "code": 0,
        "extFields": ext,
        "flag": FLAG_RESPONSE,
        "language": LANGUAGE[0],
        "opaque": opaque,
        "serializeTypeCurrentRPC": "JSON",
        "version": VERSION,
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="surrogateescape")


def binary_header(opaque: int, ext: dict[str, str]) -> bytes:
    """Header in the ROCKETMQ serialization."""
    fields = b""
    for name, text in ext.items():
        value = text.encode(errors="surrogateescape")
        fields += len(name).to_bytes(2, "big") + name.encode()
        fields += len(value).to_bytes(4, "big") + value
    return (
        _BINARY_HEADER.pack(0, LANGUAGE[1], VERSION, opaque, FLAG_RESPONSE, 0, len(fields)) + fields
    )


def frame_of(header: bytes, serialization: int) -> bytes:
    """A frame without a body."""
    length = (4 + len(header)).to_bytes(4, "big")
    return length + (serialization << 24 | len(header)).to_bytes(4, "big") + header


def _array(source: Buffer, what: str, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """The first `count` elements of a ring part."""
    part = np.frombuffer(memoryview(source), dtype=np.uint8)
    needed = count * dtype.itemsize
    if len(part) < needed:
        raise LayoutError("ring part too short", part=what, size=len(part), needed=needed)
    if part.ctypes.data % 8:
        raise LayoutError("ring part at an odd place", part=what, needed_alignment=8)
    return part[:needed].view(dtype)

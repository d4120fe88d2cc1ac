"""One commitlog file: every record, what is between and behind them, and the records' entries.

After bytes that are no record the walk goes on at the next record that says to lie where it lies,
so one damaged place hides nothing behind it. Memory: CHUNK_SIZE and about 3 MiB for each file that
is walked at once, whatever sizes the bytes speak of.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from shmq.errors import CorruptRecord, ProtocolError
from shmq.kernels import survey as kernel
from shmq.kernels.survey import survey
from shmq.kernels.walk import STOP_BAD, STOP_BLANK, STOP_END, STOP_FULL
from shmq.layout import record
from shmq.layout.cqentry import ENTRY, ENTRY_SIZE
from shmq.store.sparse import data_pieces
from shmq.units import MiB
from shmq.verify.findings import Finding, Findings, Severity
from shmq.verify.heads import HEAD_MAX, next_head
from shmq.verify.rows import RowReader
from shmq.verify.store import Store, is_delayed
from shmq.wire.properties import DELAY, decode_properties

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CHUNK_SIZE: Final = 8 * MiB
ROWS_MAX: Final = 32_768
TABLE_SIZE: Final = 65_536
NAMES_MAX: Final = 100_000
TRANSACTION_MASK: Final = 0xC
TRANSACTION_COMMIT: Final = 0x8
INNER_BATCH: Final = 0x80
QUEUE_OFFSET_MAX: Final = 2**58
TAIL_MAX: Final = 2 + record.TOPIC_SIZE_MAX_V2 + 2 + record.PROPERTIES_SIZE_MAX
_PLACE: Final = struct.Struct(">q")
_SIZE: Final = struct.Struct(">i")

ODD_HOST: Final = "store host differs from those of the records before and after"
FALL: Final = "store timestamp is before that of the record before"
RESTORE: Final = "the message is lost unless a copy of the file has it"
MAYBE_SENT: Final = "its sender wrote it so, or the byte has changed since"
FAULTS: Final[dict[int, tuple[Severity, str, str]]] = {
    kernel.FAULT_BODY_CRC: (Severity.DAMAGE, "body CRC differs", RESTORE),
    kernel.FAULT_PHYSICAL_OFFSET: (
        Severity.DAMAGE,
        "record says it lies elsewhere",
        "a broker ends the log here when it recovers; restore the file from a copy",
    ),
    kernel.FAULT_QUEUE: (Severity.DAMAGE, "queue id or queue offset below zero", RESTORE),
    kernel.FAULT_PORT: (Severity.DAMAGE, "port of a host above 65535", RESTORE),
    kernel.FAULT_STORE_TIMESTAMP: (Severity.DAMAGE, "no store timestamp", RESTORE),
    kernel.FAULT_PROPERTY_CRC: (Severity.DAMAGE, "CRC of the whole record differs", RESTORE),
    kernel.FAULT_SYS_FLAG: (Severity.WARNING, "sys flag has bits without a meaning", MAYBE_SENT),
    kernel.FAULT_COMPRESSION: (
        Severity.WARNING,
        "body is not compressed as its sys flag says",
        MAYBE_SENT,
    ),
    kernel.FAULT_PROPERTIES: (
        Severity.WARNING,
        "properties are no pairs of name and value in UTF-8",
        MAYBE_SENT,
    ),
    kernel.FAULT_SENDER: (
        Severity.WARNING,
        "born timestamp, reconsume times or transaction offset is impossible",
        MAYBE_SENT,
    ),
}


class QueueCount(msgspec.Struct):
    """What one file's records say of one queue."""

    matched: int = 0
    """Records whose entry names them."""
    others: int = 0
    """Records that no entry names."""
    others_first: int = 0
    """Physical offset of the first of them."""
    others_last: int = -1
    """And of the last."""
    end: int = 0
    """Queue offset after the highest of its records."""


class LogReport(msgspec.Struct, kw_only=True):
    """What one commitlog file holds."""

    start: int
    end: int
    """Physical offset after the last record; the next file's start after a blank."""
    records: int = 0
    ended_by: str = "zeros"
    """Or "blank", "bytes", "limit", "full"."""
    last_timestamp: int = 0
    """The highest store timestamp, ms; 0 without a record."""
    queues: dict[tuple[str, int], QueueCount]
    findings: list[Finding]


def check_log_file(store: Store, start: int, tick: Callable[[int], None]) -> LogReport:
    """Examine the commitlog file that begins at physical offset `start`."""
    try:
        check = _LogFile(store, start, tick)
    except OSError as error:
        findings = Findings()
        if store.limit is None:  # Else retention has deleted it meanwhile.
            findings.damage(store.log.name(start), "cannot be opened", found=error.strerror)
        return LogReport(start=start, end=start, queues={}, findings=findings.all())
    try:
        check.run()
    except (OSError, struct.error, CorruptRecord) as error:
        check.findings.damage(
            store.log.name(start),
            "cannot be read to its end",
            found=error,
            hint="see the kernel's log; restore the file from a copy",
        )
    finally:
        check.close()
    check.report.findings = check.findings.all()
    return check.report


class _LogFile:
    """One walk through one file."""

    def __init__(self, store: Store, start: int, tick: Callable[[int], None]) -> None:
        self.fd = os.open(store.log.path(start), os.O_RDONLY | os.O_CLOEXEC)
        self.store = store
        self.start = start
        self.tick = tick
        self.file = store.log.name(start)
        self.findings = Findings()
        self.report = LogReport(start=start, end=start, queues={}, findings=[])
        self.reader = RowReader()
        self.rows = np.zeros((ROWS_MAX, 13), dtype=np.int64)
        self.table = np.zeros(TABLE_SIZE, dtype=np.int32)
        self.buffer = memoryview(bytearray(CHUNK_SIZE))
        self.names: dict[bytes, str | None] = {}
        self.previous_timestamp = 0
        self.last_places = self.last_hosts = np.zeros(0, dtype=np.int64)
        size = min(store.log.sizes[start], store.log.file_size)
        # What lies behind may be written in part.
        self.limit = store.in_memory if store.limit is None else store.limit
        self.size = size if self.limit is None else max(0, min(size, self.limit - start))
        self.is_last = start >= store.last_start

    def close(self) -> None:
        os.close(self.fd)
        self.reader.close()

    def run(self) -> None:
        at = 0
        while at < self.size:
            count = os.preadv(self.fd, [self.buffer[: min(CHUNK_SIZE, self.size - at)]], at)
            if not count:
                break
            position, stop = self.walk(self.buffer[:count], at)
            self.tick(position)
            whole = at + count >= self.size
            at += position
            if stop == STOP_END and position == 0 and not whole:
                at, stop = self.walk_large(at)
            if stop == STOP_BLANK:
                self.end_by_blank(at)
                return
            if stop == STOP_END and whole and self.limit is not None:
                break
            if stop == STOP_BAD or (stop == STOP_END and whole):
                after = self.after_stop(at)
                if after is None:
                    return
                at = after
        if self.size:
            self.end(at, "full" if self.limit is None else "limit")

    def walk(self, data: memoryview, at: int) -> tuple[int, int]:
        """Examine one chunk that lies at `at`; where the walk stands in it and why it stopped."""
        position = 0
        while True:
            count, groups, position, stop = survey(
                data, position, self.start + at, self.rows, self.table
            )
            if count:
                self.take(data, at, self.rows[:count], groups)
            if stop != STOP_FULL:
                return position, stop

    def walk_large(self, at: int) -> tuple[int, int]:
        """Examine a record that is longer than a chunk, without having it in memory."""
        head = os.pread(self.fd, HEAD_MAX, at)
        size, _ = record.head(head)
        (flags,) = _SIZE.unpack_from(head, record.SYS_FLAG_AT)
        body_at = record.BODY_AT
        body_at += record.IPV6_EXTRA if flags & record.BORN_HOST_V6 else 0
        body_at += record.IPV6_EXTRA if flags & record.STORE_HOST_V6 else 0
        (body_size,) = _SIZE.unpack_from(head, body_at - 4)
        rest = size - body_at - body_size
        if body_size < 0 or at + size > self.size or not 0 < rest <= TAIL_MAX:
            return at, STOP_BAD
        tail = os.pread(self.fd, rest, at + body_at + body_size)
        short = _SIZE.pack(body_at + rest) + head[4 : body_at - 4] + _SIZE.pack(0) + tail
        count, groups, _, _ = survey(short, 0, self.start + at, self.rows, self.table)
        if not count:
            return at, STOP_BAD
        row = self.rows[0]
        row[1] = size
        row[11] &= ~(kernel.FAULT_BODY_CRC | kernel.FAULT_COMPRESSION)
        crc = 0
        for piece_at in range(at + body_at, at + body_at + body_size, MiB):
            piece = os.pread(self.fd, min(MiB, at + body_at + body_size - piece_at), piece_at)
            crc = zlib.crc32(piece, crc)
            self.tick(len(piece))
        if crc & record.CRC_MASK != _SIZE.unpack_from(head, record.BODY_CRC_AT)[0]:
            row[11] |= kernel.FAULT_BODY_CRC
        self.take(memoryview(short), at, self.rows[:1], groups)
        return at + size, STOP_END

    # Records

    def take(self, data: memoryview, at: int, rows: NDArray[np.int64], groups: int) -> None:
        """Note what is wrong with records, and compare them with their entries."""
        faults = rows[:, 11]
        if faults.any():
            self.note_faults(at, rows)
        stamps = rows[:, 5]
        falls = np.flatnonzero(np.diff(stamps, prepend=self.previous_timestamp) < 0)
        for index in self.findings.first(self.file, FALL, falls):
            self.findings.add(
                Severity.WARNING,
                self.file,
                FALL,
                at=at + int(rows[index, 0]),
                found=int(stamps[index]),
                hint="the clock was set back, or the byte has changed; look-ups by time may miss",
            )
        self.previous_timestamp = int(stamps[-1])
        self.note_odd_hosts(at, rows)
        self.report.last_timestamp = max(self.report.last_timestamp, int(stamps.max()))
        self.report.records += len(rows)
        order = np.argsort(rows[:, 10].astype(np.uint16), kind="stable")
        by_queue = rows if groups == 1 else rows[order]
        bounds = np.searchsorted(by_queue[:, 10], np.arange(groups + 1)).tolist()
        for group in range(groups):
            mine = by_queue[bounds[group] : bounds[group + 1]]
            topic_at, topic_size = int(mine[0, 8]), int(mine[0, 9])
            topic = self.topic(bytes(data[topic_at : topic_at + topic_size]), at, mine)
            if topic is not None and self.store.is_checked(topic):
                self.compare(topic, data, at, mine)

    def note_odd_hosts(self, at: int, rows: NDArray[np.int64]) -> None:
        """Note records with another store host than both neighbours, which have the same."""
        places = np.concatenate((self.last_places, rows[:, 0] + at))
        hosts = np.concatenate((self.last_hosts, rows[:, 12]))
        self.last_places, self.last_hosts = places[-2:], hosts[-2:]
        odd = np.flatnonzero((hosts[1:-1] != hosts[:-2]) & (hosts[2:] == hosts[:-2])) + 1
        for index in self.findings.first(self.file, ODD_HOST, odd):
            self.findings.add(
                Severity.WARNING,
                self.file,
                ODD_HOST,
                at=int(places[index]),
                hint="the bytes have changed; only message ids name it",
            )

    def topic(self, name: bytes, at: int, rows: NDArray[np.int64]) -> str | None:
        """The topic's name; None, and a finding, when it is none."""
        if name not in self.names:
            if len(self.names) >= NAMES_MAX:
                self.names.clear()
            try:
                text = name.decode()
            except UnicodeDecodeError:
                text = ""
            sound = text and "/" not in text and "\0" not in text and text not in {".", ".."}
            self.names[name] = text if sound else None
        topic = self.names[name]
        if topic is None:
            self.findings.damage(
                self.file,
                "topic is no name",
                at=at + int(rows[0, 0]),
                found=name[:64],
                allowed="UTF-8 that may be a folder's name",
                hint="the message cannot be consumed",
            )
        return topic

    def note_faults(self, at: int, rows: NDArray[np.int64]) -> None:
        for bit, (severity, what, hint) in FAULTS.items():
            bad = self.findings.first(self.file, what, np.flatnonzero(rows[:, 11] & bit))
            for row in rows[bad].tolist():
                found, allowed = "", ""
                if bit == kernel.FAULT_PHYSICAL_OFFSET:
                    found, allowed = str(row[3]), str(self.start + at + row[0])
                if bit == kernel.FAULT_SYS_FLAG:
                    found, allowed = f"{row[4]:#x}", "at most 0x7ff"
                self.findings.add(
                    severity,
                    self.file,
                    what,
                    at=at + row[0],
                    found=found,
                    allowed=allowed,
                    hint=hint,
                )

    def compare(self, topic: str, data: memoryview, at: int, rows: NDArray[np.int64]) -> None:
        """Compare the records of one queue with their entries."""
        kinds = rows[:, 4] & (TRANSACTION_MASK | INNER_BATCH)
        entered = (kinds == 0) | (kinds == TRANSACTION_COMMIT)
        entered &= rows[:, 2].view(np.uint64) < QUEUE_OFFSET_MAX
        if not entered.all():
            rows = rows[entered]
            if not len(rows):
                return
        queue = (topic, int(rows[0, 7]))
        places = rows[:, 0] + (self.start + at)
        entries = self.entries(queue, rows[:, 2])
        same = (entries["physical_offset"] == places) & (entries["size"] == rows[:, 1])
        codes = self.delivery_times(data, rows) if is_delayed(topic) else rows[:, 6]
        same &= entries["tags_code"] == codes
        count = self.report.queues.setdefault(queue, QueueCount())
        matched = int(same.sum())
        count.matched += matched
        count.end = max(count.end, int(rows[:, 2].max()) + 1)
        if matched < len(rows):
            others = places[~same]
            if not count.others:
                count.others_first = int(others[0])
            count.others += len(others)
            count.others_last = int(others[-1])

    def entries(self, queue: tuple[str, int], offsets: NDArray[np.int64]) -> NDArray[np.void]:
        """The entries at these queue offsets; zeros where there are none."""
        found = np.zeros(len(offsets), dtype=ENTRY)
        row = self.store.queues.get(queue)
        if row is None:
            return found
        breaks = np.flatnonzero(offsets[1:] - offsets[:-1] != 1) + 1
        for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(offsets)], strict=True):
            index = begin
            while index < end:
                position = int(offsets[index]) * ENTRY_SIZE
                data = self.reader.read(row, position, (end - index) * ENTRY_SIZE)
                room = (row.file_size - position % row.file_size) // ENTRY_SIZE
                whole = len(data) // ENTRY_SIZE
                found[index : index + whole] = np.frombuffer(data, dtype=ENTRY, count=whole)
                index += max(whole, min(room, end - index), 1)
        return found

    def delivery_times(self, data: memoryview, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the entries of delayed messages should hold."""
        codes = rows[:, 6].copy()
        for index, row in enumerate(rows.tolist()):
            properties_at = row[8] + row[9] + 2
            end = min(row[0] + row[1], len(data))
            try:
                level = decode_properties(data[properties_at:end]).get(DELAY, "")
            except ProtocolError:
                continue
            delay_ms = self.store.delay_ms(level)
            if delay_ms is not None:
                codes[index] = row[5] + delay_ms
        return codes

    # Ends

    def end(self, at: int, ended_by: str) -> None:
        self.report.end = self.start + at
        self.report.ended_by = ended_by

    def end_by_blank(self, at: int) -> None:
        (size,) = _SIZE.unpack(os.pread(self.fd, 4, at))
        if size != self.size - at and self.size == self.store.log.sizes[self.start]:
            self.findings.damage(
                self.file,
                "blank at the file's end has a wrong size",
                at=at,
                found=size,
                allowed=self.size - at,
                hint="no message is lost by it; check whether records before it are there",
            )
        self.tick(self.size - at)
        self.end(self.store.log.file_size, "blank")

    def after_stop(self, at: int) -> int | None:
        """Look at bytes that are no record; where the next record begins, None at the log's end."""
        if at >= self.size:
            self.end(at, "full")
            return None
        first = next(data_pieces(self.fd, at, self.size), None)
        if first is None:
            self.tick(self.size - at)
            self.end(at, "zeros")
            if not self.is_last:
                self.findings.damage(
                    self.file,
                    "file ends before it is full, and another follows",
                    at=at,
                    found="zeros",
                    allowed="a record or a blank",
                    hint="records are missing here; restore the file from a copy",
                )
            return None
        # Behind the log's end may stand older records, which a recovery has cut off.
        stamp_min = self.previous_timestamp if self.is_last else 0
        following = next_head(self.fd, at, self.size, start=self.start, stamp_min=stamp_min)
        if following is not None:
            self.findings.damage(
                self.file,
                "no record",
                at=at,
                found=self.bytes_at(at),
                allowed=f"a record; the next one begins at {following}",
                hint="messages in between are lost unless a copy of the file has them; "
                "a broker that recovers ends the log here",
            )
            return following
        self.end(at, "bytes")
        self.tick(self.size - at)
        self.note_tail(at)
        return None

    def note_tail(self, at: int) -> None:
        """Say what the bytes are that stand after the last record."""
        head = os.pread(self.fd, record.PHYSICAL_OFFSET_AT + 8, at)
        is_here = head[record.PHYSICAL_OFFSET_AT :] == _PLACE.pack(self.start + at)
        if not self.is_last or is_here:
            self.findings.damage(
                self.file,
                "record is torn or damaged",
                at=at,
                found=self.bytes_at(at),
                allowed="a whole record, a blank, or zeros to the end of the file",
                hint="a start cuts it off and keeps it in set-aside/; a message that was "
                "confirmed after a flush is lost unless a copy of the file has it",
            )
        else:
            self.findings.add(
                Severity.WARNING,
                self.file,
                "bytes after the last record",
                at=at,
                found=self.bytes_at(at),
                allowed="zeros",
                hint="left by a crash or an earlier recovery; a start keeps them in set-aside/",
            )

    def bytes_at(self, at: int) -> str:
        return os.pread(self.fd, 16, at).hex()

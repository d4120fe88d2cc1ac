"""A serve process's side of its submission ring: what it submitted, and the answers to it.

    bytes of a client --SendParser.feed()--> entries --SUBMITTED--> writer --COMPLETED--> answers

The compiled parser and answer builder do the many plain sends; sends of the general path carry a
note here, by the number of their entry, and are answered from it.

A process that takes the ring over from a dead one first lets the writer complete what that one
submitted: nobody is there any more to be answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.broker.sending import Prepared
from shmq.kernels.answers import AnswerBuilder
from shmq.kernels.sends import SendParser
from shmq.layout import ring as layout
from shmq.layout.control import BLOCKED_TEXT, Word
from shmq.units import MiB
from shmq.wire.codes import ResponseCode
from shmq.wire.header import BINARY, JSON, Header, answer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.workers.clientconn import ClientConnection

ANSWERS_SIZE: Final = 1 * MiB
NO_LIMIT: Final = (1 << 63) - 1
NOT_WAITING: Final = -1


class Note(NamedTuple):
    """A send of the general path that the writer has."""

    prepared: Prepared
    request: Header


class Submissions:
    """The ring of one serve process."""

    def __init__(
        self,
        *,
        arena: Arena,
        index: int,
        settings: Settings,
        store_host: bytes,
        store_port: int,
        find: Callable[[int, int], ClientConnection | None],
        write: Callable[[ClientConnection], None],
        ext_of: Callable[[Prepared, int, int], dict[str, str]],
    ) -> None:
        """`find(fd, number)` gives an open connection; `write` sends what it has.

        `ext_of(prepared, physical_offset, queue_offset)` are the fields of an answer.
        """
        self._ring = ring = arena.rings[index]
        self._settings = settings
        self._find = find
        self._write = write
        self._ext_of = ext_of
        self._writer_bell = arena.bells["writer"]
        self._flushed_offset = arena.reader(Word.FLUSHED_OFFSET)
        self._flush_error = arena.reader(Word.FLUSH_ERROR)
        self._blocked_on = arena.reader(Word.BLOCKED_ON)
        self._sync_each = settings.flush_disk_type == "SYNC_FLUSH"
        self._published = ring.submitted.load()
        self._entries = ring.entry_array()
        self._completions = ring.completion_array()
        self._out = bytearray(ANSWERS_SIZE)
        self._notes: dict[int, Note] = {}
        self._flush_waited_ms = 0
        self._waits_behind = NOT_WAITING
        """FLUSHED_OFFSET when the oldest entry that was completed ended behind it."""
        region = settings.region_id.encode()
        self.parser = SendParser(
            entries=ring.entries,
            data=ring.data,
            entry_count=ring.entry_count,
            data_size=ring.data_size,
            store_host=store_host,
            store_port=store_port,
            cluster=settings.broker_cluster_name.encode(),
            region=region,
            trace_on=settings.trace_on,
            message_size_max=settings.max_message_size,
            frame_size_max=settings.frame_size_max,
            submitted=self._published,
        )
        self._builder = AnswerBuilder(
            entries=ring.entries,
            completions=ring.completions,
            data=ring.data,
            entry_count=ring.entry_count,
            data_size=ring.data_size,
            store_host=store_host,
            store_port=store_port,
            region=region,
            trace_on=settings.trace_on,
        )

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        self._settings = settings

    def is_settled(self) -> bool:
        """Whether the writer has done all that a predecessor submitted; before the first send."""
        return self._ring.completed.load() >= self._published

    @property
    def in_flight(self) -> int:
        """Entries that were not answered yet."""
        return self.parser.submitted - self.parser.reaped

    @property
    def answers_wait(self) -> bool:
        """Whether an entry was completed that can be answered now."""
        if self._ring.completed.load() <= self.parser.reaped:
            return False
        flushed = self._flushed_offset.load()
        return flushed != self._waits_behind or self._flush_error.load() != 0

    def submit(self, prepared: Prepared, connection: ClientConnection, request: Header) -> bool:
        """Give a send to the writer; False when the ring has no room for it now."""
        flags = layout.ANSWER_BY_HAND
        if request.is_oneway:
            flags = layout.ANSWER_ONEWAY
        if connection.serialization == BINARY:
            flags |= layout.ANSWER_BINARY
        if not prepared.waits_for_disk:
            flags |= layout.ANSWER_AT_ONCE
        number = self.parser.submit(
            prepared.data,
            record_count=len(prepared.sizes),
            slot=prepared.slot,
            tags_code=prepared.tags_code,
            opaque=request.opaque,
            connection=connection.fd,
            connection_id=connection.number,
            answer_flags=flags,
            queue_id=prepared.queue_id,
            unique_at=0,
            unique_size=0,
        )
        if number < 0:
            return False
        if not request.is_oneway:
            self._notes[number] = Note(prepared, request)
        return True

    def publish(self) -> int:
        """Show the writer what was submitted since the last call; how many entries that is."""
        submitted = self.parser.submitted
        count = submitted - self._published
        if count == 0:
            return 0
        self._published = submitted
        self._ring.submitted.publish(submitted)  # SYNC POINT: the entries are whole.
        self._writer_bell.ring()
        return count

    def answer(self, now_ms: int) -> int:
        """Answer what was completed, in order; how many entries."""
        parser = self.parser
        first = parser.reaped
        end = self._ring.completed.load()
        if end <= first:
            return 0
        limit = self._flushed_offset.load() if self._sync_each else NO_LIMIT
        touched: dict[int, ClientConnection] = {}
        done = self._build(first, end, limit, touched)
        if done < end and self._flush_is_late(now_ms):
            # They are stored, but not known to be on the disk: the client is told just that.
            for number in range(done, end):
                self._answer_by_hand(number, touched, ResponseCode.FLUSH_DISK_TIMEOUT)
            done = end
            self._flush_waited_ms = 0
        self._waits_behind = limit if done < end else NOT_WAITING
        parser.reap(done)
        for connection in touched.values():
            self._write(connection)
        return done - first

    def _build(self, first: int, end: int, limit: int, touched: dict[int, ClientConnection]) -> int:
        """Answer entries that end before the offset `limit`; the first number that is left."""
        out = self._out
        view = memoryview(out)
        done = first
        while done < end:
            following, runs = self._builder.build(done, end, limit, out)
            for fd, number, start, stop in runs:
                if fd < 0:
                    self._answer_by_hand(number, touched, ResponseCode.SUCCESS)
                    continue
                connection = self._find(fd, number)
                if connection is not None:
                    connection.append(bytes(view[start:stop]))
                    touched[number] = connection
            if following == done:
                break
            done = following
        if done > first:
            self._flush_waited_ms = 0
        return done

    def _flush_is_late(self, now_ms: int) -> bool:
        """Whether the oldest send was appended, but waits too long for the disk."""
        if self._flush_error.load():
            return True
        if not self._flush_waited_ms:
            self._flush_waited_ms = now_ms
        return now_ms - self._flush_waited_ms >= self._settings.sync_flush_timeout

    def _answer_by_hand(self, number: int, touched: dict[int, ClientConnection], code: int) -> None:
        """Answer one send with `code`, or with the reason why the writer did not append it."""
        place = number % self._ring.entry_count
        entry, completion = self._entries[place], self._completions[place]
        note = self._notes.pop(number, None)
        connection = self._find(int(entry["connection"]), int(entry["connection_id"]))
        flags = int(entry["answer_flags"])
        if connection is None or flags & layout.ANSWER_ONEWAY:
            return
        request = note.request if note else Header(0, int(entry["opaque"]))
        status = int(completion["status"])
        if status == layout.STATUS_OK:
            ext = self._ext_of(
                note.prepared if note else self._prepared_of(entry),
                int(completion["physical_offset"]),
                int(completion["queue_offset"]),
            )
            header = answer(request, code, ext=ext)
        else:
            header = answer(request, *self._why_not(status))
        connection.put(header, serialization=BINARY if flags & layout.ANSWER_BINARY else JSON)
        touched[connection.number] = connection

    def _prepared_of(self, entry: np.void) -> Prepared:
        """What the parser submitted, as far as an answer needs it."""
        size = int(entry["data_size"])
        unique_at = int(entry["data_position"]) + int(entry["unique_at"])
        unique = bytes(self._ring.data[unique_at : unique_at + int(entry["unique_size"])])
        return Prepared(
            data=b"",
            sizes=(size,),
            slot=int(entry["slot"]),
            queue_id=int(entry["queue_id"]),
            tags_code=int(entry["tags_code"]),
            unique_id=unique.decode(),
        )

    def _why_not(self, status: int) -> tuple[int, str]:
        if status == layout.STATUS_CLOSED and not self._flush_error.load():
            return (
                ResponseCode.SERVICE_NOT_AVAILABLE,
                "the disk has no room for the commitlog; sends are taken again when it has",
            )
        if status == layout.STATUS_CLOSED:
            return (
                ResponseCode.SERVICE_NOT_AVAILABLE,
                (
                    "the store takes no more messages: writing the commitlog failed "
                    f"(errno {self._flush_error.load()}); repair the disk, then restart the broker"
                ),
            )
        if status == layout.STATUS_BAD_SLOT:
            return ResponseCode.SYSTEM_ERROR, "the writer does not know the queue"
        return ResponseCode.SYSTEM_ERROR, "the writer found the record unsound; not stored"

    def why_busy(self) -> str:
        """What keeps the writer from taking more, for a person."""
        return BLOCKED_TEXT.get(self._blocked_on.load(), "the writer")

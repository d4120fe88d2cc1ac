"""Messages out of a store's files, by topic, key and time, in the order in which they were stored.

    selection.py  which messages
    places.py     where their records lie: by the consumequeues, else by a walk of the log
    message.py    a record as JSON, as its body, or as it is stored

Only reads; memory does not grow with what is exported. A record that is damaged is left out and
counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmq.errors import CorruptRecord
from shmq.export.places import CLOCK_SLACK_MS, Places
from shmq.export.selection import Selection, moment_of
from shmq.layout import record
from shmq.verify.rows import RowReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shmq.layout.record import Record
    from shmq.verify.store import Store

__all__ = ["Export", "Selection", "moment_of"]

SHOWN_MAX: Final = 5


class Export:
    """The records that a selection means."""

    def __init__(
        self,
        store: Store,
        selection: Selection,
        *,
        queue_ends: Mapping[int, int] | None = None,
    ) -> None:
        """`queue_ends`: of a running broker, the queue offset after the last message, by queue.

        Raises:
            ConfigError: the topic has no such queue.
        """
        self._store = store
        self._selection = selection
        self._reader = RowReader()
        self._places = Places(store, selection, self._reader, queue_ends)
        self.damaged: list[str] = []
        """What was wrong with records that were left out; the first few."""
        self.damaged_count = 0

    @property
    def is_known(self) -> bool:
        """Whether the store has heard of the topic."""
        return bool(self._places.queues) or self._selection.topic in (self._store.topics or ())

    def records(self) -> Iterator[tuple[Record, bytes]]:
        """Each record, decoded and as it is stored."""
        selection = self._selection
        for place, size in self._places.all():
            data = self._reader.read(self._store.log, place, min(size, record.RECORD_SIZE_MAX))
            if not selection.may_have_key(data):
                continue
            try:
                found = record.decode(data)
            except CorruptRecord as error:
                self.note(place, str(error))
                continue
            if found.size != size or found.physical_offset != place:
                self.note(place, f"another record than its entry says, of {found.size} bytes")
                continue
            if selection.until_ms is not None and (
                found.store_timestamp > selection.until_ms + CLOCK_SLACK_MS
            ):
                break
            if found.topic == selection.topic and selection.matches(found):
                yield found, data
        for at in self._places.damaged:
            self.note(at, "no record")

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def note(self, place: int, what: str) -> None:
        """Count a record that is left out."""
        self.damaged_count += 1
        if len(self.damaged) < SHOWN_MAX:
            self.damaged.append(f"at physical offset {place}: {what}")

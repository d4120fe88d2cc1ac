"""Requests that look something up in the store: bounds, offsets by time, a record by its place.

    29 SEARCH_OFFSET_BY_TIMESTAMP   30 GET_MAX_OFFSET   31 GET_MIN_OFFSET
    32 GET_EARLIEST_MSG_STORETIME   33 VIEW_MESSAGE_BY_ID

Source: RocketMQ processor/AdminBrokerProcessor, QueryMessageProcessor; spec request-codes.md
section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from shmq.broker.fields import LONG_MAX, LONG_MIN, need_int, need_text
from shmq.broker.timesearch import TimeSearch
from shmq.errors import RequestRefused, StoreError
from shmq.wire.codes import RequestCode, ResponseCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmq.broker.views import Views
    from shmq.reading import LogReader, QueueReader
    from shmq.shm.queuetable import QueueTable

UPPER: Final = "UPPER"
NO_TIMESTAMP: Final = -1


class Found(NamedTuple):
    """What is answered."""

    ext: dict[str, str]
    body: bytes = b""


Handler: TypeAlias = "Callable[[Mapping[str, str]], Found]"
"""Answers one kind of request from its header fields."""


class Lookups:
    """Answers look-ups from the store, as one process sees it."""

    def __init__(
        self, *, views: Views, queues: QueueTable, queue_reader: QueueReader, log_reader: LogReader
    ) -> None:
        self._views = views
        self._queues = queues
        self._times = TimeSearch(queues=queues, queue_reader=queue_reader, log_reader=log_reader)
        self._log_reader = log_reader
        self.handlers: dict[int, Handler] = {
            RequestCode.SEARCH_OFFSET_BY_TIMESTAMP: self.search,
            RequestCode.GET_MAX_OFFSET: self.max_offset,
            RequestCode.GET_MIN_OFFSET: self.min_offset,
            RequestCode.GET_EARLIEST_MSG_STORETIME: self.earliest,
            RequestCode.VIEW_MESSAGE_BY_ID: self.view,
        }

    def max_offset(self, ext: Mapping[str, str]) -> Found:
        """30: offset of the next message; 0 for a queue that is not known."""
        slot = self._slot(ext)
        return _offset(0 if slot is None else self._queues.max_offset(slot))

    def min_offset(self, ext: Mapping[str, str]) -> Found:
        """31: offset of the first message that is kept; 0 for a queue that is not known."""
        slot = self._slot(ext)
        return _offset(0 if slot is None else self._queues.min_offset(slot))

    def earliest(self, ext: Mapping[str, str]) -> Found:
        """32: store time of the first message that is kept, ms; -1 when there is none."""
        slot = self._slot(ext)
        stamp = NO_TIMESTAMP
        if slot is not None:
            stamp = self._first_stamp(slot)
        return Found({"timestamp": str(stamp)})

    def search(self, ext: Mapping[str, str]) -> Found:
        """29: the first message stored at a time or later; UPPER: the last stored until then."""
        slot = self._slot(ext)
        timestamp = need_int(ext, "timestamp", low=LONG_MIN, high=LONG_MAX)
        if slot is None:
            return _offset(0)
        upper = ext.get("boundaryType", "").upper() == UPPER
        return _offset(self._times.offset(slot, timestamp, upper=upper))

    def view(self, ext: Mapping[str, str]) -> Found:
        """33: the record at a physical offset."""
        offset = need_int(ext, "offset", low=0, high=LONG_MAX)
        try:
            return Found({}, self._log_reader.whole_record(offset))
        except StoreError as error:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "no message at this offset",
                offset=offset,
                reason=str(error),
            ) from error

    def _first_stamp(self, slot: int) -> int:
        """Store time of the first message that is kept, ms; -1 when there is none."""
        while True:
            low = self._queues.min_offset(slot)
            if low >= self._queues.max_offset(slot):
                return NO_TIMESTAMP
            stamp = self._times.stamp(slot, low)
            if self._queues.min_offset(slot) == low:  # Else it was deleted meanwhile.
                return max(stamp, NO_TIMESTAMP)

    def _slot(self, ext: Mapping[str, str]) -> int | None:
        return self._views.slot(need_text(ext, "topic"), need_int(ext, "queueId"))


def _offset(value: int) -> Found:
    return Found({"offset": str(value)})

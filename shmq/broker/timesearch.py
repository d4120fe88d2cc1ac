"""Where a moment lies in a queue, by the store timestamps of its records, to the millisecond.

    boundary  answer                        nothing is that late   nothing is that early
    LOWER     first entry with stamp >= t   end of the queue       first entry kept
    UPPER     last entry with stamp <= t    last entry             first entry kept

Of equal stamps LOWER gives the first entry, UPPER the last. An entry without a record (deleted with
its file, or a filler) counts as older than any moment.

When the clock was set back, the stamps are not sorted, and more than one place divides the earlier
from the later. Then the answer is one of these places, the same with each question: the one found
by a binary search that begins in the middle of the consumequeue file, stops at the first stamp
equal to t that it meets, and goes from there to the edge of its equals. That is what Apache's
broker answers for queues of one file. Of several files it looks at the first or last stamps of all;
here they are searched as if sorted, and so is what goes beyond WALK_MAX equal stamps.

A question takes about 2 log2(n) looks, and WALK_MAX at most for equal stamps.

Source: RocketMQ store/ConsumeQueue.binarySearchInQueueByTime, store/MappedFileQueue
.getConsumeQueueMappedFileByTime, store/queue/ConsumeQueueStore.getOffsetInQueueByTime.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from shmq.errors import StoreError
from shmq.layout.cqentry import FILLER_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.reading import LogReader, QueueReader
    from shmq.shm.queuetable import QueueTable

GONE: Final = -(2**63) - 1
"""Stamp of an entry that has no record: before any moment."""
WALK_MAX: Final = 256
"""Equal stamps that are looked at one by one, from the one that was found."""


class TimeSearch:
    """Offsets by time in any queue, as one process sees it."""

    def __init__(
        self, *, queues: QueueTable, queue_reader: QueueReader, log_reader: LogReader
    ) -> None:
        self._queues = queues
        self._queue_reader = queue_reader
        self._log_reader = log_reader

    def offset(self, slot: int, timestamp: int, *, upper: bool = False) -> int:
        """Queue offset for a moment in ms, within what the queue keeps; see the module.

        Raises:
            StoreError: an entry or a record cannot be read that should be there.
        """
        low, high = self._queues.min_offset(slot), self._queues.max_offset(slot)
        if low >= high:
            return low
        found = search(
            lambda offset: self.stamp(slot, offset),
            low,
            high,
            timestamp,
            upper=upper,
            file_entries=self._queue_reader.file_entries,
        )
        return min(max(found, self._queues.min_offset(slot)), high)

    def stamp(self, slot: int, offset: int) -> int:
        """Store timestamp of one entry's record, ms; GONE when there is none.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            physical_offset, size = self._queue_reader.place(slot, offset)
        except StoreError:
            if offset < self._queues.min_offset(slot):  # Deleted while it was looked for.
                return GONE
            raise
        log = self._log_reader
        if size <= 0 or size == FILLER_SIZE or physical_offset < log.start:
            return GONE
        try:
            return log.store_timestamp(physical_offset, size)
        except StoreError:
            if physical_offset < log.start:  # Deleted while it was looked at.
                return GONE
            raise


def search(
    stamp: Callable[[int], int],
    low: int,
    high: int,
    timestamp: int,
    *,
    upper: bool,
    file_entries: int,
) -> int:
    """The offset in [low, high] for a moment among the entries [low, high), of which is one.

    `stamp` gives the stamp of an offset; files hold `file_entries` each, beginning at 0.
    """
    assert low < high, "there is an entry"
    first, last = low // file_entries, (high - 1) // file_entries
    if upper:  # The last file that begins until then.
        later = range(first + 1, last + 1)
        file = first + bisect_right(later, timestamp, key=lambda one: stamp(one * file_entries))
    else:  # The first one that ends then or later; the newest has no end yet.
        ended = range(first, last)
        file = first + bisect_left(
            ended, timestamp, key=lambda one: stamp((one + 1) * file_entries - 1)
        )
    floor = max(low, file * file_entries)
    ceiling = min(high, (file + 1) * file_entries) - 1
    return _search_file(stamp, floor, ceiling, timestamp, upper=upper)


def _search_file(
    stamp: Callable[[int], int], floor: int, ceiling: int, timestamp: int, *, upper: bool
) -> int:
    """The same among the entries [floor, ceiling] of one file."""
    if stamp(ceiling) < timestamp:
        return ceiling if upper else ceiling + 1
    if stamp(floor) > timestamp:
        return floor
    low, high = before, after = floor, ceiling
    while low <= high:
        middle = (low + high) // 2
        found = stamp(middle)
        if found == timestamp:
            return (
                _last_equal(stamp, middle, ceiling) if upper else _first_equal(stamp, floor, middle)
            )
        if found < timestamp:
            before, low = middle, middle + 1
        else:
            after, high = middle, middle - 1
    return before if upper else after


def _first_equal(stamp: Callable[[int], int], floor: int, place: int) -> int:
    """First of the entries around `place` that have its stamp."""
    timestamp = stamp(place)
    for _ in range(WALK_MAX):
        if place == floor or stamp(place - 1) != timestamp:
            return place
        place -= 1
    return floor + bisect_left(range(floor, place), timestamp, key=stamp)


def _last_equal(stamp: Callable[[int], int], place: int, ceiling: int) -> int:
    """Last of the entries around `place` that have its stamp."""
    timestamp = stamp(place)
    for _ in range(WALK_MAX):
        if place == ceiling or stamp(place + 1) != timestamp:
            return place
        place += 1
    return place + bisect_right(range(place + 1, ceiling + 1), timestamp, key=stamp)

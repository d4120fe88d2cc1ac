"""Resets of offsets that an operator asked for and no consumer has adopted yet.

A reset sets a group's committed offset of a queue, and waits here until a consumer goes on from it:

    PENDING --(a consumer that was told reads or commits from the offset)--> gone
       '----(another reset of the same queue)--> PENDING

Until then, commits of the queue are answered with success and not taken: they come from a consumer
that does not know of the reset yet, and would undo it. Who is told, and how it adopts:

    pulls             21 and the offset, in the place of messages; then a pull from that offset by
                      the same connection (resetwatch.py)
    asks for the      the answer is the offset; then a pull from it
    offset (14)
    native client     220; it goes on from the offset and commits it at once

Pull consumers of Java keep the offset that they last committed beside the one they are at, and may
commit it again when they have gone back: their commits are not taken for SETTLE_MS more, in which
they replace it (every 5 s) and send it (every 5 s).

A reset outlives the broker, in config/offsetReset.json:

    {"dataVersion": ..., "resetTable": {"topic@group": {queue id: [offset, number]}}}

The number grows with every request that resets something; a consumer that has heard of a number
need not do the same again.

Source: RocketMQ broker/offset/ConsumerOffsetManager.assignResetOffset, which forgets a reset with
the first pull, when the consumer has not gone back yet, and with a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from shmq.broker import tablebodies
from shmq.broker.clients import ConnectionId
from shmq.broker.offsets import QUEUE_ID_MAX
from shmq.layout.offsetjournal import NAME_SIZE_MAX
from shmq.store.tables import TableFile
from shmq.units import SECOND_MS
from shmq.wire.internal import ResetView
from shmq.wire.route import DataVersion

FILE_NAME: Final = "offsetReset.json"
SETTLE_MS: Final = 12 * SECOND_MS
_SEPARATOR: Final = "@"


class Reset(msgspec.Struct):
    """One reset that waits."""

    offset: int
    number: int
    told: set[ConnectionId] = set()
    """Native clients that asked for the offset since: what they commit comes from there."""


class ResetsBody(msgspec.Struct, kw_only=True, rename="camel"):
    """offsetReset.json."""

    data_version: DataVersion = DataVersion()
    reset_table: dict[str, dict[int, tuple[int, int]]] = {}


class Resets:
    """Pending resets by group, topic and queue id. Its owner is the coordinator."""

    def __init__(self, *, file: TableFile, wall_ms: Callable[[], int]) -> None:
        self._file = file
        self._wall_ms = wall_ms
        self._table: dict[str, dict[tuple[str, int], Reset]] = {}
        self._settling: dict[tuple[str, str, int], int] = {}
        """Until when commits of a queue are not taken, ms, though its reset was adopted."""
        self._last_number = 0
        self._version = DataVersion()
        self.unsaved = False

    # Disk

    def load(self) -> None:
        """Take the table from disk.

        Raises:
            StoreError: it cannot be read.
        """
        body = self._file.load(lambda data: tablebodies.decode(data, ResetsBody)) or ResetsBody()
        self._version = body.data_version
        for key, queues in body.reset_table.items():
            topic, separator, group = key.partition(_SEPARATOR)
            if not separator or not _storable(topic) or not _storable(group):
                continue
            for queue_id, (offset, number) in queues.items():
                if 0 <= queue_id <= QUEUE_ID_MAX and offset >= 0:
                    self._put(group, topic, queue_id, Reset(offset, number))
                    self._last_number = max(self._last_number, number)

    def save(self) -> None:
        """Make the table durable.

        Raises:
            OSError: the table on disk is the one before.
        """
        self._version = tablebodies.next_version(self._version, self._wall_ms())
        table: dict[str, dict[int, tuple[int, int]]] = {}
        for group, topic, queue_id, reset in self.all():
            queues = table.setdefault(f"{topic}{_SEPARATOR}{group}", {})
            queues[queue_id] = (reset.offset, reset.number)
        self._file.replace(
            tablebodies.encode(ResetsBody(data_version=self._version, reset_table=table))
        )
        self.unsaved = False

    # Reading

    def get(self, group: str, topic: str, queue_id: int) -> Reset | None:
        """The reset that waits for a queue's consumer, or None."""
        return self._table.get(group, {}).get((topic, queue_id))

    def takes_commit(self, group: str, topic: str, queue_id: int) -> bool:
        """Whether what is committed is from after all resets."""
        key = (group, topic, queue_id)
        return self.get(*key) is None and key not in self._settling

    def all(self) -> Iterable[tuple[str, str, int, Reset]]:
        """Group, topic and queue id of each that waits."""
        for group, queues in self._table.items():
            for (topic, queue_id), reset in queues.items():
                yield group, topic, queue_id, reset

    def of_group(self, group: str) -> list[ResetView]:
        """What serve processes need of a group's."""
        return [
            ResetView(topic, queue_id, reset.offset, reset.number)
            for (topic, queue_id), reset in self._table.get(group, {}).items()
        ]

    # Changing

    def assign(self, group: str, topic: str, offsets: Mapping[int, int]) -> int:
        """Let resets wait, by queue id, in the place of earlier ones; their number."""
        self._last_number = max(self._last_number + 1, self._wall_ms())
        for queue_id, offset in offsets.items():
            assert 0 <= queue_id <= QUEUE_ID_MAX, "checked by the caller"
            assert offset >= 0, "checked by the caller"
            self._put(group, topic, queue_id, Reset(offset, self._last_number))
        self.unsaved = True
        return self._last_number

    def adopt(self, group: str, topic: str, queue_id: int, number: int) -> bool:
        """A consumer goes on from a reset; False when it waits no longer."""
        reset = self.get(group, topic, queue_id)
        if reset is None or reset.number != number:
            return False
        self._remove(group, [(topic, queue_id)])
        return True

    def settle(self, group: str, topic: str, queue_id: int, *, now_ms: int) -> None:
        """Take no commit for a while, as a pull consumer has adopted a reset."""
        self._settling[group, topic, queue_id] = now_ms + SETTLE_MS

    def tick(self, *, now_ms: int) -> None:
        """Let time pass."""
        for key in [key for key, until_ms in self._settling.items() if now_ms >= until_ms]:
            del self._settling[key]

    def remove_group(self, group: str) -> None:
        """Forget all resets of a group."""
        self._remove(group, list(self._table.get(group, {})))

    def remove_topic(self, topic: str) -> list[str]:
        """Forget all resets of a topic; the groups that had one."""
        groups = [
            group for group, queues in self._table.items() if any(key[0] == topic for key in queues)
        ]
        for group in groups:
            self._remove(group, [key for key in self._table[group] if key[0] == topic])
        return groups

    def _put(self, group: str, topic: str, queue_id: int, reset: Reset) -> None:
        self._table.setdefault(group, {})[topic, queue_id] = reset

    def _remove(self, group: str, keys: list[tuple[str, int]]) -> None:
        if not keys:
            return
        queues = self._table[group]
        for key in keys:
            del queues[key]
        if not queues:
            del self._table[group]
        self.unsaved = True


def _storable(name: str) -> bool:
    return 0 < len(name.encode()) <= NAME_SIZE_MAX

"""A small store with one topic, filled by real roles, and what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shmq.broker.lookups import Lookups
from shmq.broker.pull import PullResult, PullService
from shmq.broker.views import Views
from shmq.layout import record
from shmq.layout.control import Word
from shmq.layout.javahash import hash_code
from shmq.layout.record import Record
from shmq.reading import LogReader, QueueReader
from shmq.wire.internal import GroupUpdate, GroupView, Sub
from shmq.wire.properties import encode_properties
from shmq.wire.pull import SUBSCRIBE_ALL, PullHeader, Subscription, decode_pull
from tests.unit.broker_reads.sends import view, views_of
from tests.unit.serve.frames import pull_ext
from tests.unit.workers.house import House, encode, small_settings

TOPIC = "T"
START_MS = 1_000_000


def group(name: str = "G", **more: Any) -> GroupView:
    """What serve knows of a consume group."""
    values: dict[str, Any] = {
        "consume_enable": True,
        "consume_broadcast_enable": True,
        "broker_id": 0,
        "which_broker_when_consume_slowly": 1,
        "message_model": "CLUSTERING",
        "consume_type": "CONSUME_PASSIVELY",
        "retry_queue_nums": 1,
        "retry_max_times": 16,
        "online": True,
        "subscriptions": [Sub(TOPIC, "TAG", "A || B", [hash_code("A"), hash_code("B")], 5)],
        "holds_locks": False,
    }
    return GroupView(name=name, **(values | more))


class Store:
    """House, readers and services; messages are stored by writer, flush and dispatch."""

    def __init__(
        self, folder: Path, *, house: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        self.settings = small_settings(folder, **settings)
        self.house = House(folder, settings=self.settings, **(house or {}))
        self.arena = self.house.arena
        slots = [self.house.slot(TOPIC, queue_id) for queue_id in range(4)]
        self.views: Views = views_of(view(TOPIC, slots=slots))
        self.views.take_groups(GroupUpdate([group()]))
        self.slot = slots[0]
        self.writer = self.house.writer()
        self.flush = self.house.flush()
        self.dispatch = self.house.dispatch()
        self.queue_reader: QueueReader = self.house.queue_reader()
        self.log_reader: LogReader = self.house.log_reader()
        self.pulls = PullService(
            settings=self.settings,
            arena=self.arena,
            views=self.views,
            queue_reader=self.queue_reader,
            log_reader=self.log_reader,
        )
        self.lookups = Lookups(
            views=self.views,
            queues=self.arena.queues,
            queue_reader=self.queue_reader,
            log_reader=self.log_reader,
        )
        self.now_ms = START_MS

    def put(
        self,
        *bodies: bytes,
        tag: str = "",
        queue_id: int = 0,
        now_ms: int = 0,
        visible: bool = True,
        properties: dict[str, str] | None = None,
        **fields: Any,
    ) -> None:
        """Store messages, each in an entry of its own; `fields` are those of their records."""
        self.now_ms = max(self.now_ms, now_ms)
        slot = self.house.slot(TOPIC, queue_id)
        text = encode_properties((properties or {}) | ({"TAGS": tag} if tag else {}))
        for body in bodies:
            self.house.producer.submit(
                slot,
                encode(TOPIC, body, queue_id=queue_id, properties=text, **fields),
                code=hash_code(tag) if tag else 0,
            )
            self.writer.step(self.now_ms)
            self.flush.step(self.now_ms)
            if visible:
                self.dispatch.step(self.now_ms)
        assert self.house.producer.waiting == 0

    def set_word(self, word: Word, value: int) -> None:
        """Publish a word, as its owner would."""
        self.arena.writer(word, role="boot").publish(value)

    def pull(
        self, offset: int = 0, *, subscription: Subscription = SUBSCRIBE_ALL, **fields: Any
    ) -> PullResult:
        """Execute a pull of queue 0."""
        return self.pulls.execute(pull_header(offset, **fields), self.slot, subscription)

    def close(self) -> None:
        """Close the roles' files and remove the segments."""
        self.flush.close()
        self.dispatch.close()
        self.house.close()


def pull_header(offset: int = 0, **fields: Any) -> PullHeader:
    """Header of a pull of queue 0 by group G."""
    return decode_pull(pull_ext(offset=offset, **fields))


def records_in(body: bytes | bytearray) -> list[Record]:
    """The records of an answer, one after the other and nothing else."""
    found: list[Record] = []
    at = 0
    while at < len(body):
        one = record.decode(bytes(body), at)
        found.append(one)
        at += one.size
    return found


def bodies_in(result: PullResult) -> list[bytes]:
    """Bodies of the messages of an answer."""
    found = records_in(result.body)
    assert len(found) == result.message_count
    assert np.all(np.diff([one.queue_offset for one in found]) > 0)
    return [one.body for one in found]

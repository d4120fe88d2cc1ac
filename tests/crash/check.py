"""What must hold of a store after any crash, seen through a live broker."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

from shmq.wire.codes import RequestCode
from tests.crash.load import Consumer, Producer, take_records
from tests.crash.peer import Address, Peer, eventually, pull_fields


def read_queue(peer: Peer, topic: str, queue_id: int, *, group: str = "check") -> list[bytes]:
    """Digests of all messages of a queue, by queue offset; offsets are found dense."""
    digests: list[bytes] = []
    end = peer.max_offset(topic, queue_id)
    while len(digests) < end:
        fields = pull_fields(topic, queue_id, len(digests), group=group, count=512)
        take_records(peer.ask_ok(RequestCode.PULL_MESSAGE, fields).body, topic, queue_id, digests)
    return digests


def await_dispatched(peer: Peer, producers: Sequence[Producer]) -> None:
    """What is acknowledged is stored; readers see it when it is dispatched, soon after."""
    last: dict[tuple[str, int], int] = {}
    for producer in producers:
        for acked in producer.acked:
            queue = producer.topic, acked.queue_id
            last[queue] = max(last.get(queue, -1), acked.queue_offset)
    for (topic, queue_id), offset in last.items():
        eventually(
            f"{topic} {queue_id} up to the acknowledged offset {offset}",
            lambda topic=topic, queue_id=queue_id, offset=offset: (  # type: ignore[misc]
                peer.max_offset(topic, queue_id) > offset
            ),
            timeout_s=5,
        )


def check_store(
    address: Address, producers: Sequence[Producer], consumers: Iterable[Consumer] = ()
) -> None:
    """All acknowledged messages are where they were acknowledged; nothing is there twice.

    `producers` are all that have ever sent to their one topic; `consumers` have read it.
    """
    topic, queue_count = producers[0].topic, producers[0].queue_count
    with Peer(address, timeout_s=30) as peer:
        await_dispatched(peer, producers)
        queues = [read_queue(peer, topic, queue_id) for queue_id in range(queue_count)]
    for producer in producers:
        assert producer.topic == topic
        assert producer.acked, f"{producer.name} had nothing acknowledged"
        for acked in producer.acked:
            queue = queues[acked.queue_id]
            assert acked.queue_offset < len(queue), ("lost", len(queue), acked)
            assert queue[acked.queue_offset] == acked.digest, ("other content", acked)
    counts = collections.Counter(digest for queue in queues for digest in queue)
    assert max(counts.values()) == 1, [item for item in counts.most_common(3) if item[1] > 1]
    sent = set().union(*(producer.sent for producer in producers))
    assert counts.keys() <= sent, "a message that nobody sent"
    for consumer in consumers:
        for seen, queue in zip(consumer.digests, queues, strict=True):
            assert seen == queue[: len(seen)], "a consumer saw something else"

"""Messages to send, and comparisons of what was sent with what came."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from tests.compat.drivers import Client, Message, Received, Sent, await_messages, gather

KIB: Final = 1024


def some_messages(topic: str, count: int, *, prefix: str = "m") -> list[Message]:
    """Small messages that differ in everything; tags are tag0, tag1, tag2 in turn."""
    return [
        Message(
            topic=topic,
            body=f"{prefix}-{number}-héllo".encode(),
            tags=f"tag{number % 3}",
            keys=f"key-{prefix}-{number}",
            properties={"number": str(number), "ünïcode": "价值"},
            flag=number,
        )
        for number in range(count)
    ]


def noise(size: int, *, seed: int) -> bytes:
    """Bytes that no compression makes smaller."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - no secret


def assert_same(sent: Iterable[Message], got: Sequence[Received]) -> None:
    """Each message was received once, with body, tags, keys and properties as they were sent."""
    wanted = list(sent)
    by_digest = {message.sha256: message for message in got}
    due = Counter(message.sha256 for message in wanted)
    came = Counter(message.sha256 for message in got)
    missing = [message for message in wanted if came[message.sha256] < due[message.sha256]]
    extra = [message for message in got if came[message.sha256] > due[message.sha256]]
    assert not missing, f"{len(missing)} messages did not come: {missing[:3]}"
    assert not extra, f"{len(extra)} messages came more than once: {extra[:4]}"
    assert len({message.place for message in got}) == len(got)
    for message in wanted:
        found = by_digest[message.sha256]
        assert found.topic == message.topic
        assert found.length == len(message.body)
        assert (found.tags or "", found.keys or "") == (message.tags, message.keys)
        assert message.properties.items() <= found.properties.items()
        assert found.flag == message.flag
        assert found.reconsume_times == 0
        assert found.born_timestamp <= found.store_timestamp + 1000


def assert_matches(results: list[Sent], sent: list[Message], got: list[Received]) -> None:
    """What the sends gave back is where the messages were found."""
    assert all(result.ok for result in results)
    by_digest = {message.sha256: message for message in got}
    for result, message in zip(results, sent, strict=True):
        found = by_digest[message.sha256]
        assert (result.queue_id, result.queue_offset) == (found.queue_id, found.queue_offset)
        assert result.offset_msg_id == found.offset_msg_id
        assert result.msg_id == found.uniq_key


def assert_in_order(got: Iterable[Received]) -> None:
    """Each queue's messages came in the order of the queue, without gaps or repetition."""
    by_queue: dict[tuple[str, int], list[int]] = defaultdict(list)
    for message in got:
        by_queue[message.topic, message.queue_id].append(message.queue_offset)
    for queue, offsets in by_queue.items():
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), queue


def fenced(
    producer: Client, topic: str, sent: Iterable[Message], *, queues: int = 4
) -> list[Message]:
    """Send one last message into each queue; all that a consumer must have then.

    A consumer that has the last ones has had its chance to show what must not come.
    """
    fence = []
    for queue_id in range(queues):
        last = Message(topic=topic, body=f"fence {topic} {queue_id}".encode(), tags="tag0")
        assert producer.send(last, queue_id=queue_id)[0].ok
        fence.append(last)
    return [*sent, *fence]


def expect(
    consumers: Sequence[Client], sent: Iterable[Message], *, timeout_s: float = 60.0
) -> list[Received]:
    """Wait until `consumers` together have each message of `sent` once, and no other."""
    wanted = list(sent)
    got = gather(consumers, len(wanted), timeout_s=timeout_s)
    assert_same(wanted, got)
    return got


def await_all(consumers: Sequence[Client], sent: Iterable[Message]) -> None:
    """Wait until `consumers` together have each message of `sent`, once or more."""
    wanted = {message.sha256 for message in sent}
    await_messages(consumers, lambda got: wanted <= {m.sha256 for m in got}, "what was sent")

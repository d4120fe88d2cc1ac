"""What a broker shows of its store, asked for with plain requests, and messages of many kinds.

Works the same with Apache's broker of any version and with ours: two brokers on one store must show
the same records, byte by byte, at the same offsets, and the same topics, groups and offsets.
"""

from __future__ import annotations

import itertools
import json
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from tests.compat.ask import SUCCESS, Answer, ask, loose_json
from tests.compat.messages import KIB, noise
from tests.compat.processes import eventually

SEND_MESSAGE: Final = 10
PULL_MESSAGE: Final = 11
UPDATE_CONSUMER_OFFSET: Final = 15
CREATE_TOPIC: Final = 17
ALL_TOPICS: Final = 21
MAX_OFFSET: Final = 30
MIN_OFFSET: Final = 31
ALL_OFFSETS: Final = 43
CREATE_GROUP: Final = 200
ALL_GROUPS: Final = 201
DELETE_TOPIC: Final = 215

FOUND: Final = 0
NOT_THERE: Final = 17  # TOPIC_NOT_EXIST
HAS_SUBSCRIPTION: Final = 0x4
COMPRESSED: Final = 0x1
PREPARED: Final = 0x4
READ_WRITE: Final = 6
READER: Final = "GID_store_reader"

TEMPLATE: Final = "TBW102"


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker shows of its store."""

    records: dict[tuple[str, int], list[bytes]]
    """Of each queue, from its first to its last."""
    bounds: dict[tuple[str, int], tuple[int, int]]
    topics: dict[str, tuple[int, int, int]]
    """Read queues, write queues, permission."""
    groups: dict[str, tuple[bool, bool, int]]
    """Whether it may consume, and broadcast; retries at most."""
    offsets: dict[str, dict[int, int]]

    @property
    def count(self) -> int:
        """Number of records."""
        return sum(map(len, self.records.values()))


def fine(answer: Answer) -> Answer:
    """The answer, which is no refusal."""
    assert answer.code == SUCCESS, answer
    return answer


def properties_text(properties: Mapping[str, str]) -> str:
    """Properties as they travel."""
    return "".join(f"{name}\x01{value}\x02" for name, value in properties.items())


def send(
    address: str,
    topic: str,
    body: bytes,
    *,
    queue_id: int = 0,
    properties: Mapping[str, str] | None = None,
    flag: int = 0,
    sys_flag: int = 0,
    batch: bool = False,
) -> int:
    """Send one message, or an encoded batch; its queue offset."""
    fields = {
        "producerGroup": "PID_store",
        "topic": topic,
        "defaultTopic": TEMPLATE,
        "defaultTopicQueueNums": 4,
        "queueId": queue_id,
        "sysFlag": sys_flag,
        "bornTimestamp": time.time_ns() // 1_000_000,
        "flag": flag,
        "properties": properties_text(properties or {}),
        "reconsumeTimes": 0,
        "unitMode": "false",
        "batch": str(batch).lower(),
        "maxReconsumeTimes": 16,
    }
    return int(fine(ask(address, SEND_MESSAGE, fields, body)).fields["queueOffset"])


def encoded_batch(bodies: Iterable[bytes], properties: Mapping[str, str]) -> bytes:
    """Body of a batch, each message with the same properties."""
    text = properties_text(properties).encode()
    pieces = []
    for flag, body in enumerate(bodies):
        size = 4 * 5 + len(body) + 2 + len(text)
        pieces.append(
            struct.pack(">5i", size, 0, zlib.crc32(body) & 0x7FFFFFFF, flag, len(body))
            + body
            + struct.pack(">h", len(text))
            + text
        )
    return b"".join(pieces)


def send_many_kinds(address: str, topic: str, *, seed: int) -> int:
    """Fill queues 0 to 3 of `topic` with about 2 MiB; the number of messages."""
    sent = 0
    for number in range(8):
        properties = {
            "UNIQ_KEY": f"7F0000010000{seed:08X}{number:012X}",
            "KEYS": f"key{number} key{number + 1}",
            "TAGS": ("TagA", "TagB", "Ünï-价值-🚀", "Aa", "BB")[number % 5],
            "number": str(number),
            "ünïcode": "价值 🚀",
            "WAIT": "false" if number % 2 else "true",
        }
        body = (b"", b"x", bytes(range(256)), "héllo".encode())[number % 4] or b"first"
        send(
            address,
            topic,
            body + str(number).encode(),
            queue_id=number % 4,
            properties=properties,
            flag=number,
        )
        sent += 1
    packed = zlib.compress(b"much the same " * 1000)
    send(address, topic, packed, queue_id=1, sys_flag=COMPRESSED, properties={"TAGS": "packed"})
    send(address, topic, b"long", queue_id=2, properties={"long": "v" * 20_000})
    send(address, topic, b"plain", queue_id=3)
    for number in range(8):  # Past the end of a commitlog file, so that it ends with a blank.
        send(address, topic, noise(200 * KIB + number, seed=seed + number), queue_id=number % 4)
    for number in range(4):  # Past the end of a consumequeue file.
        bodies = [f"batch {seed} {number} {one}".encode() for one in range(100)]
        batch = encoded_batch(bodies, {"TAGS": "batched", "KEYS": f"b{number}"})
        send(address, topic, batch, queue_id=number % 2, batch=True)
    return sent + 3 + 8 + 400


def create_topic(address: str, topic: str, *, queues: int) -> None:
    """Create or change a topic."""
    fields = {
        "topic": topic,
        "defaultTopic": TEMPLATE,
        "readQueueNums": queues,
        "writeQueueNums": queues,
        "perm": READ_WRITE,
        "topicFilterType": "SINGLE_TAG",
        "topicSysFlag": 0,
        "order": "false",
    }
    fine(ask(address, CREATE_TOPIC, fields))


def delete_topic(address: str, topic: str) -> None:
    """Delete a topic."""
    fine(ask(address, DELETE_TOPIC, {"topic": topic}))


def create_group(address: str, group: str, **config: object) -> None:
    """Create or change a consumer group; `config` by the names of its JSON."""
    body = json.dumps({"groupName": group, **config}).encode()
    fine(ask(address, CREATE_GROUP, body=body))


def commit(address: str, group: str, topic: str, queue_id: int, offset: int) -> None:
    """Commit a consumer's offset."""
    fields = {
        "consumerGroup": group,
        "topic": topic,
        "queueId": queue_id,
        "commitOffset": offset,
    }
    fine(ask(address, UPDATE_CONSUMER_OFFSET, fields))


def bounds(address: str, topic: str, queue_id: int) -> tuple[int, int]:
    """Min and max offset of a queue."""
    fields = {"topic": topic, "queueId": queue_id}
    lowest = int(fine(ask(address, MIN_OFFSET, fields)).fields["offset"])
    return lowest, int(fine(ask(address, MAX_OFFSET, fields)).fields["offset"])


def read_queue(address: str, topic: str, queue_id: int) -> list[bytes]:
    """All records of a queue, as they are in the commitlog."""
    offset, end = bounds(address, topic, queue_id)
    records: list[bytes] = []
    first = offset
    while offset < end:
        fields = {
            "consumerGroup": READER,
            "topic": topic,
            "queueId": queue_id,
            "queueOffset": offset,
            "maxMsgNums": 32,
            "sysFlag": HAS_SUBSCRIPTION,
            "commitOffset": 0,
            "suspendTimeoutMillis": 0,
            "subscription": "*",
            "subVersion": 0,
            "expressionType": "TAG",
        }
        answer = ask(address, PULL_MESSAGE, fields)
        assert answer.code == FOUND, (topic, queue_id, offset, end, answer)
        records += split(answer.body)
        offset = int(answer.fields["nextBeginOffset"])
        assert offset == first + len(records), (topic, queue_id, offset, first, len(records))
    return records


def split(data: bytes) -> list[bytes]:
    """The records that lie back to back in an answer."""
    records = []
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from(">i", data, at)
        records.append(data[at : at + size])
        at += size
    return records


def topics_shown(address: str) -> dict[str, tuple[int, int, int]]:
    """The topics of a broker."""
    table = loose_json(fine(ask(address, ALL_TOPICS)).body)["topicConfigTable"]
    return {
        name: (config["readQueueNums"], config["writeQueueNums"], config["perm"])
        for name, config in table.items()
    }


def groups_shown(address: str) -> dict[str, tuple[bool, bool, int]]:
    """The consumer groups of a broker."""
    table = loose_json(fine(ask(address, ALL_GROUPS)).body)["subscriptionGroupTable"]
    return {
        name: (
            config["consumeEnable"],
            config["consumeBroadcastEnable"],
            config["retryMaxTimes"],
        )
        for name, config in table.items()
    }


def offsets_shown(address: str) -> dict[str, dict[int, int]]:
    """What consumers have committed."""
    table: dict[str, dict[str, Any]] = loose_json(fine(ask(address, ALL_OFFSETS)).body)[
        "offsetTable"
    ]
    return {
        name: {int(queue_id): int(offset) for queue_id, offset in queues.items()}
        for name, queues in table.items()
    }


def show(address: str, names: Iterable[str], *, groups: Iterable[str]) -> Shown:
    """What a broker shows of these topics and groups, as far as it has them."""
    topics = topics_shown(address)
    there = [name for name in names if name in topics]
    queues = [(name, queue_id) for name in there for queue_id in range(topics[name][0])]
    all_groups, offsets = groups_shown(address), offsets_shown(address)
    return Shown(
        records={queue: read_queue(address, *queue) for queue in queues},
        bounds={queue: bounds(address, *queue) for queue in queues},
        topics={name: topics[name] for name in there},
        groups={name: all_groups[name] for name in groups if name in all_groups},
        offsets={
            f"{topic}@{group}": offsets[f"{topic}@{group}"]
            for topic, group in itertools.product(there, groups)
            if f"{topic}@{group}" in offsets
        },
    )


def await_end(address: str, topic: str, queue_id: int, end: int) -> None:
    """Wait until a queue's end is shown, that is, until what was sent is dispatched."""
    eventually(
        f"{topic}/{queue_id} ends at {end}",
        lambda: bounds(address, topic, queue_id)[1] >= end,
        timeout_s=10,
    )
    assert bounds(address, topic, queue_id)[1] == end

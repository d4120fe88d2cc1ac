"""A small blocking remoting client for what the harness itself asks of a broker.

It shares no code with shmq, so that a mistake there cannot hide here.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

FRAME_SIZE_MAX = 16 * 1024 * 1024
ANSWER_TIMEOUT_S = 30.0

SEND_MESSAGE_V2 = 310
QUERY_CONSUMER_OFFSET = 14
UPDATE_CONSUMER_OFFSET = 15
UPDATE_AND_CREATE_TOPIC = 17
GET_MAX_OFFSET = 30
HEART_BEAT = 34
GET_ROUTE = 105
UPDATE_AND_CREATE_GROUP = 200

OK = 0
OFFSET_NOT_FOUND = 22


class PeerError(Exception):
    """A broker or a client did not do what the run needs; the run's figures would mean nothing."""


@dataclass(frozen=True)
class Answer:
    """What a broker or name server answered."""

    code: int
    remark: str
    ext: dict[str, str]
    body: bytes


def _decode(header: bytes, *, binary: bool) -> tuple[int, int, int, str, dict[str, str]]:
    """Code, opaque, flag, remark and ext fields of an answer's header."""
    if not binary:
        fields = json.loads(header)
        ext = fields.get("extFields") or {}
        return fields["code"], fields["opaque"], fields["flag"], fields.get("remark") or "", ext
    code, _language, _version, opaque, flag, remark_size = struct.unpack_from(">hbhiii", header)
    remark = header[17 : 17 + remark_size].decode()
    at = 17 + remark_size + 4
    ext = {}
    while at < len(header):
        (key_size,) = struct.unpack_from(">h", header, at)
        key = header[at + 2 : at + 2 + key_size].decode()
        at += 2 + key_size
        (value_size,) = struct.unpack_from(">i", header, at)
        ext[key] = header[at + 4 : at + 4 + value_size].decode()
        at += 4 + value_size
    return code, opaque, flag, remark, ext


class Peer:
    """One connection to a broker or name server; one request at a time."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._opaque = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, code: int, ext: dict[str, Any] | None = None, body: bytes = b"") -> Answer:
        """Send one request and wait for its answer; whatever else arrives meanwhile is dropped."""
        self._opaque += 1
        fields = {key: str(value) for key, value in (ext or {}).items()}
        header = json.dumps(
            {
                "code": code,
                "extFields": fields,
                "flag": 0,
                "language": "JAVA",
                "opaque": self._opaque,
                "serializeTypeCurrentRPC": "JSON",
                "version": 513,
            },
            separators=(",", ":"),
        ).encode()
        head = struct.pack(">II", 4 + len(header) + len(body), len(header))
        self._socket.sendall(head + header + body)
        while True:
            answer = self._read()
            if answer is not None:
                return answer

    def ask_ok(self, code: int, ext: dict[str, Any] | None = None, body: bytes = b"") -> Answer:
        """`ask`, and an error unless the answer's code is 0."""
        answer = self.ask(code, ext, body)
        if answer.code != OK:
            msg = f"request {code} {ext}: answered {answer.code}, 0 was needed: {answer.remark}"
            raise PeerError(msg)
        return answer

    def _read(self) -> Answer | None:
        total, kind = struct.unpack(">II", self._read_exactly(8))
        header_size = kind & 0xFFFFFF
        if not 4 + header_size <= total <= FRAME_SIZE_MAX:
            msg = f"an answer with the lengths {total} and {header_size}: at most {FRAME_SIZE_MAX}"
            raise PeerError(msg)
        header = self._read_exactly(header_size)
        body = self._read_exactly(total - 4 - header_size)
        code, opaque, flag, remark, ext = _decode(header, binary=kind >> 24 == 1)
        if not flag & 1 or opaque != self._opaque:
            return None
        return Answer(code, remark, ext, body)

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                msg = f"the connection was closed after {len(data)} of {size} bytes of an answer"
                raise PeerError(msg)
            data += piece
        return bytes(data)

    # What the scenarios ask.

    def create_topic(self, topic: str, queue_count: int) -> None:
        """Create or change a topic."""
        self.ask_ok(
            UPDATE_AND_CREATE_TOPIC,
            {
                "topic": topic,
                "defaultTopic": "TBW102",
                "readQueueNums": queue_count,
                "writeQueueNums": queue_count,
                "perm": 6,
                "topicFilterType": "SINGLE_TAG",
                "topicSysFlag": 0,
                "order": "false",
            },
        )

    def max_offset(self, topic: str, queue_count: int) -> int:
        """Messages ever stored in a topic: the sum of its queues' max offsets."""
        answers = (
            self.ask_ok(GET_MAX_OFFSET, {"topic": topic, "queueId": queue_id, "committed": "true"})
            for queue_id in range(queue_count)
        )
        return sum(int(answer.ext["offset"]) for answer in answers)

    def consumed(self, group: str, topic: str, queue_count: int) -> int:
        """The sum of a group's committed offsets; a queue without one counts 0."""
        total = 0
        for queue_id in range(queue_count):
            ext = {"consumerGroup": group, "topic": topic, "queueId": queue_id}
            answer = self.ask(QUERY_CONSUMER_OFFSET, ext)
            if answer.code not in {OK, OFFSET_NOT_FOUND}:
                msg = f"offset of {group} {topic} {queue_id}: answered {answer.code}"
                raise PeerError(f"{msg}: {answer.remark}")
            total += int(answer.ext.get("offset", "0")) if answer.code == OK else 0
        return total

    def create_group(self, group: str) -> None:
        """Create a consume group with the defaults of RocketMQ."""
        config = {
            "groupName": group,
            "consumeEnable": True,
            "consumeFromMinEnable": True,
            "consumeBroadcastEnable": True,
            "retryQueueNums": 1,
            "retryMaxTimes": 16,
            "brokerId": 0,
            "whichBrokerWhenConsumeSlowly": 1,
            "notifyConsumerIdsChangedEnable": True,
        }
        self.ask_ok(UPDATE_AND_CREATE_GROUP, body=json.dumps(config).encode())

    def rewind(self, group: str, topic: str, queue_count: int) -> None:
        """Let a group begin at the first message of every queue."""
        self.create_group(group)
        for queue_id in range(queue_count):
            ext = {"consumerGroup": group, "topic": topic, "queueId": queue_id, "commitOffset": 0}
            self.ask_ok(UPDATE_CONSUMER_OFFSET, ext)

    def send(self, topic: str, body: bytes, queue_id: int = 0) -> Answer:
        """Send one message; the answer is not judged."""
        now_ms = time.time_ns() // 1_000_000
        ext = {"a": "harness", "b": topic, "c": "TBW102", "d": 4, "e": queue_id, "f": 0}
        ext |= {"g": now_ms, "h": 0, "i": "WAIT\u0001true\u0002", "j": 0, "k": "false"}
        return self.ask(SEND_MESSAGE_V2, ext | {"m": "false"}, body)

    def heartbeat(self, client_id: str, group: str, topic: str) -> None:
        """Say, as a push consumer does, that this connection consumes a topic."""
        subscription = {"topic": topic, "subString": "*", "subVersion": 1, "expressionType": "TAG"}
        consumer = {
            "groupName": group,
            "consumeType": "CONSUME_PASSIVELY",
            "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "subscriptionDataSet": [
                subscription | {"tagsSet": [], "codeSet": [], "classFilterMode": False},
            ],
            "unitMode": False,
        }
        body = {
            "clientID": client_id,
            "consumerDataSet": [consumer],
            "producerDataSet": [],
            "heartbeatFingerprint": 0,
            "withoutSub": False,
        }
        self.ask_ok(HEART_BEAT, body=json.dumps(body).encode())

    def has_route(self, topic: str) -> bool:
        """Whether a name server knows a broker for the topic."""
        return self.ask(GET_ROUTE, {"topic": topic}).code == OK

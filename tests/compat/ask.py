"""Plain requests to a broker or name server, for what no client shows.

Frames are made and read here by hand, not with the code under test.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from typing import Any, Final

import msgspec

QUERY_CONSUMER_OFFSET: Final = 14
GET_CONSUMER_LIST_BY_GROUP: Final = 38
LOCK_BATCH_MQ: Final = 41
ROUTE_BY_TOPIC: Final = 105
SUCCESS: Final = 0
NOT_FOUND: Final = 22
TIMEOUT_S: Final = 10.0


class Answer(msgspec.Struct, frozen=True):
    """What came back."""

    code: int
    remark: str
    fields: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, where it is plain JSON."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


def loose_json(data: bytes) -> dict[str, Any]:
    """JSON whose keys may be numbers without quotes, as Apache writes broker ids."""
    decoded: dict[str, Any] = json.loads(re.sub(rb"([{,])\s*(\d+)\s*:", rb'\1"\2":', data))
    return decoded


def host_and_port(address: str) -> tuple[str, int]:
    """Parts of host:port, without the brackets of an IPv6 host."""
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def ask(
    address: str, code: int, fields: dict[str, object] | None = None, body: bytes = b""
) -> Answer:
    """Send one request over a connection of its own; the answer."""
    header = json.dumps(
        {
            "code": code,
            "flag": 0,
            "language": "JAVA",
            "opaque": 7,
            "serializeTypeCurrentRPC": "JSON",
            "version": 453,
            "extFields": {name: str(value) for name, value in (fields or {}).items()},
        }
    ).encode()
    with socket.create_connection(host_and_port(address), timeout=TIMEOUT_S) as connection:
        size = 4 + len(header) + len(body)
        connection.sendall(struct.pack(">ii", size, len(header)) + header + body)
        (size,) = struct.unpack(">i", _exactly(connection, 4))
        frame = _exactly(connection, size)
    header_size = int.from_bytes(frame[1:4], "big")
    assert frame[0] == 0, "a JSON header, as in the request"
    told = json.loads(frame[4 : 4 + header_size])
    assert told["opaque"] == 7
    return Answer(
        told["code"],
        told.get("remark") or "",
        told.get("extFields") or {},
        frame[4 + header_size :],
    )


def members(address: str, group: str) -> list[str]:
    """Client ids of a consumer group, none where the broker does not know it."""
    answer = ask(address, GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": group})
    return sorted(answer.json["consumerIdList"]) if answer.code == SUCCESS else []


def committed(address: str, group: str, topic: str, queue_id: int) -> int | None:
    """The group's offset in one queue, as the broker has it."""
    answer = ask(
        address,
        QUERY_CONSUMER_OFFSET,
        {
            "consumerGroup": group,
            "topic": topic,
            "queueId": queue_id,
            "setZeroIfNotFound": "false",
        },
    )
    if answer.code == NOT_FOUND:
        return None
    assert answer.code == SUCCESS, answer
    return int(answer.fields["offset"])


def try_lock(address: str, group: str, client_id: str, topic: str, queue_id: int) -> bool:
    """Whether the broker gives `client_id` the lock of one queue."""
    queue = {"brokerName": "compat-broker", "queueId": queue_id, "topic": topic}
    wanted = {"consumerGroup": group, "clientId": client_id, "mqSet": [queue]}
    answer = ask(address, LOCK_BATCH_MQ, body=json.dumps(wanted).encode())
    assert answer.code == SUCCESS, answer
    return queue in answer.json["lockOKMQSet"]


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, f"closed after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)

"""Sends as requests of the remoting protocol: the ProducerPath of every address but shared memory.

A header is put together from text that is the same for all messages of a topic and group; its keys
stand in Java's order, which the broker's compiled parser takes.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import orjson

from shmq.client.address import Endpoint
from shmq.client.flow import Done, call_safely
from shmq.client.model import SendStatus
from shmq.client.pool import Pool
from shmq.client.prepare import Prepared
from shmq.client.route import FALLBACK_QUEUES_MAX, FALLBACK_TOPIC
from shmq.client.transport import Stored, Submission
from shmq.errors import ClientError, ProtocolError, Refused
from shmq.units import KiB
from shmq.wire.codes import RequestCode
from shmq.wire.frame import Frame
from shmq.wire.header import FLAG_ONEWAY, OUR_LANGUAGE, OUR_VERSION
from shmq.wire.send import BATCH_MESSAGE_SIZE_MIN

STORED_CODES: Final = frozenset(SendStatus)
COPY_SIZE_MAX: Final = 16 * KiB
"""A body larger than this is handed to the socket as it is, without being copied."""
_TAIL: Final = b'","j":"0","k":"false","m":"%b","n":"%b"},"flag":%d,"language":"%b","opaque":%d,'
_END: Final = b'"serializeTypeCurrentRPC":"JSON","version":%d}' % OUR_VERSION
_BATCH_HEAD: Final = struct.Struct(">iiiii")


class RemotingProducerPath:
    """Sends over the connections of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def submit(self, submission: Submission, done: Done[Stored]) -> None:
        """Send, with an answer."""
        try:
            connection = self._pool.get(submission.endpoint)
        except ClientError as error:
            call_safely(done, error)
            return
        opaque = connection.next_opaque()
        code, pieces = encode(submission, opaque, flag=0)

        def answered(outcome: Frame | Exception) -> None:
            done(outcome if isinstance(outcome, Exception) else _stored(outcome, submission))

        connection.submit(opaque, code, pieces, timeout=submission.timeout, done=answered)

    def submit_oneway(self, submission: Submission) -> ClientError | None:
        """Send, without an answer."""
        try:
            connection = self._pool.get(submission.endpoint)
        except ClientError as error:
            return error
        _code, pieces = encode(submission, connection.next_opaque(), flag=FLAG_ONEWAY)
        return connection.send_oneway(pieces)

    def is_full(self, endpoint: Endpoint) -> bool:
        """Whether much waits to be written."""
        try:
            return self._pool.get(endpoint).is_full
        except ClientError:
            return False

    def await_room(self, endpoint: Endpoint, timeout: float) -> None:
        """Wait until less waits to be written."""
        try:
            connection = self._pool.get(endpoint)
        except ClientError:
            return
        connection.await_room(timeout)


def encode(
    submission: Submission, opaque: int, *, flag: int
) -> tuple[int, list[bytes | memoryview]]:
    """Code of a send, and its frame in pieces."""
    queue = submission.queue
    first = submission.messages[0]
    if submission.is_batch:
        code = RequestCode.SEND_BATCH_MESSAGE
        body: bytes | memoryview = join(submission.messages)
        sys_flag, message_flag, is_batch = 0, 0, b"true"
        properties = first.properties
    else:
        code = RequestCode.SEND_MESSAGE_V2
        body = first.body if isinstance(first.body, bytes) else memoryview(first.body).cast("B")
        sys_flag, message_flag, is_batch = first.sys_flag, first.flag, b"false"
        properties = first.properties
    begin, broker = _fixed_part(code, submission.group, queue.topic, queue.broker)
    header = b"".join(
        (
            begin,
            b'"e":"%d","f":"%d","g":"%d","h":"%d","i":'
            % (queue.queue_id, sys_flag, int(time.time() * 1000), message_flag),
            orjson.dumps(properties)[:-1],
            _TAIL % (is_batch, broker, flag, OUR_LANGUAGE.encode(), opaque),
            _END,
        )
    )
    size = len(header)
    prefix = (4 + size + len(body)).to_bytes(4, "big") + size.to_bytes(4, "big")
    if len(body) <= COPY_SIZE_MAX:
        return code, [b"".join((prefix, header, body))]
    return code, [prefix + header, body]


@lru_cache(maxsize=1024)
def _fixed_part(code: int, group: str, topic: str, broker: str) -> tuple[bytes, bytes]:
    """Begin of the header, and the broker's name as it stands in JSON."""
    begin = b'{"code":%d,"extFields":{"a":%b,"b":%b,"c":"%b","d":"%d",' % (
        code,
        orjson.dumps(group),
        orjson.dumps(topic),
        FALLBACK_TOPIC.encode(),
        FALLBACK_QUEUES_MAX,
    )
    return begin, orjson.dumps(broker)[1:-1]


def join(messages: Sequence[Prepared]) -> bytes:
    """Body of a batch; see wire.send for its table."""
    parts: list[bytes | bytearray | memoryview] = []
    pack = _BATCH_HEAD.pack
    for body, text, _unique_id, flag, _sys_flag in messages:
        properties = text.encode()
        body_size = body.nbytes if isinstance(body, memoryview) else len(body)
        properties_size = len(properties)
        size = BATCH_MESSAGE_SIZE_MIN + body_size + properties_size
        parts += (
            pack(size, 0, 0, flag, body_size),
            body,
            properties_size.to_bytes(2, "big"),
            properties,
        )
    return b"".join(parts)


def _stored(frame: Frame, submission: Submission) -> Stored | Exception:
    """What the answer to a send says."""
    header = frame.header
    address = str(submission.endpoint)
    if header.code not in STORED_CODES:
        return Refused(
            "send refused",
            code=header.code,
            remark=header.remark or "",
            topic=submission.queue.topic,
            address=address,
        )
    ext = header.ext
    try:
        stored = Stored(
            SendStatus(header.code),
            int(ext["queueId"]),
            int(ext["queueOffset"]),
            ext.get("msgId", "").split(","),
        )
    except (KeyError, ValueError):
        return ProtocolError("answer to a send without its fields", address=address, found=ext)
    if len(stored.offset_ids) != len(submission.messages):
        return ProtocolError(
            "answer to a batch with another number of ids",
            address=address,
            found=len(stored.offset_ids),
            expected=len(submission.messages),
        )
    return stored

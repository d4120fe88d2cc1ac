"""Messages between the coordinator and the serve processes, without IO.

Both ends are the same version of the same program, on one host, over a Unix stream socket. A
message is a u32 length (native byte order) and that many bytes of msgpack: an array of a tag and
the fields.

    serve -> coordinator                         coordinator -> serve
    1 Hello        who I am, first message       11 Reply        to an Ask or a Create...
    2 Ask          a client's request            12 TopicUpdate  topics that changed, or all of them
    3 Closed       a client's connection ended   13 GroupUpdate  groups that changed, or all of them
    4 Commit       offsets taken from pulls      14 Push         a one-way request to a client
    5 CreateTopic  a send to an unknown topic    15 Disconnect   close a client's connection
    6 CreateGroup  a pull of an unknown group
    7 Adopted      a reset of offsets is used    16 Call         a request that a client answers
    8 Called       a client's answer to a Call

Rules:
- After Hello the coordinator sends a complete TopicUpdate and a complete GroupUpdate.
- Every update that a request caused goes to all serves before its Reply.
- Token 0, or `oneway`: no Reply is wanted. An Ask with token 0 that is not one-way is a replay of
  a connection's last full heartbeat, sent by a serve that found the coordinator restarted.
- A connection's number is unique in the life of one serve. When the socket of a serve closes, all
  its connections count as closed.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from shmq.errors import ProtocolError
from shmq.units import MiB

_LENGTH: Final = struct.Struct("=I")
MESSAGE_SIZE_MAX: Final = 32 * MiB
NO_TOKEN: Final = 0


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """First message of a serve process."""

    serve_index: int
    pid: int


class Ask(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A client's request that the coordinator is to answer; `peer` is "address:port"."""

    token: int
    connection: int
    peer: str
    code: int
    opaque: int = 0
    version: int = 0
    language: str = "OTHER"
    ext: dict[str, str] = {}
    body: bytes = b""
    remark: str | None = None
    oneway: bool = False


class Closed(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A client's connection has ended."""

    connection: int


class Commit(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Offsets committed by pulls: (group, topic, queue id, queue offset)."""

    entries: list[tuple[str, str, int, int]]


class CreateTopic(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """A client sends to a topic that is not known; the Reply has code 0 when it now exists."""

    token: int
    topic: str
    default_topic: str
    queue_count: int
    peer: str = ""


class CreateGroup(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """A client pulls for a group that is not known; the Reply has code 0 when it now exists."""

    token: int
    group: str
    peer: str = ""


class Adopted(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """A consumer of the group pulls from the offset of the reset with this number."""

    group: str
    topic: str
    queue_id: int
    number: int


class Called(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """The answer of a client to the Call with this token, or that there is none."""

    token: int
    code: int
    remark: str | None = None
    ext: dict[str, str] = {}
    body: bytes = b""


class Reply(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """The answer to the request with this token; `ext` goes to the client as it is."""

    token: int
    code: int
    remark: str | None = None
    ext: dict[str, str] = {}
    body: bytes = b""


class TopicView(msgspec.Struct, array_like=True, frozen=True):
    """What serve needs of a topic; `slots[i]` is the queue table slot of queue i."""

    name: str
    perm: int
    read_queue_nums: int
    write_queue_nums: int
    sys_flag: int
    order: bool
    attributes: dict[str, str]
    slots: list[int]


class TopicUpdate(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """Topics that are new or changed, and names that are gone; `complete`: there are no others."""

    topics: list[TopicView]
    removed: list[str] = []
    complete: bool = False


class Sub(msgspec.Struct, array_like=True, frozen=True):
    """A group's subscription of one topic; `codes` are the hash codes of its tags."""

    topic: str
    expression_type: str
    sub_string: str
    codes: list[int]
    version: int


class ResetView(msgspec.Struct, array_like=True, frozen=True):
    """A reset of a group's offset that waits for a consumer; `number` tells it from others."""

    topic: str
    queue_id: int
    offset: int
    number: int


class GroupView(msgspec.Struct, array_like=True, frozen=True):
    """What serve needs of a consume group; `subscriptions` are those of its members online."""

    name: str
    consume_enable: bool
    consume_broadcast_enable: bool
    broker_id: int
    which_broker_when_consume_slowly: int
    message_model: str
    consume_type: str
    retry_queue_nums: int
    retry_max_times: int
    online: bool
    subscriptions: list[Sub]
    holds_locks: bool
    resets: list[ResetView] = []


class GroupUpdate(msgspec.Struct, array_like=True, frozen=True, tag=13):
    """Groups that are new or changed, and names that are gone; `complete`: there are no others."""

    groups: list[GroupView]
    removed: list[str] = []
    complete: bool = False


class Push(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """A one-way request of the broker to a client, to be written to this connection."""

    connection: int
    code: int
    ext: dict[str, str] = {}
    body: bytes = b""


class Call(msgspec.Struct, array_like=True, frozen=True, tag=16):
    """A request of the broker to a client, whose answer is wanted: a Called."""

    token: int
    connection: int
    code: int
    ext: dict[str, str] = {}
    body: bytes = b""


class Disconnect(msgspec.Struct, array_like=True, frozen=True, tag=15):
    """Close this client connection."""

    connection: int


ToCoordinator = Hello | Ask | Closed | Commit | CreateTopic | CreateGroup | Adopted | Called
ToServe = Reply | TopicUpdate | GroupUpdate | Push | Call | Disconnect
Message = ToCoordinator | ToServe

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The bytes of one message with its length in front."""
    data = _encoder.encode(message)
    if len(data) > MESSAGE_SIZE_MAX:
        raise ProtocolError(
            "internal message too large", size=len(data), allowed_max=MESSAGE_SIZE_MAX
        )
    return _LENGTH.pack(len(data)) + data


class MessageDecoder:
    """Incremental decoder of one socket's inbound messages.

    feed() takes what the socket gave, in pieces of any size; next_message() gives the next whole
    message, or None until more is fed. After a ProtocolError the decoder must not be used.
    """

    def __init__(self, *, message_size_max: int = MESSAGE_SIZE_MAX) -> None:
        self._message_size_max = message_size_max
        self._buffer = bytearray()
        self._start = 0

    @property
    def pending_size(self) -> int:
        """Bytes that were fed and not yet given as messages."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add inbound bytes."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next whole message, or None.

        Raises:
            ProtocolError: the length is above the limit, or the bytes are no message.
        """
        start = self._start + _LENGTH.size
        if len(self._buffer) < start:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer, self._start)
        if size > self._message_size_max:
            raise ProtocolError(
                "internal message length", length=size, allowed_max=self._message_size_max
            )
        if len(self._buffer) < start + size:
            return None
        with memoryview(self._buffer) as view:
            data = bytes(view[start : start + size])
        try:
            message: Message = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise ProtocolError("not an internal message", reason=str(error), size=size) from error
        self._start = start + size
        return message

"""Sending: the typed header of a send, the parts of a batch, and the header of the answer.

The same fields travel under long names (SEND_MESSAGE) or letters (SEND_MESSAGE_V2 and
SEND_BATCH_MESSAGE):

    letter  name                   type  required
    a       producerGroup          text  yes
    b       topic                  text  yes
    c       defaultTopic           text  yes       whose settings a new topic takes
    d       defaultTopicQueueNums  i32   yes
    e       queueId                i32   yes       -1: the broker chooses
    f       sysFlag                i32   yes
    g       bornTimestamp          i64   yes       ms since the epoch
    h       flag                   i32   yes       the sender's own
    i       properties             text            see wire.properties
    j       reconsumeTimes         i32
    k       unitMode               bool
    l       maxReconsumeTimes      i32
    m       batch                  bool            the body is a batch, whatever the code
    n       bname                  text            name of the broker, not needed

Body of a batch: messages one after the other, big-endian, packed:

    offset  size  type  field
         0     4  i32   size              of this message, itself included
         4     4  i32   magic             0, not looked at
         8     4  i32   body_crc          0, not looked at
        12     4  i32   flag
        16     4  i32   body_size
        20     b  u8[]  body
      20+b     2  i16   properties_size
      22+b     p  utf8  properties

Source: Apache RocketMQ remoting/protocol/header/SendMessageRequestHeader, ...V2,
common/message/MessageDecoder.decodeMessages.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec

from shmq.errors import RequestRefused
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.extfields import (
    LONG_BITS,
    boolean,
    optional_int,
    required_int,
    required_text,
)
from shmq.wire.properties import MSG_REGION, TRACE_ON

if TYPE_CHECKING:
    from collections.abc import Mapping

_LETTERS: Final = {
    "producerGroup": "a",
    "topic": "b",
    "defaultTopic": "c",
    "defaultTopicQueueNums": "d",
    "queueId": "e",
    "sysFlag": "f",
    "bornTimestamp": "g",
    "flag": "h",
    "properties": "i",
    "reconsumeTimes": "j",
    "unitMode": "k",
    "maxReconsumeTimes": "l",
    "batch": "m",
    "bname": "n",
}
_LONG_NAMES: Final = {name: name for name in _LETTERS}
_LONG_NAME_CODES: Final = frozenset({RequestCode.SEND_MESSAGE, RequestCode.SEND_REPLY_MESSAGE})

BATCH_MESSAGE_SIZE_MIN: Final = 22
_BATCH_HEAD: Final = struct.Struct(">iiiii")
_INT16: Final = struct.Struct(">h")
assert _BATCH_HEAD.size + _INT16.size == BATCH_MESSAGE_SIZE_MIN

DEFAULT_REGION: Final = "DefaultRegion"


class SendHeader(msgspec.Struct, kw_only=True):
    """What the header of a send says."""

    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_count: int
    queue_id: int
    sys_flag: int
    born_timestamp: int
    flag: int
    properties: str = ""
    reconsume_times: int = 0
    unit_mode: bool = False
    max_reconsume_times: int | None = None
    batch: bool = False
    broker_name: str | None = None


class BatchMessage(NamedTuple):
    """One message of a batch; its topic, queue and times are those of the header."""

    flag: int
    body: bytes
    properties: bytes


def decode_send(code: int, ext: Mapping[str, str]) -> SendHeader:
    """Header of a send, of a batch, or of a reply (codes 324 and 325 have the same fields).

    Raises:
        RequestRefused: a required field is missing, or a number is none or leaves its range.
    """
    keys = _LONG_NAMES if code in _LONG_NAME_CODES else _LETTERS
    return SendHeader(
        producer_group=required_text(ext, keys["producerGroup"], "producerGroup"),
        topic=required_text(ext, keys["topic"], "topic"),
        default_topic=required_text(ext, keys["defaultTopic"], "defaultTopic"),
        default_topic_queue_count=required_int(
            ext, keys["defaultTopicQueueNums"], "defaultTopicQueueNums"
        ),
        queue_id=required_int(ext, keys["queueId"], "queueId"),
        sys_flag=required_int(ext, keys["sysFlag"], "sysFlag"),
        born_timestamp=required_int(ext, keys["bornTimestamp"], "bornTimestamp", bits=LONG_BITS),
        flag=required_int(ext, keys["flag"], "flag"),
        properties=ext.get(keys["properties"], ""),
        reconsume_times=optional_int(ext, keys["reconsumeTimes"], "reconsumeTimes") or 0,
        unit_mode=boolean(ext, keys["unitMode"]),
        max_reconsume_times=optional_int(ext, keys["maxReconsumeTimes"], "maxReconsumeTimes"),
        batch=boolean(ext, keys["batch"]),
        broker_name=ext.get(keys["bname"]),
    )


def encode_send(header: SendHeader, code: int) -> dict[str, str]:
    """Ext fields of a send, as a client writes them."""
    keys = _LONG_NAMES if code in _LONG_NAME_CODES else _LETTERS
    values: dict[str, str | int | bool | None] = {
        "producerGroup": header.producer_group,
        "topic": header.topic,
        "defaultTopic": header.default_topic,
        "defaultTopicQueueNums": header.default_topic_queue_count,
        "queueId": header.queue_id,
        "sysFlag": header.sys_flag,
        "bornTimestamp": header.born_timestamp,
        "flag": header.flag,
        "properties": header.properties,
        "reconsumeTimes": header.reconsume_times,
        "unitMode": header.unit_mode,
        "maxReconsumeTimes": header.max_reconsume_times,
        "batch": header.batch,
        "bname": header.broker_name,
    }
    return {keys[name]: _text(value) for name, value in values.items() if value is not None}


def split_batch(body: bytes) -> list[BatchMessage]:
    """The messages of a batch body, at least one.

    Raises:
        RequestRefused: the sizes in the body do not add up, or it has no message.
    """
    if not body:
        _refuse_batch("batch without messages")
    messages: list[BatchMessage] = []
    position, end = 0, len(body)
    while position < end:
        if end - position < BATCH_MESSAGE_SIZE_MIN:
            _refuse_batch("batch cut off", position=position, left=end - position)
        size, _, _, flag, body_size = _BATCH_HEAD.unpack_from(body, position)
        if not BATCH_MESSAGE_SIZE_MIN <= size <= end - position:
            _refuse_batch(
                "message size in batch",
                position=position,
                found=size,
                allowed=(BATCH_MESSAGE_SIZE_MIN, end - position),
            )
        if not 0 <= body_size <= size - BATCH_MESSAGE_SIZE_MIN:
            _refuse_batch(
                "body size in batch",
                position=position,
                found=body_size,
                allowed=(0, size - BATCH_MESSAGE_SIZE_MIN),
            )
        body_at = position + _BATCH_HEAD.size
        body_end = body_at + body_size
        (properties_size,) = _INT16.unpack_from(body, body_end)
        if properties_size != size - BATCH_MESSAGE_SIZE_MIN - body_size:
            _refuse_batch(
                "properties size in batch",
                position=position,
                found=properties_size,
                allowed=size - BATCH_MESSAGE_SIZE_MIN - body_size,
            )
        position += size
        messages.append(
            BatchMessage(flag, body[body_at:body_end], body[body_end + _INT16.size : position])
        )
    return messages


def join_batch(messages: list[BatchMessage]) -> bytes:
    """Body of a batch, as a client writes it."""
    parts: list[bytes] = []
    for flag, body, properties in messages:
        size = BATCH_MESSAGE_SIZE_MIN + len(body) + len(properties)
        parts += (
            _BATCH_HEAD.pack(size, 0, 0, flag, len(body)),
            body,
            _INT16.pack(len(properties)),
            properties,
        )
    return b"".join(parts)


def encode_send_answer(
    *,
    message_id: str,
    queue_id: int,
    queue_offset: int,
    transaction_id: str | None = None,
    batch_unique_id: str | None = None,
    recall_handle: str | None = None,
    region: str = DEFAULT_REGION,
    trace_on: bool = True,
) -> dict[str, str]:
    """Ext fields of the answer to a send that was stored.

    `message_id` is the offset message id; of a batch all of them, with commas between.
    `queue_offset` is that of the first. `transaction_id` is the message's UNIQ_KEY.
    """
    ext = {
        "queueId": str(queue_id),
        "msgId": message_id,
        TRACE_ON: _text(trace_on),
        MSG_REGION: region,
        "queueOffset": str(queue_offset),
    }
    if transaction_id is not None:
        ext["transactionId"] = transaction_id
    if batch_unique_id is not None:
        ext["batchUniqId"] = batch_unique_id
    if recall_handle is not None:
        ext["recallHandle"] = recall_handle
    return ext


def _refuse_batch(what: str, **facts: object) -> NoReturn:
    raise RequestRefused(ResponseCode.MESSAGE_ILLEGAL, what, **facts)


def _text(value: object) -> str:
    """Java's text of a value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

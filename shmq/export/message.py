"""A message as a line of JSON, as its body, or as it is stored."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import orjson

from shmq.client.compression import decompressed
from shmq.dump.records import sys_flag_names
from shmq.dump.text import moment
from shmq.errors import InvalidMessage, ProtocolError
from shmq.wire.codes import SysFlag
from shmq.wire.messageid import host_text, offset_message_id
from shmq.wire.properties import KEYS, KEYS_SEPARATOR, TAGS, UNIQ_KEY, decode_properties

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.layout.record import Record


def as_json(found: Record, stored: bytes) -> bytes:
    """A JSON object with every field; times are in ms, and as text."""
    return orjson.dumps(fields_of(found, stored))


def as_raw(_found: Record, stored: bytes) -> bytes:
    """The record as it is stored; `shmq dump` reads a file of these."""
    return stored


def as_body(found: Record, _stored: bytes) -> bytes:
    """The body as its sender gave it.

    Raises:
        InvalidMessage: it is compressed and cannot be read.
    """
    return body_of(found)


FORMATS: Final[dict[str, tuple[Callable[[Record, bytes], bytes], bytes, bytes, bytes]]] = {
    "jsonl": (as_json, b"", b"\n", b"\n"),
    "json": (as_json, b"[\n", b",\n", b"\n]\n"),
    "raw": (as_raw, b"", b"", b""),
    "bodies": (as_body, b"", b"\n", b"\n"),
}
"""How a message is written, and what stands before all, between two, and after the last."""


def body_of(found: Record) -> bytes:
    """The body as its sender gave it."""
    if found.sys_flag & SysFlag.COMPRESSED:
        return decompressed(found.body, found.sys_flag)
    return found.body


def fields_of(found: Record, stored: bytes) -> dict[str, Any]:
    """Everything that a record says; a body that is no text is in base64."""
    offset_id = offset_message_id(found.store_host, found.store_port, found.physical_offset)
    try:
        properties = decode_properties(found.properties)
        others: dict[str, Any] = {"properties": properties}
    except ProtocolError:
        properties = {}
        others = {"propertiesBase64": _base64(found.properties)}
    return {
        "msgId": properties.get(UNIQ_KEY, offset_id),
        "offsetMsgId": offset_id,
        "topic": found.topic,
        "queueId": found.queue_id,
        "queueOffset": found.queue_offset,
        "physicalOffset": found.physical_offset,
        "storeSize": len(stored),
        "storeTimestamp": found.store_timestamp,
        "storeTime": moment(found.store_timestamp),
        "bornTimestamp": found.born_timestamp,
        "bornTime": moment(found.born_timestamp),
        "storeHost": _host(found.store_host, found.store_port),
        "bornHost": _host(found.born_host, found.born_port),
        "tags": properties.get(TAGS, ""),
        "keys": [key for key in properties.get(KEYS, "").split(KEYS_SEPARATOR) if key],
        "flag": found.flag,
        "sysFlag": found.sys_flag,
        "sysFlagNames": sys_flag_names(found.sys_flag),
        "reconsumeTimes": found.reconsume_times,
        "preparedTransactionOffset": found.prepared_transaction_offset,
        "bodyCrc": found.body_crc,
        **others,
        **_body_fields(found),
    }


def _body_fields(found: Record) -> dict[str, Any]:
    try:
        body = body_of(found)
    except InvalidMessage as error:
        return {"bodyError": str(error), "storedBodyBase64": _base64(found.body)}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"bodyBase64": _base64(body)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _host(address: bytes, port: int) -> str:
    text = host_text(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"

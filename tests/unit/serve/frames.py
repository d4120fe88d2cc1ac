"""Frames that clients send, and what their answers say."""

from __future__ import annotations

from typing import Any

from shmq.wire.codes import PullFlag, RequestCode
from shmq.wire.frame import Frame
from shmq.wire.header import JSON, Header, encode_frame
from shmq.wire.properties import encode_properties
from shmq.wire.send import SendHeader, encode_send

BORN_MS = 1_700_000_000_123


def send_header(**fields: Any) -> SendHeader:
    """Header of a plain send to queue 0 of topic T."""
    values: dict[str, Any] = {
        "producer_group": "P",
        "topic": "T",
        "default_topic": "TBW102",
        "default_topic_queue_count": 4,
        "queue_id": 0,
        "sys_flag": 0,
        "born_timestamp": BORN_MS,
        "flag": 0,
        "properties": properties(UNIQ_KEY="ABC", WAIT="true"),
    }
    return SendHeader(**(values | fields))


def properties(**pairs: str) -> str:
    """Text of properties."""
    return encode_properties(pairs).decode()


def send(
    body: bytes = b"hello",
    *,
    opaque: int = 1,
    code: int = RequestCode.SEND_MESSAGE_V2,
    flag: int = 0,
    serialization: int = JSON,
    **fields: Any,
) -> bytes:
    """Frame of a send."""
    ext = encode_send(send_header(**fields), code)
    return encode_frame(Header(code, opaque, flag, ext=ext), body, serialization)


def pull(
    *, opaque: int = 1, flag: int = 0, code: int = RequestCode.PULL_MESSAGE, **fields: Any
) -> bytes:
    """Frame of a pull of queue 0 of T by group G, with its subscription in it."""
    return encode_frame(Header(code, opaque, flag, ext=pull_ext(**fields)))


def pull_ext(
    *,
    offset: int = 0,
    count: int = 32,
    suspend_ms: int = 0,
    tags: str | None = "*",
    commit: int | None = None,
    group: str = "G",
    **fields: Any,
) -> dict[str, str]:
    """Ext fields of a pull."""
    flags = PullFlag(0)
    if suspend_ms:
        flags |= PullFlag.SUSPEND
    if tags is not None:
        flags |= PullFlag.SUBSCRIPTION
    if commit is not None:
        flags |= PullFlag.COMMIT_OFFSET
    values: dict[str, Any] = {
        "consumerGroup": group,
        "topic": "T",
        "queueId": 0,
        "queueOffset": offset,
        "maxMsgNums": count,
        "sysFlag": int(flags),
        "commitOffset": commit or 0,
        "suspendTimeoutMillis": suspend_ms,
        "subVersion": 0,
        "subscription": tags or "",
        "expressionType": "TAG",
    }
    return {name: str(value) for name, value in (values | fields).items()}


def request(code: int, body: bytes = b"", *, opaque: int = 1, flag: int = 0, **ext: str) -> bytes:
    """Frame of any request."""
    return encode_frame(Header(code, opaque, flag, ext=ext), body)


def codes(frames: list[Frame]) -> list[int]:
    """Their response codes."""
    return [frame.header.code for frame in frames]


def opaques(frames: list[Frame]) -> list[int]:
    """Numbers of the requests that they answer."""
    return [frame.header.opaque for frame in frames]

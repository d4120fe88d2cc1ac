"""What the table files under <store>/config hold: Apache's shapes, read and written.

    file                    body                what
    topics.json             TopicsBody          topics by name
    subscriptionGroup.json  GroupsBody          consume groups by name
    consumerOffset.json     OffsetsBody         "topic@group" -> queue id -> next offset

Read is everything that fastjson writes (integer keys without quotes); written is compact JSON with
all keys quoted, which every Apache broker reads. Unknown keys are dropped.

Source: spec store.md section 13.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from shmq.errors import StoreError
from shmq.wire import jsonish
from shmq.wire.route import DataVersion, TopicConfig

T = TypeVar("T")


class TopicsBody(msgspec.Struct, kw_only=True, rename="camel"):
    """topics.json."""

    data_version: DataVersion = DataVersion()
    topic_config_table: dict[str, TopicConfig] = {}


class GroupConfig(msgspec.Struct, kw_only=True, rename="camel"):
    """A consume group as an administrator set it, or as it was created by its first heartbeat."""

    attributes: dict[str, str] = {}
    broker_id: int = 0
    consume_broadcast_enable: bool = True
    consume_enable: bool = True
    consume_from_min_enable: bool = True
    consume_message_orderly: bool = False
    consume_timeout_minute: int = 15
    group_name: str = ""
    group_retry_policy: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"type": "CUSTOMIZED"}
    )
    group_sys_flag: int = 0
    notify_consumer_ids_changed_enable: bool = True
    retry_max_times: int = 16
    retry_queue_nums: int = 1
    subscription_data_set: list[dict[str, Any]] | UnsetType = UNSET
    which_broker_when_consume_slowly: int = 1


class GroupsBody(msgspec.Struct, kw_only=True, rename="camel"):
    """subscriptionGroup.json."""

    data_version: DataVersion = DataVersion()
    forbidden_table: dict[str, Any] = {}
    subscription_group_table: dict[str, GroupConfig] = {}


class OffsetsBody(msgspec.Struct, kw_only=True, rename="camel"):
    """consumerOffset.json."""

    data_version: DataVersion = DataVersion()
    offset_table: dict[str, dict[int, int]] = {}


def encode(body: msgspec.Struct) -> bytes:
    """Compact JSON of a table."""
    return msgspec.json.encode(body)


def decode(data: bytes, kind: type[T]) -> T:
    """A table from its file.

    Raises:
        StoreError: the bytes have another shape.
        ProtocolError, ValueError: the bytes are not JSON.
    """
    # Only small files are Apache's; a large one is our own and strict JSON.
    plain = jsonish.loads(data) if len(data) <= jsonish.SIZE_MAX else orjson.loads(data)
    return convert(plain, kind)


def convert(plain: object, kind: type[T]) -> T:
    """JSON values as a table or a part of one; nulls count as absent, text as numbers.

    Raises:
        StoreError: they have another shape.
    """
    try:
        return msgspec.convert(_without_nulls(plain), kind, strict=False, str_keys=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise StoreError("unexpected shape", kind=kind.__name__, reason=str(error)) from None


def plain_form(body: msgspec.Struct) -> Any:
    """A body as dicts and lists."""
    return msgspec.to_builtins(body)


def next_version(version: DataVersion, wall_ms: int) -> DataVersion:
    """The version of a table after one more change."""
    return DataVersion(
        counter=version.counter + 1, state_version=version.state_version, timestamp=wall_ms
    )


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value

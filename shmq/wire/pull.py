"""Pulling: the typed header of a pull, the header of its answer, and tag subscriptions.

    field                 type  required
    consumerGroup         text  yes
    topic                 text  yes
    queueId               i32   yes
    queueOffset           i64   yes       first entry wanted
    maxMsgNums            i32   yes
    sysFlag               i32   yes       PullFlag bits
    commitOffset          i64   yes       counts with PullFlag.COMMIT_OFFSET
    suspendTimeoutMillis  i64   yes       counts with PullFlag.SUSPEND
    subVersion            i64   yes
    subscription          text            counts with PullFlag.SUBSCRIPTION
    expressionType        text            "" or absent: TAG
    maxMsgBytes           i32
    requestSource         i32
    proxyFrowardClientId  text            (its spelling)

LITE_PULL_MESSAGE has the same fields. Tags are filtered by hash here and by text in the client.

Source: Apache RocketMQ remoting/protocol/header/PullMessageRequestHeader,
PullMessageResponseHeader, filter/FilterAPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from shmq.errors import RequestRefused
from shmq.layout.javahash import hash_code
from shmq.wire.codes import PullFlag, ResponseCode
from shmq.wire.extfields import LONG_BITS, optional_int, required_int, required_text

if TYPE_CHECKING:
    from collections.abc import Mapping

RESET_NUMBER: Final = "resetNumber"
"""Field of ours in 220, and in the answer to a pull that is 21 because of a reset: which it is."""
TAG: Final = "TAG"
SQL92: Final = "SQL92"
ALL: Final = "*"
_OR: Final = "||"
TAGS_MAX: Final = 10_000


class PullHeader(msgspec.Struct, kw_only=True):
    """What the header of a pull says."""

    consumer_group: str
    topic: str
    queue_id: int
    queue_offset: int
    count_max: int
    sys_flag: int
    commit_offset: int
    suspend_timeout_ms: int
    subscription_version: int
    subscription: str = ""
    expression_type: str = TAG
    size_max: int | None = None
    request_source: int | None = None
    proxy_client_id: str | None = None

    @property
    def commits(self) -> bool:
        """Whether commit_offset is to be stored."""
        return self.sys_flag & PullFlag.COMMIT_OFFSET != 0

    @property
    def suspends(self) -> bool:
        """Whether the answer may wait for a message."""
        return self.sys_flag & PullFlag.SUSPEND != 0

    @property
    def subscribes(self) -> bool:
        """Whether this request brings its subscription along."""
        return self.sys_flag & PullFlag.SUBSCRIPTION != 0


class Subscription(msgspec.Struct, frozen=True):
    """Which messages of a topic are wanted, by tag."""

    text: str = ALL
    tags: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset()

    @property
    def is_all(self) -> bool:
        """Whether every message is wanted."""
        return self.text == ALL

    def matches(self, tags_code: int) -> bool:
        """Whether a message may be wanted whose consumequeue entry holds `tags_code`."""
        return self.text == ALL or tags_code in self.codes


SUBSCRIBE_ALL: Final = Subscription()


def decode_pull(ext: Mapping[str, str]) -> PullHeader:
    """Header of a pull.

    Raises:
        RequestRefused: a required field is missing, or a number is none or leaves its range.
    """
    return PullHeader(
        consumer_group=required_text(ext, "consumerGroup"),
        topic=required_text(ext, "topic"),
        queue_id=required_int(ext, "queueId"),
        queue_offset=required_int(ext, "queueOffset", bits=LONG_BITS),
        count_max=required_int(ext, "maxMsgNums"),
        sys_flag=required_int(ext, "sysFlag"),
        commit_offset=required_int(ext, "commitOffset", bits=LONG_BITS),
        suspend_timeout_ms=required_int(ext, "suspendTimeoutMillis", bits=LONG_BITS),
        subscription_version=required_int(ext, "subVersion", bits=LONG_BITS),
        subscription=ext.get("subscription", ""),
        expression_type=ext.get("expressionType") or TAG,
        size_max=optional_int(ext, "maxMsgBytes"),
        request_source=optional_int(ext, "requestSource"),
        proxy_client_id=ext.get("proxyFrowardClientId"),
    )


def encode_pull_answer(
    *,
    next_begin_offset: int,
    min_offset: int,
    max_offset: int,
    suggested_broker_id: int = 0,
    topic_sys_flag: int = 0,
    group_sys_flag: int = 0,
    forbidden_type: int | None = None,
    offset_delta: int | None = None,
) -> dict[str, str]:
    """Ext fields of the answer to a pull; Java needs the first four with codes 0, 19, 20 and 21."""
    ext = {
        "suggestWhichBrokerId": str(suggested_broker_id),
        "groupSysFlag": str(group_sys_flag),
        "nextBeginOffset": str(next_begin_offset),
        "maxOffset": str(max_offset),
        "minOffset": str(min_offset),
        "topicSysFlag": str(topic_sys_flag),
    }
    if forbidden_type is not None:
        ext["forbiddenType"] = str(forbidden_type)
    if offset_delta is not None:
        ext["offsetDelta"] = str(offset_delta)
    return ext


def parse_tags(text: str | None) -> Subscription:
    """Subscription of a tag expression: "*", "" or None for all, else `A || B`.

    Raises:
        RequestRefused: SUBSCRIPTION_PARSE_FAILED, there is nothing between the bars.
    """
    if not text or text == ALL:
        return SUBSCRIBE_ALL
    parts = text.split(_OR)
    if not any(parts):
        raise RequestRefused(
            ResponseCode.SUBSCRIPTION_PARSE_FAILED, "tag expression without a tag", found=text[:80]
        )
    if len(parts) > TAGS_MAX:
        raise RequestRefused(
            ResponseCode.SUBSCRIPTION_PARSE_FAILED,
            "too many tags",
            found=len(parts),
            allowed=TAGS_MAX,
        )
    tags = tuple(dict.fromkeys(tag for part in parts if (tag := part.strip())))
    return Subscription(text, tags, frozenset(map(hash_code, tags)))


def parse_subscription(expression_type: str | None, text: str | None) -> Subscription:
    """Subscription of an expression of a type; only tags are understood.

    Raises:
        RequestRefused: another type, or the tags cannot be read.
    """
    if not expression_type or expression_type == TAG:
        return parse_tags(text)
    if expression_type == SQL92:
        raise RequestRefused(
            ResponseCode.SYSTEM_ERROR,
            "The broker does not support consumer to filter message by SQL92",
        )
    raise RequestRefused(
        ResponseCode.SUBSCRIPTION_PARSE_FAILED,
        "unknown expression type",
        found=expression_type[:40],
        allowed=(TAG, SQL92),
    )

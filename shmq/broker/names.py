"""Names of topics and groups: which are allowed, which belong to the system.

A name becomes a folder's name (consumequeue/<topic>/<queue id>), so it is checked before anything
else is done with it: letters, digits and `%|_-`, never a dot or a slash.

Source: RocketMQ common/topic/TopicValidator; spec features.md section 1.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from shmq.errors import RequestRefused
from shmq.wire.codes import ResponseCode

RETRY_PREFIX: Final = "%RETRY%"
DLQ_PREFIX: Final = "%DLQ%"
SYSTEM_PREFIX: Final = "rmq_sys_"
AUTO_CREATE_TOPIC: Final = "TBW102"
SCHEDULE_TOPIC: Final = "SCHEDULE_TOPIC_XXXX"
HALF_TOPIC: Final = "RMQ_SYS_TRANS_HALF_TOPIC"
OP_HALF_TOPIC: Final = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
TIMER_TOPIC: Final = "rmq_sys_wheel_timer"
TRACE_TOPIC: Final = "RMQ_SYS_TRACE_TOPIC"

TOPIC_LENGTH_MAX: Final = 127
GROUP_TOPIC_LENGTH_MAX: Final = 255
GROUP_LENGTH_MAX: Final = 120
ALLOWED: Final = "letters, digits and %|_-"
_NAME: Final = re.compile(r"[%|a-zA-Z0-9_-]+")
_STORED_NAME: Final = re.compile(r"[%|a-zA-Z0-9_-][%|a-zA-Z0-9_.+-]*")

SYSTEM_TOPICS: Final = frozenset(
    {
        AUTO_CREATE_TOPIC,
        SCHEDULE_TOPIC,
        "BenchmarkTest",
        HALF_TOPIC,
        OP_HALF_TOPIC,
        "TRANS_CHECK_MAX_TIME_TOPIC",
        TRACE_TOPIC,
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
        "CHECKPOINT_TOPIC",
    }
)
SYSTEM_GROUPS: Final = (
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
)


class BuiltIn(NamedTuple):
    """A topic that exists from the broker's start on."""

    name: str
    queue_nums: int
    perm: int


def built_in_topics(
    *, cluster_name: str, broker_name: str, auto_create: bool, trace: bool
) -> list[BuiltIn]:
    """The topics that a broker has before anybody created one."""
    topics = [
        BuiltIn("SELF_TEST_TOPIC", 1, 6),
        BuiltIn("BenchmarkTest", 1024, 6),
        BuiltIn(cluster_name, 16, 7),
        BuiltIn(broker_name, 1, 7),
        BuiltIn("OFFSET_MOVED_EVENT", 1, 6),
        BuiltIn(SCHEDULE_TOPIC, 18, 6),
        BuiltIn(f"{cluster_name}_REPLY_TOPIC", 1, 6),
        BuiltIn(f"rmq_sys_REVIVE_LOG_{cluster_name}", 8, 6),
        BuiltIn(f"rmq_sys_SYNC_BROKER_MEMBER_{broker_name}", 1, 1),
        BuiltIn(HALF_TOPIC, 1, 6),
        BuiltIn(OP_HALF_TOPIC, 1, 6),
        BuiltIn(TIMER_TOPIC, 1, 6),
    ]
    if auto_create:
        topics.append(BuiltIn(AUTO_CREATE_TOPIC, 8, 7))
    if trace:
        topics.append(BuiltIn(TRACE_TOPIC, 1, 6))
    return topics


def topic_length_max(topic: str) -> int:
    """How long this topic's name may be, in characters."""
    prefixed = topic.startswith((RETRY_PREFIX, DLQ_PREFIX))
    return GROUP_TOPIC_LENGTH_MAX if prefixed else TOPIC_LENGTH_MAX


def check_topic(topic: str) -> None:
    """Let a well-formed topic name pass.

    Raises:
        RequestRefused: INVALID_PARAMETER, with what is allowed.
    """
    length_max = topic_length_max(topic)
    if len(topic) > length_max or not _NAME.fullmatch(topic):
        raise RequestRefused(
            ResponseCode.INVALID_PARAMETER,
            "the topic name is not allowed",
            topic=repr(topic[:GROUP_TOPIC_LENGTH_MAX]),
            allowed=ALLOWED,
            length=len(topic),
            length_max=length_max,
        )


def group_is_allowed(group: str) -> bool:
    """Whether this may be a consume group's name."""
    return len(group) <= GROUP_LENGTH_MAX and _NAME.fullmatch(group) is not None


def check_group(group: str) -> None:
    """Let a well-formed group name pass.

    Raises:
        RequestRefused: INVALID_PARAMETER, with what is allowed.
    """
    if not group_is_allowed(group):
        raise RequestRefused(
            ResponseCode.INVALID_PARAMETER,
            "the consumer group name is not allowed",
            group=repr(group[:GROUP_TOPIC_LENGTH_MAX]),
            allowed=ALLOWED,
            length=len(group),
            length_max=GROUP_LENGTH_MAX,
        )


def stored_name_is_safe(name: str) -> bool:
    """Whether a name in a table on disk, or made of the broker's own name, may become a folder.

    More than clients may use: host names with dots are broker names, and pop retry topics have `+`.
    """
    return len(name) <= GROUP_TOPIC_LENGTH_MAX and _STORED_NAME.fullmatch(name) is not None


def retry_topic(group: str) -> str:
    """The topic of messages that `group` is to consume again."""
    return RETRY_PREFIX + group

"""Requests that show or change topics.

Source: RocketMQ broker/processor/AdminBrokerProcessor, common/attribute; spec request-codes.md
section 5.
"""

from __future__ import annotations

from typing import Any, Final

from shmq.broker import names, tablebodies
from shmq.broker.fields import (
    INT_MAX,
    LONG_MAX,
    flag,
    json_object,
    need_int,
    need_text,
    objects_of,
    refused,
)
from shmq.broker.plane import OK, Answer, Handler, Plane, Request
from shmq.errors import RequestRefused, StoreError
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.route import TopicConfig

_QUEUE_TYPE: Final = "queue.type"
_CLEANUP_POLICY: Final = "cleanup.policy"
_MESSAGE_TYPE: Final = "message.type"
_RESERVE_TIME: Final = "reserve.time"
_ALLOWED_VALUES: Final = {
    # BatchCQ queues and compaction are other file formats, which this broker does not keep.
    _QUEUE_TYPE: frozenset({"SimpleCQ"}),
    _CLEANUP_POLICY: frozenset({"DELETE"}),
    _MESSAGE_TYPE: frozenset({"UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", "MIXED"}),
}
_FIXED_ONCE_CREATED: Final = frozenset({_QUEUE_TYPE, _CLEANUP_POLICY})
_KNOWN: Final = frozenset({*_ALLOWED_VALUES, _RESERVE_TIME})


def update_topic(plane: Plane, request: Request) -> Answer:
    """17: create or change one topic."""
    ext = request.ext
    topic = need_text(ext, "topic").strip()
    _check_may_change(plane, topic)
    known = plane.topics.get(topic)
    config = TopicConfig(
        topic_name=topic,
        read_queue_nums=need_int(ext, "readQueueNums"),
        write_queue_nums=need_int(ext, "writeQueueNums"),
        perm=need_int(ext, "perm"),
        topic_filter_type=ext.get("topicFilterType") or "SINGLE_TAG",
        topic_sys_flag=need_int(ext, "topicSysFlag", low=0) if ext.get("topicSysFlag") else 0,
        order=flag(ext, "order"),
        attributes=altered_attributes(
            known.attributes if known else None, ext.get("attributes") or ""
        ),
    )
    plane.topics.put(config)
    return OK


def update_topics(plane: Plane, request: Request) -> Answer:
    """18: create or change several topics; all are read before the first is changed."""
    configs: list[TopicConfig] = []
    for data in objects_of(json_object(request.body).get("topicConfigList")):
        try:
            config = tablebodies.convert(data, TopicConfig)
        except StoreError as error:
            raise refused(error.what, **error.facts) from error
        _check_may_change(plane, config.topic_name)
        known = plane.topics.get(config.topic_name)
        text = ",".join(
            f"{name if name[:1] in '+-' else '+' + name}={value}"
            for name, value in config.attributes.items()
        )
        config.attributes = altered_attributes(known.attributes if known else None, text)
        configs.append(config)
    for config in configs:
        plane.topics.put(config)
    return OK


def delete_topic(plane: Plane, request: Request) -> Answer:
    """215: remove a topic and the groups' offsets of it."""
    topic = need_text(request.ext, "topic").strip()
    _check_may_change(plane, topic)
    if plane.topics.delete(topic):
        plane.offsets.remove_topic(topic)
        plane.groups.changed.update(plane.resets.remove_topic(topic))
    return OK


def all_topics(plane: Plane, request: Request) -> Answer:
    """21: the topic table, all at once (5.4 clients stop asking when no total is given)."""
    del request
    body = {
        "dataVersion": tablebodies.plain_form(plane.topics.version),
        "mappingDataVersion": {"counter": 0, "stateVersion": 0, "timestamp": 0},
        "topicConfigTable": {
            name: tablebodies.plain_form(config) for name, config in plane.topics.configs.items()
        },
        "topicQueueMappingDetailMap": {},
    }
    return Answer(body=jsonish.dumps(body))


def one_topic(plane: Plane, request: Request) -> Answer:
    """351: one topic."""
    config = plane.topics.need(need_text(request.ext, "topic"))
    return Answer(body=tablebodies.encode(config))


def system_topics(plane: Plane, request: Request) -> Answer:
    """305: names of the topics that belong to the system."""
    del request
    return Answer(body=jsonish.dumps({"topicList": plane.topics.system_topics()}))


def topic_stats(plane: Plane, request: Request) -> Answer:
    """202: min and max offset of each queue of a topic."""
    topic = need_text(request.ext, "topic")
    config = plane.topics.need(topic)
    pairs = []
    for queue_id in range(max(config.read_queue_nums, config.write_queue_nums)):
        min_offset, max_offset = plane.topics.offsets(topic, queue_id)
        value = {"lastUpdateTimestamp": 0, "maxOffset": max_offset, "minOffset": min_offset}
        pairs.append((queue_json(plane, topic, queue_id), value))
    body = {"offsetTable": jsonish.ObjectKeyed(pairs), "topicPutTps": 0.0}
    return Answer(body=jsonish.dumps(body))


def queue_json(plane: Plane, topic: str, queue_id: int) -> dict[str, Any]:
    """A queue of this broker as bodies carry it."""
    return {"brokerName": plane.identity.broker_name, "queueId": queue_id, "topic": topic}


def altered_attributes(current: dict[str, str] | None, text: str) -> dict[str, str]:
    """A topic's attributes after an alteration "+name=value,-name"; `current` None: a new topic.

    Raises:
        RequestRefused: an attribute or value is not known, or cannot change any more.
    """
    attributes = dict(current or {})
    for part in filter(None, (part.strip() for part in text.split(","))):
        sign, (name, _, value) = part[0], part[1:].partition("=")
        if sign not in "+-" or name not in _KNOWN:
            raise refused(
                "attribute not understood",
                found=part[:80],
                allowed=sorted(_KNOWN),
                form="+name=value or -name",
            )
        if sign == "-" and current is None:
            raise refused("only attributes to add may be given for a new topic", found=part[:80])
        if sign == "+":
            _check_value(name, value)
        if (
            current is not None
            and name in _FIXED_ONCE_CREATED
            and (sign == "-" or current.get(name, value) != value)
        ):
            raise refused("attribute cannot change once the topic exists", attribute=name)
        if sign == "+":
            attributes[name] = value
        else:
            attributes.pop(name, None)
    return attributes


def _check_value(name: str, value: str) -> None:
    allowed = _ALLOWED_VALUES.get(name)
    if allowed is not None and value not in allowed:
        raise refused(
            f"attribute {name} has a value that this broker does not serve",
            found=value[:80],
            allowed=sorted(allowed),
        )
    if allowed is None:
        need_int({name: value}, name, low=-1, high=min(INT_MAX, LONG_MAX))


def _check_may_change(plane: Plane, topic: str) -> None:
    names.check_topic(topic)
    if plane.topics.is_system(topic):
        raise RequestRefused(
            ResponseCode.INVALID_PARAMETER, "the topic belongs to the system", topic=topic
        )


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.UPDATE_AND_CREATE_TOPIC: update_topic,
    RequestCode.UPDATE_AND_CREATE_TOPIC_LIST: update_topics,
    RequestCode.DELETE_TOPIC_IN_BROKER: delete_topic,
    RequestCode.GET_ALL_TOPIC_CONFIG: all_topics,
    RequestCode.GET_TOPIC_CONFIG: one_topic,
    RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER: system_topics,
    RequestCode.GET_TOPIC_STATS_INFO: topic_stats,
}

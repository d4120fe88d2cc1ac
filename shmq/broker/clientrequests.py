"""Requests about clients: heartbeats, good-byes, who is online, queue locks.

Source: RocketMQ broker/processor/{ClientManage,ConsumerManage,AdminBroker}Processor; spec
request-codes.md sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from shmq.broker import names, resetrequests
from shmq.broker.clients import (
    ClientInfo,
    ConsumerData,
    Member,
    OnlineGroup,
    Subscription,
)
from shmq.broker.fields import (
    bool_of,
    int_of,
    json_object,
    need_text,
    objects_of,
    refused,
    text_of,
)
from shmq.broker.locks import LockedQueue
from shmq.broker.plane import OK, Answer, Handler, Plane, Request
from shmq.errors import RequestRefused
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.properties import hash_code

CLIENT_ID_LENGTH_MAX: Final = 1024
GROUPS_IN_HEARTBEAT_MAX: Final = 4096
QUEUES_IN_LOCK_MAX: Final = 65_536
TAG_TYPE: Final = "TAG"
EVERYTHING: Final = "*"
INT_SPAN: Final = 2**32
DEFAULT_MODEL: Final = "CLUSTERING"


def heart_beat(plane: Plane, request: Request) -> Answer:
    """34: enter or refresh a client's producers and consumers."""
    body = json_object(request.body)
    client = request.client(_client_id(body.get("clientID")))
    producers = [text_of(data.get("groupName")) for data in objects_of(body.get("producerDataSet"))]
    keeps_subscriptions = bool_of(body.get("withoutSub"))
    consumers = [
        _consumer_data(data, keeps_subscriptions=keeps_subscriptions)
        for data in objects_of(body.get("consumerDataSet"))
    ]
    fingerprint = int_of(body.get("heartbeatFingerprint"))
    if len(producers) + len(consumers) > GROUPS_IN_HEARTBEAT_MAX:
        raise refused(
            "too many groups in a heartbeat",
            found=len(producers) + len(consumers),
            allowed_max=GROUPS_IN_HEARTBEAT_MAX,
        )
    for group in producers:
        if names.stored_name_is_safe(group):
            plane.clients.register_producer(
                request.connection, group, client, now_ms=request.now_ms
            )
    wants_subscriptions = fingerprint == 0
    for consumer in consumers:
        unknown = consumer.group not in plane.clients.groups
        _register_consumer(plane, request, consumer, client)
        if fingerprint:
            changed = plane.clients.fingerprint_changed(consumer.group, fingerprint)
            wants_subscriptions |= changed or (unknown and keeps_subscriptions)
    ext = {
        "IS_SUPPORT_HEART_BEAT_V2": "true",
        "IS_SUB_CHANGE": "true" if wants_subscriptions else "false",
    }
    return Answer(ext=ext)


def _register_consumer(
    plane: Plane, request: Request, consumer: ConsumerData, client: ClientInfo
) -> None:
    try:
        config = plane.groups.need_or_create(consumer.group)
    except RequestRefused as error:
        # Apache's broker leaves such a group out too: its pulls are refused with the reason.
        plane.event("warning", "consumer.refused", client_id=client.client_id, reason=str(error))
        return
    if config.retry_queue_nums > 0:
        try:
            plane.topics.ensure(
                names.retry_topic(consumer.group),
                queue_nums=config.retry_queue_nums,
                unit_sub=consumer.unit_mode,
            )
        except RequestRefused as error:
            plane.event(
                "error",
                "retry_topic.refused",
                group=consumer.group,
                reason=str(error),
                hint="messages that the group fails to consume cannot be sent back",
            )
    registered = plane.clients.register_consumer(
        request.connection, consumer, client, now_ms=request.now_ms
    )
    if registered.view_changed:
        plane.groups.changed.add(consumer.group)
    if registered.membership_changed:
        plane.membership_changed(consumer.group)
    if registered.membership_changed:
        resetrequests.tell_member(plane, consumer.group, request.connection)
    if registered.view_changed or registered.membership_changed:
        plane.members_changed = True
        plane.watch_agreement(consumer.group)


def unregister_client(plane: Plane, request: Request) -> Answer:
    """35: a client leaves a producer group, a consume group, or both."""
    producer_group = request.ext.get("producerGroup")
    if producer_group:
        plane.clients.unregister_producer(request.connection, producer_group)
    group = request.ext.get("consumerGroup")
    if group and plane.clients.unregister_consumer(request.connection, group):
        plane.membership_changed(group)
        plane.watch_agreement(group)
    return OK


def consumer_list(plane: Plane, request: Request) -> Answer | None:
    """38: ids of the members of a group; never an empty list, on which clients drop their queues.

    None while members are expected back after a restart.
    """
    group = need_text(request.ext, "consumerGroup")
    if plane.members_are_late(group):
        return None
    client_ids = plane.clients.client_ids(group)
    if not client_ids:
        raise refused("no consumer of this group is online", group=group)
    return Answer(body=jsonish.dumps({"consumerIdList": client_ids}))


def check_client_config(plane: Plane, request: Request) -> Answer:
    """46: whether a subscription other than by tags can be served."""
    del plane
    body = json_object(request.body)
    data = body.get("subscriptionData")
    kind = text_of(data.get("expressionType"), TAG_TYPE) if isinstance(data, dict) else TAG_TYPE
    if kind in {TAG_TYPE, ""}:
        return OK
    raise refused(
        "this broker filters by tags only",
        expression_type=kind,
        allowed=TAG_TYPE,
        group=text_of(body.get("group")),
    )


def lock_queues(plane: Plane, request: Request) -> Answer:
    """41: take or renew queue locks; queues that others own are left out of the answer."""
    group, client_id, queues = _lock_body(request)
    held = plane.locks.holds(group, now_ms=request.now_ms)
    known = [queue for queue in queues if plane.topics.has_queue(queue.topic, queue.queue_id)]
    owned = plane.locks.lock(group, client_id, known, now_ms=request.now_ms)
    if plane.locks.holds(group, now_ms=request.now_ms) != held:
        plane.groups.changed.add(group)
    return Answer(body=jsonish.dumps({"lockOKMQSet": [_queue_json(queue) for queue in owned]}))


def unlock_queues(plane: Plane, request: Request) -> Answer:
    """42: give queue locks back."""
    group, client_id, queues = _lock_body(request)
    held = plane.locks.holds(group, now_ms=request.now_ms)
    plane.locks.unlock(group, client_id, queues)
    if plane.locks.holds(group, now_ms=request.now_ms) != held:
        plane.groups.changed.add(group)
    return OK


def consumer_connections(plane: Plane, request: Request) -> Answer:
    """203: members and subscriptions of a group."""
    group = need_text(request.ext, "consumerGroup")
    online = plane.clients.groups.get(group)
    if online is None or not online.members:
        raise RequestRefused(
            ResponseCode.CONSUMER_NOT_ONLINE, "the consumer group is not online", group=group
        )
    body = {
        "connectionSet": _connections(online.members.values()),
        "consumeFromWhere": online.consume_from_where,
        "consumeType": online.consume_type,
        "messageModel": online.message_model,
        "subscriptionTable": {
            topic: subscription_json(subscription)
            for topic, subscription in sorted(online.subscriptions.items())
        },
    }
    return Answer(body=jsonish.dumps(body))


def producer_connections(plane: Plane, request: Request) -> Answer:
    """204: members of a producer group."""
    group = need_text(request.ext, "producerGroup")
    members = plane.clients.producers.get(group)
    if not members:
        raise refused("the producer group has no connection", group=group)
    return Answer(body=jsonish.dumps({"connectionSet": _connections(members.values())}))


def all_producers(plane: Plane, request: Request) -> Answer:
    """328: all producers by group."""
    data = {
        group: [
            {
                "clientId": member.client.client_id,
                "language": member.client.language,
                "lastUpdateTimestamp": plane.wall_ms() - (request.now_ms - member.heard_ms),
                "remoteIP": member.client.peer,
                "version": member.client.version,
            }
            for member in members.values()
        ]
        for group, members in sorted(plane.clients.producers.items())
    }
    return Answer(body=jsonish.dumps({"data": data}))


def groups_of_topic(plane: Plane, request: Request) -> Answer:
    """300: groups that subscribe a topic or have consumed of it."""
    topic = need_text(request.ext, "topic")
    groups = {*plane.clients.groups_subscribing(topic), *plane.offsets.groups_of(topic)}
    return Answer(body=jsonish.dumps({"groupList": sorted(groups)}))


def topics_of_group(plane: Plane, request: Request) -> Answer:
    """343: topics that a group has consumed of."""
    group = need_text(request.ext, "group")
    body = {"brokerAddr": plane.identity.address, "topicList": plane.offsets.topics_of(group)}
    return Answer(body=jsonish.dumps(body))


def subscription_of_group(plane: Plane, request: Request) -> Answer:
    """345: a group's subscription of a topic; absent from the answer when there is none."""
    group = need_text(request.ext, "group")
    topic = request.ext.get("topic", "")
    body: dict[str, Any] = {"group": group, "topic": topic}
    online: OnlineGroup | None = plane.clients.groups.get(group)
    subscription = online.subscriptions.get(topic) if online else None
    if subscription is not None:
        body["subscriptionData"] = subscription_json(subscription)
    return Answer(body=jsonish.dumps(body))


def subscription_json(subscription: Subscription) -> dict[str, Any]:
    """A subscription as bodies carry it."""
    return {
        "classFilterMode": subscription.class_filter_mode,
        "codeSet": list(subscription.codes),
        "expressionType": subscription.expression_type,
        "subString": subscription.sub_string,
        "subVersion": subscription.version,
        "tagsSet": list(subscription.tags),
        "topic": subscription.topic,
    }


def _client_id(value: object) -> str:
    client_id = text_of(value)
    if not 0 < len(client_id) <= CLIENT_ID_LENGTH_MAX:
        raise refused(
            "clientID is missing or too long",
            length=len(client_id),
            allowed=(1, CLIENT_ID_LENGTH_MAX),
        )
    return client_id


def _consumer_data(data: dict[str, Any], *, keeps_subscriptions: bool) -> ConsumerData:
    subscriptions: dict[str, Subscription] | None = None
    if not keeps_subscriptions:
        parsed = [_subscription(item) for item in objects_of(data.get("subscriptionDataSet"))]
        subscriptions = {subscription.topic: subscription for subscription in parsed}
    return ConsumerData(
        group=text_of(data.get("groupName")),
        consume_type=text_of(data.get("consumeType")),
        message_model=text_of(data.get("messageModel"), DEFAULT_MODEL),
        consume_from_where=text_of(data.get("consumeFromWhere")),
        unit_mode=bool_of(data.get("unitMode")),
        subscriptions=subscriptions,
    )


def _subscription(data: dict[str, Any]) -> Subscription:
    sub_string = text_of(data.get("subString"), EVERYTHING)
    tags = tuple(sorted(text_of(tag) for tag in data.get("tagsSet") or ()))
    codes = tuple(sorted({_java_int(int_of(code)) for code in data.get("codeSet") or ()}))
    kind = text_of(data.get("expressionType")) or TAG_TYPE
    if not codes and kind == TAG_TYPE and sub_string not in {EVERYTHING, ""}:
        tags = tags or tuple(sorted(tag.strip() for tag in sub_string.split("||") if tag.strip()))
        codes = tuple(sorted({hash_code(tag) for tag in tags}))
    return Subscription(
        topic=text_of(data.get("topic")),
        sub_string=sub_string,
        expression_type=kind,
        tags=tags,
        codes=codes,
        version=int_of(data.get("subVersion")),
        class_filter_mode=bool_of(data.get("classFilterMode")),
    )


def _java_int(value: int) -> int:
    """The same 32 bits as a signed number; some clients send hash codes unsigned."""
    return (value + INT_SPAN // 2) % INT_SPAN - INT_SPAN // 2


def _lock_body(request: Request) -> tuple[str, str, list[LockedQueue]]:
    body = json_object(request.body)
    group = text_of(body.get("consumerGroup"))
    names.check_group(group)
    client_id = _client_id(body.get("clientId"))
    queues = objects_of(body.get("mqSet"))
    if len(queues) > QUEUES_IN_LOCK_MAX:
        raise refused("too many queues", found=len(queues), allowed_max=QUEUES_IN_LOCK_MAX)
    return (
        group,
        client_id,
        [
            LockedQueue(
                text_of(queue.get("brokerName")),
                text_of(queue.get("topic")),
                int_of(queue.get("queueId")),
            )
            for queue in queues
        ],
    )


def _queue_json(queue: LockedQueue) -> dict[str, Any]:
    return {"brokerName": queue.broker_name, "queueId": queue.queue_id, "topic": queue.topic}


def _connections(members: Iterable[Member]) -> list[dict[str, Any]]:
    return [
        {
            "clientAddr": member.client.peer,
            "clientId": member.client.client_id,
            "language": member.client.language,
            "version": member.client.version,
        }
        for member in members
    ]


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.HEART_BEAT: heart_beat,
    RequestCode.UNREGISTER_CLIENT: unregister_client,
    RequestCode.GET_CONSUMER_LIST_BY_GROUP: consumer_list,
    RequestCode.CHECK_CLIENT_CONFIG: check_client_config,
    RequestCode.LOCK_BATCH_MQ: lock_queues,
    RequestCode.UNLOCK_BATCH_MQ: unlock_queues,
    RequestCode.GET_CONSUMER_CONNECTION_LIST: consumer_connections,
    RequestCode.GET_PRODUCER_CONNECTION_LIST: producer_connections,
    RequestCode.GET_ALL_PRODUCER_INFO: all_producers,
    RequestCode.QUERY_TOPIC_CONSUME_BY_WHO: groups_of_topic,
    RequestCode.QUERY_TOPICS_BY_CONSUMER: topics_of_group,
    RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER: subscription_of_group,
}

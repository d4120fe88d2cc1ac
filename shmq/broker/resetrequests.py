"""Requests that set a group's offsets for it: by time, by number, or as another group has them.

    222 with a group of clustering members, or without any   a reset waits in the broker (resets.py)
    222 with broadcasting members, whose clients have the    220 to each member, and nothing else
        offsets, or with useServerSideResetOffset=false

Source: RocketMQ broker/processor/AdminBrokerProcessor.resetOffset, broker/client/net/Broker2Client;
spec request-codes.md sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from shmq.broker.clients import BROADCASTING, ConnectionId, Member
from shmq.broker.fields import INT_MAX, LONG_MAX, flag, need_int, need_text, refused
from shmq.broker.plane import OK, Answer, Handler, Plane, Request
from shmq.broker.topicrequests import queue_json
from shmq.errors import RequestRefused
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import OUR_LANGUAGE
from shmq.wire.internal import Push
from shmq.wire.pull import RESET_NUMBER

ALL_QUEUES: Final = -1
NO_OFFSET: Final = -1
CPP: Final = "CPP"


def reset_offsets(plane: Plane, request: Request) -> Answer:
    """222: let a group consume again, or skip; the new offset of each queue.

    A negative timestamp means the end of the queue. Of all queues, without isForce, those that
    would move forward stay where they are.
    """
    topic, group = need_text(request.ext, "topic"), need_text(request.ext, "group")
    timestamp = need_int(request.ext, "timestamp", low=-LONG_MAX, high=LONG_MAX)
    plane.topics.need(topic)
    plane.groups.need(group)
    online = plane.clients.groups.get(group)
    broadcasts = online is not None and online.message_model == BROADCASTING
    offsets = _wanted(plane, request, group, topic, timestamp)
    if broadcasts or not plane.server_side_resets:
        members = online.members if online is not None else {}
        _reset_in_clients(plane, group, topic, timestamp, offsets, members=members)
    else:
        _reset_here(plane, group, topic, offsets)
    plane.event(
        "info", "offsets.reset", group=group, topic=topic, offsets=offsets, peer=request.peer
    )
    return Answer(body=jsonish.dumps({"offsetTable": _table(plane, topic, offsets)}))


def _wanted(
    plane: Plane, request: Request, group: str, topic: str, timestamp: int
) -> dict[int, int]:
    """New offset of each queue that is meant."""
    ext = request.ext
    queue_count = plane.topics.need(topic).read_queue_nums
    queue_id = need_int(ext, "queueId", low=ALL_QUEUES, high=INT_MAX) if "queueId" in ext else -1
    if queue_id == ALL_QUEUES:
        found = {queue: _at(plane, topic, queue, timestamp) for queue in range(queue_count)}
        if flag(ext, "isForce"):
            return found
        return {queue: _backward(plane, group, topic, queue, at) for queue, at in found.items()}
    if queue_id >= queue_count:
        raise refused("no such queue", topic=topic, found=queue_id, allowed=(0, queue_count - 1))
    offset = need_int(ext, "offset", low=NO_OFFSET, high=LONG_MAX) if "offset" in ext else NO_OFFSET
    if offset == NO_OFFSET:
        return {queue_id: _at(plane, topic, queue_id, timestamp)}
    low, high = plane.topics.offsets(topic, queue_id)
    if not low <= offset <= high + 1:  # One past the end is let through by Apache's broker too.
        raise refused(
            "Target offset is not in the consume queue's range",
            topic=topic,
            queue_id=queue_id,
            found=offset,
            allowed=(low, high),
        )
    return {queue_id: min(offset, high)}


def _at(plane: Plane, topic: str, queue_id: int, timestamp: int) -> int:
    if timestamp < 0:
        return plane.topics.offsets(topic, queue_id)[1]
    return plane.offset_at(topic, queue_id, timestamp)


def _backward(plane: Plane, group: str, topic: str, queue_id: int, offset: int) -> int:
    committed = plane.offsets.get(group, topic, queue_id)
    return offset if committed is None else min(offset, committed)


def _reset_here(plane: Plane, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    number = plane.resets.assign(group, topic, offsets)
    for queue_id, offset in offsets.items():
        plane.offsets.commit(group, topic, queue_id, offset)
    plane.groups.changed.add(group)
    online = plane.clients.groups.get(group)
    for connection, member in (online.members if online is not None else {}).items():
        if member.client.language == OUR_LANGUAGE:
            _push(plane, connection, group, topic, offsets, number=number)


def _reset_in_clients(
    plane: Plane,
    group: str,
    topic: str,
    timestamp: int,
    offsets: Mapping[int, int],
    *,
    members: Mapping[ConnectionId, Member],
) -> None:
    if not members:
        raise RequestRefused(
            ResponseCode.CONSUMER_NOT_ONLINE,
            "Consumer not online, so can not reset offset",
            group=group,
            topic=topic,
            timestamp=timestamp,
        )
    for connection, member in members.items():
        as_list = member.client.language == CPP
        _push(plane, connection, group, topic, offsets, timestamp=timestamp, as_list=as_list)


def _push(
    plane: Plane,
    connection: ConnectionId,
    group: str,
    topic: str,
    offsets: Mapping[int, int],
    *,
    number: int = 0,
    timestamp: int = -1,
    as_list: bool = False,
) -> None:
    """Send a 220. The C++ client wants the offsets as a list."""
    ext = {"group": group, "topic": topic, "timestamp": str(timestamp), "isForce": "true"}
    if number:
        ext[RESET_NUMBER] = str(number)
    table: object = _table(plane, topic, offsets)
    if as_list:
        table = [
            {**queue_json(plane, topic, queue_id), "offset": offset}
            for queue_id, offset in offsets.items()
        ]
    code = RequestCode.RESET_CONSUMER_CLIENT_OFFSET
    body = jsonish.dumps({"offsetTable": table})
    plane.pushes.append((connection, Push(connection.connection, code, ext, body)))


def _table(plane: Plane, topic: str, offsets: Mapping[int, int]) -> jsonish.ObjectKeyed:
    return jsonish.ObjectKeyed(
        [(queue_json(plane, topic, queue_id), offset) for queue_id, offset in offsets.items()]
    )


def tell_member(plane: Plane, group: str, connection: ConnectionId) -> None:
    """Tell a native client that has just come, or come back, of what waits for its group."""
    online = plane.clients.groups.get(group)
    member = online.members.get(connection) if online is not None else None
    if member is None or member.client.language != OUR_LANGUAGE:
        return
    by_request: dict[tuple[str, int], dict[int, int]] = {}
    for reset in plane.resets.of_group(group):
        by_request.setdefault((reset.topic, reset.number), {})[reset.queue_id] = reset.offset
    for (topic, number), offsets in by_request.items():
        _push(plane, connection, group, topic, offsets, number=number)


def note_query(plane: Plane, request: Request, group: str, topic: str, queue_id: int) -> None:
    """The offset is being told: a native client that waits for it begins there."""
    reset = plane.resets.get(group, topic, queue_id)
    if reset is not None and request.language == OUR_LANGUAGE:
        reset.told.add(request.connection)


def is_stale(
    plane: Plane, request: Request, group: str, topic: str, queue_id: int, *, offset: int
) -> bool:
    """Whether a commit comes from before a reset that waits; it may also be what ends the waiting.

    Java's consumers up to 4.x commit the reset's offset 10 s after they were told, and look at the
    queue again with the next rebalance, of which they are reminded here.
    """
    reset = plane.resets.get(group, topic, queue_id)
    if reset is None:
        return not plane.resets.takes_commit(group, topic, queue_id)
    if request.language == OUR_LANGUAGE:
        if request.connection in reset.told or offset == reset.offset:
            plane.adopted(group, topic, queue_id, reset.number)
            return False
        return True
    online = plane.clients.groups.get(group)
    if offset == reset.offset and online is not None and request.connection in online.members:
        plane.remind(group, [request.connection])
    return True


def clone_offsets(plane: Plane, request: Request) -> Answer:
    """314: give a group the offsets of another, of one topic or of all."""
    source = need_text(request.ext, "srcGroup")
    target = need_text(request.ext, "destGroup")
    plane.groups.need_or_create(target)
    for topic in _topics_to_clone(plane, request, source):
        for queue_id, offset in plane.offsets.of(source, topic).items():
            plane.offsets.commit(target, topic, queue_id, offset)
    return OK


def _topics_to_clone(plane: Plane, request: Request, source: str) -> Iterable[str]:
    topic = request.ext.get("topic", "").strip()
    online = plane.clients.groups.get(source)
    for one in [topic] if topic else plane.offsets.topics_of(source):
        subscribed = online is None or one in online.subscriptions
        if one in plane.topics.configs and (flag(request.ext, "offline") or subscribed):
            yield one


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.INVOKE_BROKER_TO_RESET_OFFSET: reset_offsets,
    RequestCode.CLONE_GROUP_OFFSET: clone_offsets,
}

"""Requests about how far groups have consumed.

Source: RocketMQ broker/processor/{ConsumerManage,AdminBroker}Processor; spec request-codes.md
sections 3 and 5, features.md section 8.
"""

from __future__ import annotations

from typing import Final

from shmq.broker import resetrequests, tablebodies
from shmq.broker.fields import LONG_MAX, flag, need_int, need_text, refused
from shmq.broker.offsets import QUEUE_ID_MAX
from shmq.broker.plane import OK, Answer, Handler, Plane, Request
from shmq.broker.topicrequests import queue_json
from shmq.errors import RequestRefused
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode


def query_offset(plane: Plane, request: Request) -> Answer:
    """14: the committed offset; where nothing is known, 22 lets the client decide where to begin.

    A group that is new to a queue begins at 0 when all messages of the queue are still in memory,
    as with Apache's broker: so a group loses nothing of a topic that has just begun.
    """
    group = need_text(request.ext, "consumerGroup")
    topic = need_text(request.ext, "topic")
    queue_id = need_int(request.ext, "queueId")
    offset = plane.offsets.get(group, topic, queue_id)
    resetrequests.note_query(plane, request, group, topic, queue_id)
    if offset is None and flag(request.ext, "setZeroIfNotFound", default=True):
        min_offset, max_offset = plane.topics.offsets(topic, queue_id)
        if min_offset <= 0 < max_offset and plane.first_is_in_memory(topic, queue_id):
            offset = 0
    if offset is None:
        raise RequestRefused(
            ResponseCode.QUERY_NOT_FOUND,
            "nothing was committed yet",
            group=group,
            topic=topic,
            queue_id=queue_id,
        )
    return Answer(ext={"offset": str(offset)})


def update_offset(plane: Plane, request: Request) -> Answer:
    """15: commit an offset; not taken, with success, while a reset waits for its consumer."""
    group = need_text(request.ext, "consumerGroup")
    topic = need_text(request.ext, "topic")
    queue_id = need_int(request.ext, "queueId", low=0, high=QUEUE_ID_MAX)
    offset = need_int(request.ext, "commitOffset", low=0, high=LONG_MAX)
    plane.groups.need(group)
    plane.topics.need(topic)
    if resetrequests.is_stale(plane, request, group, topic, queue_id, offset=offset):
        return Answer(remark="Offset has been previously reset")
    plane.offsets.commit(group, topic, queue_id, offset)
    return OK


def all_offsets(plane: Plane, request: Request) -> Answer:
    """43: the whole offset table, for a slave."""
    del request
    if not len(plane.offsets):
        raise refused("no offset was committed yet")
    return Answer(body=tablebodies.encode(plane.offsets.body()))


def consume_stats(plane: Plane, request: Request) -> Answer:
    """208: how far a group is behind, queue by queue."""
    group = need_text(request.ext, "consumerGroup")
    online = plane.clients.groups.get(group)
    pairs = []
    for topic in _topics_wanted(plane, request, group):
        config = plane.topics.get(topic)
        if config is None or (online is not None and topic not in online.subscriptions):
            continue
        for queue_id in range(config.read_queue_nums):
            _, max_offset = plane.topics.offsets(topic, queue_id)
            committed = plane.offsets.get(group, topic, queue_id) or 0
            value = {
                "brokerOffset": max_offset,
                "consumerOffset": committed,
                "lastTimestamp": 0,
                "pullOffset": committed,
            }
            pairs.append((queue_json(plane, topic, queue_id), value))
    body = {"consumeTps": 0.0, "offsetTable": jsonish.ObjectKeyed(pairs)}
    return Answer(body=jsonish.dumps(body))


def _topics_wanted(plane: Plane, request: Request, group: str) -> list[str]:
    listed = request.ext.get("topicList") or ""
    wanted = [topic for topic in (request.ext.get("topic"), *listed.split(";")) if topic]
    return wanted or plane.offsets.topics_of(group)


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.QUERY_CONSUMER_OFFSET: query_offset,
    RequestCode.UPDATE_CONSUMER_OFFSET: update_offset,
    RequestCode.GET_ALL_CONSUMER_OFFSET: all_offsets,
    RequestCode.GET_CONSUME_STATS: consume_stats,
}

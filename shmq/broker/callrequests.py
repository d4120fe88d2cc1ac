"""Requests that are answered with what clients say of themselves.

    223 INVOKE_BROKER_TO_GET_CONSUMER_STATUS  221 to each member of a group, or to one of them
    307 GET_CONSUMER_RUNNING_INFO             307 to one member, whose answer is passed on

Source: RocketMQ broker/client/net/Broker2Client.getConsumeStatus,
processor/AdminBrokerProcessor.callConsumer; spec request-codes.md section 7.
"""

from __future__ import annotations

from typing import Any, Final

from shmq.broker.calls import Heard, Question
from shmq.broker.clients import ConnectionId, Member
from shmq.broker.fields import flag, int_of, need_text, refused
from shmq.broker.plane import Answer, Handler, Plane, Request
from shmq.errors import ProtocolError, RequestRefused
from shmq.units import SECOND_MS, KiB
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode

STATUS_WAIT_MS: Final = 5 * SECOND_MS
STATUS_SIZE_MAX: Final = 256 * KiB
"""Longer answers of a client to 221 are not looked at: reading them takes too long."""
STATUS_VERSION_MIN: Final = 28
RUNNING_INFO_WAIT_MS: Final = 10 * SECOND_MS
RUNNING_INFO_VERSION_MIN: Final = 62


def consumer_status(plane: Plane, request: Request) -> Answer | None:
    """223: how far the members of a group have come, as they know it; who is silent is left out."""
    topic, group = need_text(request.ext, "topic"), need_text(request.ext, "group")
    wanted = request.ext.get("clientAddr", "").strip()
    members = _members(plane, group)
    if not members:
        raise refused("No Any Consumer online in the consumer group", group=group)
    for member in members.values():
        _check_version(member, STATUS_VERSION_MIN)
    heard = plane.calls.ask(
        _question(request),
        {
            connection: member.client.client_id
            for connection, member in members.items()
            if wanted in {"", member.client.client_id}
        },
        code=RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT,
        ext={"topic": topic, "group": group},
        wait_ms=STATUS_WAIT_MS,
        now_ms=request.now_ms,
    )
    if heard is None:
        return None
    table = {one.client_id: status for one in heard if (status := _status(one)) is not None}
    return Answer(body=jsonish.dumps({"consumerTable": table, "messageQueueTable": {}}))


def running_info(plane: Plane, request: Request) -> Answer | None:
    """307: what a consumer says of itself, its threads too if asked to."""
    group, client_id = need_text(request.ext, "consumerGroup"), need_text(request.ext, "clientId")
    found = {
        connection: member
        for connection, member in _members(plane, group).items()
        if member.client.client_id == client_id
    }
    if not found:
        raise refused("the consumer is not online", group=group, client_id=client_id)
    connection, member = next(iter(found.items()))
    _check_version(member, RUNNING_INFO_VERSION_MIN)
    ext = {"consumerGroup": group, "clientId": client_id}
    if flag(request.ext, "jstackEnable"):
        ext["jstackEnable"] = "true"
    heard = plane.calls.ask(
        _question(request),
        {connection: client_id},
        code=RequestCode.GET_CONSUMER_RUNNING_INFO,
        ext=ext,
        wait_ms=RUNNING_INFO_WAIT_MS,
        now_ms=request.now_ms,
    )
    if heard is None:
        return None
    called = heard[0].called
    if called is None:
        raise RequestRefused(
            ResponseCode.CONSUME_MSG_TIMEOUT, "the consumer did not answer", client_id=client_id
        )
    return Answer(called.code, called.remark, called.ext, called.body)


def _question(request: Request) -> Question:
    return Question(request.connection, request.code, tuple(sorted(request.ext.items())))


def _members(plane: Plane, group: str) -> dict[ConnectionId, Member]:
    online = plane.clients.groups.get(group)
    return dict(online.members) if online is not None else {}


def _check_version(member: Member, version_min: int) -> None:
    if member.client.version < version_min:
        raise refused(
            "the client does not support this feature",
            client_id=member.client.client_id,
            version=member.client.version,
            allowed_min=version_min,
        )


def _status(heard: Heard) -> jsonish.ObjectKeyed | None:
    """Offsets by queue in a client's answer to 221, None if that is none."""
    called = heard.called
    if called is None or called.code != ResponseCode.SUCCESS or len(called.body) > STATUS_SIZE_MAX:
        return None
    try:
        found: Any = jsonish.loads(called.body)
        table = found.get("messageQueueTable") if isinstance(found, dict) else None
        pairs = table if isinstance(table, jsonish.ObjectKeyed) else []
        return jsonish.ObjectKeyed([(queue, int_of(offset)) for queue, offset in pairs])
    except (ProtocolError, RequestRefused, ValueError):
        return None


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS: consumer_status,
    RequestCode.GET_CONSUMER_RUNNING_INFO: running_info,
}

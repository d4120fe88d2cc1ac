"""Resets as the coordinator keeps them: what is reset to where, who is told, what outlives it."""

from __future__ import annotations

from typing import Any

import pytest

from shmq.wire import internal, jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.internal import Adopted, Call, Called, Commit, GroupUpdate, Push
from shmq.wire.pull import RESET_NUMBER
from tests.unit.broker.conftest import MakeRoom
from tests.unit.broker.controlroom import ControlRoom, replies

RESET = RequestCode.INVOKE_BROKER_TO_RESET_OFFSET
STATUS = RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS


@pytest.fixture
def room(make_room: MakeRoom) -> ControlRoom:
    """A topic of three queues with offsets 10 to 100, one to 5 and an empty one; group G."""
    room = make_room()
    room.create_topic("T", queues=3)
    room.heartbeat("c", "G")
    room.settle()
    for queue_id, (low, high) in enumerate(((10, 100), (0, 5), (0, 0))):
        slot = room.queues.slot("T", queue_id)
        assert slot is not None
        room.queues.min_offsets[slot] = low
        room.queues.max_offsets[slot] = high
    return room


def ask(room: ControlRoom, **ext: Any) -> internal.Reply:
    """Answer to a reset of group G."""
    fields = {"topic": "T", "group": "G", "timestamp": 50, "isForce": "true"} | ext
    return room.reply(RESET, {name: str(value) for name, value in fields.items()})


def reset(room: ControlRoom, **ext: Any) -> list[int]:
    """Reset group G; the new offsets of the queues that were meant."""
    reply = ask(room, **ext)
    assert reply.code == 0, reply.remark
    table = jsonish.loads(reply.body)["offsetTable"]
    assert all(queue["brokerName"] == "B" and queue["topic"] == "T" for queue, _ in table)
    for queue, offset in table:
        assert room.plane.offsets.get("G", "T", queue["queueId"]) == offset
    return [offset for _, offset in table]


def commit(room: ControlRoom, offset: int, *, queue_id: int = 0) -> str | None:
    """Commit as a consumer; the remark of the answer, which is success."""
    ext = {
        "consumerGroup": "G",
        "topic": "T",
        "queueId": str(queue_id),
        "commitOffset": str(offset),
    }
    reply = room.reply(RequestCode.UPDATE_CONSUMER_OFFSET, ext)
    assert reply.code == 0
    return reply.remark


@pytest.mark.parametrize(
    ("ext", "offsets"),
    [
        ({}, [50, 5, 0]),
        ({"timestamp": 0}, [10, 0, 0]),
        ({"timestamp": -1}, [100, 5, 0]),
        ({"timestamp": 3, "queueId": -1, "offset": -1}, [10, 3, 0]),
        ({"queueId": 1, "timestamp": 2}, [2]),
        ({"queueId": 0, "offset": 99, "timestamp": 0}, [99]),
        ({"queueId": 0, "offset": 10, "isForce": "false"}, [10]),
        ({"queueId": 0, "offset": 101}, [100]),
    ],
)
def test_what_is_reset_to_where(room: ControlRoom, ext: dict[str, Any], offsets: list[int]) -> None:
    assert reset(room, **ext) == offsets


def test_only_backwards_without_force(room: ControlRoom) -> None:
    commit(room, 30)
    commit(room, 5, queue_id=1)
    assert reset(room, isForce="false", timestamp=40) == [30, 5, 0]
    assert reset(room, isForce="false", timestamp=4) == [10, 4, 0]
    assert reset(room, timestamp=40) == [40, 5, 0]


@pytest.mark.parametrize(
    ("ext", "code"),
    [
        ({"topic": "none"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"group": "none"}, ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST),
        ({"queueId": 3}, ResponseCode.SYSTEM_ERROR),
        ({"queueId": -2}, ResponseCode.SYSTEM_ERROR),
        ({"queueId": 0, "offset": 9}, ResponseCode.SYSTEM_ERROR),
        ({"queueId": 0, "offset": 102}, ResponseCode.SYSTEM_ERROR),
        ({"queueId": 0, "offset": -2}, ResponseCode.SYSTEM_ERROR),
        ({"timestamp": "noon"}, ResponseCode.SYSTEM_ERROR),
    ],
)
def test_what_cannot_be_reset(room: ControlRoom, ext: dict[str, Any], code: int) -> None:
    commit(room, 30)
    assert ask(room, **ext).code == code
    assert room.plane.offsets.get("G", "T", 0) == 30
    assert commit(room, 31) is None


def test_every_serve_process_hears_before_the_answer(room: ControlRoom) -> None:
    room.ask(RESET, {"topic": "T", "group": "G", "timestamp": "50", "isForce": "true"})
    update, reply = (one.message for one in room.settle())
    assert isinstance(update, GroupUpdate)
    assert isinstance(reply, internal.Reply)
    (view,) = update.groups
    assert [(one.topic, one.queue_id, one.offset) for one in view.resets] == [
        ("T", 0, 50),
        ("T", 1, 5),
        ("T", 2, 0),
    ]
    assert len({one.number for one in view.resets}) == 1


def adopt(room: ControlRoom, queue_id: int = 0) -> None:
    """A consumer pulls from where queue was reset to."""
    waiting = room.plane.resets.get("G", "T", queue_id)
    assert waiting is not None
    room.send(Adopted("G", "T", queue_id, waiting.number))
    (update,) = [one.message for one in room.settle()]
    assert isinstance(update, GroupUpdate)


def test_commits_count_when_it_was_adopted(room: ControlRoom) -> None:
    reset(room)
    room.send(Commit([("G", "T", 0, 77), ("G", "T", 1, 4)]))
    assert commit(room, 77) is not None
    assert room.plane.offsets.get("G", "T", 0) == 50
    room.send(Adopted("G", "T", 0, 1))
    assert commit(room, 77) is not None, "of another reset"
    adopt(room)
    assert commit(room, 77) is None
    room.send(Commit([("G", "T", 0, 78), ("G", "T", 1, 4)]))
    assert room.plane.offsets.of("G", "T") == {0: 78, 1: 5, 2: 0}


def test_a_successor_has_what_waits(room: ControlRoom, make_room: MakeRoom) -> None:
    """Also when the journal with the offsets was lost, as in a power cut."""
    commit(room, 90)
    room.plane.offsets.save()
    first = reset(room)
    adopt(room, 1)
    numbers = [view.number for view in room.plane.resets.of_group("G")]
    (room.folder / "offsets.journal").unlink()
    successor = make_room()
    assert successor.plane.offsets.get("G", "T", 0) == first[0]
    assert [view.number for view in successor.plane.resets.of_group("G")] == numbers
    assert commit(successor, 90) is not None
    assert successor.plane.resets.get("G", "T", 1) is None
    reset(successor)
    assert successor.plane.resets.of_group("G")[0].number > numbers[0]


def test_a_table_that_cannot_be_written(room: ControlRoom) -> None:
    """The operator hears of it."""
    (room.folder / "offsetReset.json.tmp").mkdir()
    reply = ask(room)
    assert reply.code == ResponseCode.SYSTEM_ERROR
    assert "resets" in (reply.remark or "")


@pytest.mark.parametrize("what", ["topic", "group"])
def test_what_is_deleted_waits_no_more(room: ControlRoom, what: str) -> None:
    reset(room)
    if what == "topic":
        room.reply(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "T"})
    else:
        room.reply(RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": "G"})
    assert room.plane.resets.of_group("G") == []
    assert not room.plane.resets.unsaved


def pushed(room: ControlRoom, **ext: Any) -> list[tuple[int, Push]]:
    """What clients are sent when group G is reset, by connection."""
    fields = {"topic": "T", "group": "G", "timestamp": "50", "isForce": "true"} | ext
    room.ask(RESET, fields, connection=9)
    found = [one.message for one in room.settle()]
    return [(one.connection, one) for one in found if isinstance(one, Push)]


def join(room: ControlRoom, connection: int, language: str, **more: Any) -> list[int]:
    """Have a client join; codes of what it is sent for it, but for 40."""
    room.heartbeat(f"c{connection}", "G", connection=connection, language=language, **more)
    sent = [one.message for one in room.settle()]
    codes = [one.code for one in sent if isinstance(one, Push) and one.connection == connection]
    return [code for code in codes if code != RequestCode.NOTIFY_CONSUMER_IDS_CHANGED]


def test_native_members_are_told(room: ControlRoom) -> None:
    """And told again when they come back, until they have adopted it."""
    join(room, 2, "PYTHON")
    ((connection, push),) = pushed(room)
    assert connection == 2
    assert push.code == RequestCode.RESET_CONSUMER_CLIENT_OFFSET
    assert (push.ext["group"], push.ext["topic"]) == ("G", "T")
    assert int(push.ext[RESET_NUMBER]) > 0
    table = jsonish.loads(push.body)["offsetTable"]
    assert [(queue["queueId"], offset) for queue, offset in table] == [(0, 50), (1, 5), (2, 0)]
    assert join(room, 3, "JAVA") == []
    assert join(room, 4, "PYTHON") == [RequestCode.RESET_CONSUMER_CLIENT_OFFSET]
    for queue_id in range(3):
        adopt(room, queue_id)
    assert join(room, 5, "PYTHON") == []


def test_broadcasting_members_have_the_offsets(room: ControlRoom) -> None:
    """All are told, each in its form; the broker's offsets stay as they are."""
    room.reply(RequestCode.UNREGISTER_CLIENT, {"clientID": "c", "consumerGroup": "G"})
    join(room, 2, "JAVA", model="BROADCASTING")
    join(room, 3, "CPP", model="BROADCASTING")
    (_, java), (_, cpp) = pushed(room)
    assert b'{"brokerName":"B","queueId":0,"topic":"T"}:50' in java.body
    assert jsonish.loads(cpp.body)["offsetTable"][0] == {
        "brokerName": "B",
        "topic": "T",
        "queueId": 0,
        "offset": 50,
    }
    assert room.plane.offsets.of("G", "T") == {}
    assert room.plane.resets.of_group("G") == []


def test_by_the_clients_alone(room: ControlRoom) -> None:
    """As 4.x has it; mqadmin takes 206 as a sign to commit the offsets itself."""
    room.plane.server_side_resets = False
    join(room, 2, "JAVA")
    assert [connection for connection, _ in pushed(room)] == [1, 2]
    assert room.plane.offsets.of("G", "T") == {}
    for connection in (1, 2):
        room.reply(
            RequestCode.UNREGISTER_CLIENT,
            {"clientID": "c", "consumerGroup": "G"},
            connection=connection,
        )
    assert ask(room).code == ResponseCode.CONSUMER_NOT_ONLINE


def test_clone(room: ControlRoom) -> None:
    commit(room, 33)
    commit(room, 3, queue_id=1)
    ext = {"srcGroup": "G", "destGroup": "H", "topic": "T", "offline": "false"}
    assert room.reply(RequestCode.CLONE_GROUP_OFFSET, ext).code == 0
    assert room.plane.offsets.of("H", "T") == {0: 33, 1: 3}
    commit(room, 34)
    assert room.reply(RequestCode.CLONE_GROUP_OFFSET, {**ext, "topic": ""}).code == 0
    assert room.plane.offsets.of("H", "T") == {0: 34, 1: 3}


# Questions to clients


def begin_status(room: ControlRoom) -> tuple[int, list[Call]]:
    """Ask for the members' status; the token of that, and what members are asked."""
    token = room.ask(STATUS, {"topic": "T", "group": "G"}, connection=9)
    return token, [one.message for one in room.settle() if isinstance(one.message, Call)]


def status_of(room: ControlRoom, token: int, passed_ms: int) -> dict[str, Any] | None:
    """The answer after some time, by client id."""
    found = [one for one in replies(room.pass_time(passed_ms)) if one.token == token]
    if not found:
        return None
    table: dict[str, Any] = jsonish.loads(found[0].body)["consumerTable"]
    return table


def test_status_of_members(room: ControlRoom) -> None:
    join(room, 1, "JAVA")
    join(room, 2, "JAVA")
    token, calls = begin_status(room)
    assert [(one.connection, one.code) for one in calls] == [(1, 221), (2, 221)]
    body = b'{"messageQueueTable":{{"brokerName":"B","queueId":1,"topic":"T"}:7}}'
    room.send(Called(calls[0].token, 0, body=body))
    assert status_of(room, token, 100) is None
    room.send(Called(calls[1].token, 0, body=b'{"messageQueueTable":{}}'))
    found = status_of(room, token, 100)
    assert found is not None
    assert sorted(found) == ["c1", "c2"]
    assert found["c1"] == [({"brokerName": "B", "queueId": 1, "topic": "T"}, 7)]
    room.send(Called(calls[1].token, 0, body=body))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messageQueueTable":{{"a":1}:"x"}}'])
def test_a_member_that_answers_nonsense(room: ControlRoom, body: bytes) -> None:
    join(room, 1, "JAVA")
    token, (call,) = begin_status(room)
    room.send(Called(call.token, 0, body=body))
    assert status_of(room, token, 100) in ({}, {"c1": {}})


def test_a_member_that_is_silent(room: ControlRoom) -> None:
    join(room, 1, "JAVA")
    token, _ = begin_status(room)
    assert status_of(room, token, 4900) is None
    assert status_of(room, token, 200) == {}


def test_running_info_is_passed_on(room: ControlRoom) -> None:
    join(room, 1, "JAVA")
    ext = {"consumerGroup": "G", "clientId": "c1", "jstackEnable": "true"}
    token = room.ask(RequestCode.GET_CONSUMER_RUNNING_INFO, ext, connection=9)
    (call,) = (one.message for one in room.settle() if isinstance(one.message, Call))
    assert (call.connection, call.code, call.ext) == (1, 307, ext)
    room.send(Called(call.token, 0, "remark", {"a": "b"}, b"body"))
    (reply,) = [one for one in replies(room.pass_time(100)) if one.token == token]
    assert (reply.code, reply.remark, reply.ext, reply.body) == (0, "remark", {"a": "b"}, b"body")
    assert room.reply(RequestCode.GET_CONSUMER_RUNNING_INFO, {**ext, "clientId": "x"}).code == 1

"""Who is online: heartbeats, lists of members, changes that members are told of, restarts."""

from __future__ import annotations

import pytest

from shmq.broker.clients import EXPIRY_MS
from shmq.wire import internal, jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.internal import Closed, Disconnect, GroupUpdate, TopicUpdate
from tests.unit.broker.conftest import MakeRoom
from tests.unit.broker.controlroom import ControlRoom, pushes, replies


def told(connection: int, group: str = "G", serve: int = 0) -> tuple[int, int, dict[str, str]]:
    return (serve, connection, {"consumerGroup": group})


def test_a_heartbeat_is_followed_by_a_list_with_the_caller(room: ControlRoom) -> None:
    """In one batch: the list (38) is asked before the heartbeat was answered."""
    heartbeat = room.heartbeat("c1", "G")
    asked = room.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "G"})
    sendings = room.settle()
    found = {reply.token: reply for reply in replies(sendings)}
    assert found[heartbeat].code == 0
    assert found[heartbeat].ext["IS_SUPPORT_HEART_BEAT_V2"] == "true"
    assert jsonish.loads(found[asked].body) == {"consumerIdList": ["c1"]}
    kinds = [type(sending.message).__name__ for sending in sendings]
    assert kinds == ["TopicUpdate", "GroupUpdate", "Reply", "Reply", "Push"]


def test_updates_go_to_everybody_before_the_reply(room: ControlRoom) -> None:
    room.settle()
    room.heartbeat("c1", "G", topics={"T": "a||b"})
    topics, groups, *_ = room.settle()
    assert topics.serve_index == groups.serve_index == -1
    assert isinstance(topics.message, TopicUpdate)
    assert isinstance(groups.message, GroupUpdate)
    (retry,) = topics.message.topics
    assert (retry.name, len(retry.slots), retry.perm) == ("%RETRY%G", 1, 6)
    (view,) = groups.message.groups
    assert (view.name, view.online, view.message_model) == ("G", True, "CLUSTERING")
    (sub,) = view.subscriptions
    assert (sub.topic, sub.sub_string, sub.codes) == ("T", "a||b", [97, 98])


def test_members_are_told_of_who_comes_and_goes(room: ControlRoom) -> None:
    room.heartbeat("c1", "G", connection=1)
    assert pushes(room.settle()) == [told(1)]
    room.heartbeat("c1", "G", connection=1)
    assert pushes(room.settle()) == [], "the same again is no change"
    room.heartbeat("c2", "G", connection=7, serve=1)
    assert pushes(room.settle()) == [told(1), told(7, serve=1)]
    assert room.members("G") == ["c1", "c2"]
    room.send(Closed(7), serve=1)
    assert pushes(room.settle()) == [told(1)]
    assert room.members("G") == ["c1"]
    room.heartbeat("c1", "G", topics={"T": "*", "U": "*"})
    assert pushes(room.settle()) == [told(1)], "another topic"
    room.heartbeat("c1", "G", topics={"T": "x", "U": "*"}, version=2)
    assert pushes(room.settle()) == [], "another expression is no matter of the queues"


def test_broadcasting_members_are_told_nothing(room: ControlRoom) -> None:
    room.heartbeat("c1", "G", model="BROADCASTING")
    room.heartbeat("c2", "G", model="BROADCASTING", connection=2)
    assert pushes(room.settle()) == []
    assert room.members("G") == ["c1", "c2"]


def test_leaving_on_request(room: ControlRoom) -> None:
    room.heartbeat("c1", "G", connection=1, producers=("P",))
    room.heartbeat("c2", "G", connection=2)
    room.settle()
    leaving = {"clientID": "c1", "consumerGroup": "G", "producerGroup": "P"}
    token = room.ask(RequestCode.UNREGISTER_CLIENT, leaving, connection=1)
    sendings = room.settle()
    assert [reply.code for reply in replies(sendings) if reply.token == token] == [0]
    assert pushes(sendings) == [told(2)]
    assert room.members("G") == ["c2"]
    asked = room.reply(RequestCode.GET_PRODUCER_CONNECTION_LIST, {"producerGroup": "P"})
    assert asked.code == ResponseCode.SYSTEM_ERROR


def test_an_empty_group_is_refused_not_listed(room: ControlRoom) -> None:
    """A client that gets an empty list drops all its queues."""
    assert room.members("G") is None
    room.heartbeat("c1", "G")
    room.send(Closed(1))
    room.settle()
    assert room.members("G") is None


def test_silent_clients_expire(room: ControlRoom) -> None:
    room.heartbeat("c1", "G", connection=1)
    room.settle()
    room.pass_time(EXPIRY_MS - 1000)
    room.heartbeat("c2", "G", connection=2)
    room.settle()
    assert room.pass_time(1000) == []
    sendings = room.pass_time(1001)
    assert [one.message for one in sendings if isinstance(one.message, Disconnect)] == [
        Disconnect(1)
    ]
    assert pushes(sendings) == [told(2)]
    assert room.members("G") == ["c2"]


def test_a_serve_that_died_takes_its_clients_along(room: ControlRoom) -> None:
    room.heartbeat("c1", "G", connection=1, serve=0)
    room.heartbeat("c2", "G", connection=1, serve=1)
    room.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "G"}, serve=0)
    room.control.serve_is_gone(0)
    sendings = room.settle()
    assert {sending.serve_index for sending in sendings} <= {-1, 1, 0}
    assert [
        sending.serve_index for sending in sendings if isinstance(sending.message, internal.Reply)
    ] == [1]
    assert room.members("G") == ["c2"]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"clientID": ""},
        {"clientID": "c" * 1025},
        {"clientID": "c", "consumerDataSet": {}},
        {"clientID": "c", "consumerDataSet": [1]},
        {"clientID": "c", "producerDataSet": [{}] * 4097},
        {
            "clientID": "c",
            "consumerDataSet": [{"groupName": "G", "subscriptionDataSet": [{"subVersion": "x"}]}],
        },
        {"clientID": "c", "heartbeatFingerprint": "9" * 30},
    ],
)
def test_heartbeats_that_make_no_sense(room: ControlRoom, body: object) -> None:
    reply = room.reply(RequestCode.HEART_BEAT, {}, body)
    assert reply.code == ResponseCode.SYSTEM_ERROR
    assert reply.remark
    assert room.members("G") is None


@pytest.mark.parametrize("group", ["", "a b", "../x", "g" * 256, "名"])
def test_a_group_whose_name_is_not_allowed_is_left_out(room: ControlRoom, group: str) -> None:
    room.heartbeat("c1", group, "G")
    room.settle()
    assert room.members("G") == ["c1"]
    assert group not in room.plane.groups.configs
    assert [event.name for event in room.plane.events] == ["consumer.refused"]


def test_groups_by_hand_only(make_room: MakeRoom) -> None:
    room = make_room(auto_create=False)
    room.heartbeat("c1", "G")
    room.settle()
    assert room.members("G") is None


def test_members_that_disagree_are_told_of_in_the_log(room: ControlRoom) -> None:
    room.heartbeat("c1", "G", connection=1, topics={"T": "a"})
    room.heartbeat("c2", "G", connection=2, topics={"T": "b"}, version=2)
    room.settle()
    assert [event.name for event in room.plane.events] == ["subscriptions.differed"]
    room.heartbeat("c1", "G", connection=1, topics={"T": "b"}, version=3)
    room.settle()
    assert [event.name for event in room.plane.events][1:] == ["subscriptions.agreed"]


def test_connections_of_a_group(room: ControlRoom) -> None:
    room.heartbeat("c1", "G", producers=("P",))
    room.settle()
    body = jsonish.loads(
        room.reply(RequestCode.GET_CONSUMER_CONNECTION_LIST, {"consumerGroup": "G"}).body
    )
    (connection,) = body["connectionSet"]
    assert (connection["clientId"], connection["clientAddr"]) == ("c1", "127.0.0.1:5001")
    assert body["subscriptionTable"]["T"]["subString"] == "*"
    offline = room.reply(RequestCode.GET_CONSUMER_CONNECTION_LIST, {"consumerGroup": "X"})
    assert offline.code == ResponseCode.CONSUMER_NOT_ONLINE
    producers = jsonish.loads(room.reply(RequestCode.GET_ALL_PRODUCER_INFO).body)
    assert [one["clientId"] for one in producers["data"]["P"]] == ["c1"]


# The coordinator restarts


def successor(room: ControlRoom, make_room: MakeRoom, *, within_ms: int = 10_000) -> ControlRoom:
    again = make_room()
    again.now_ms = room.now_ms
    again.plane.recall(room.plane.remember(), until_ms=room.now_ms + within_ms)
    return again


def test_nobody_is_told_while_all_come_back(room: ControlRoom, make_room: MakeRoom) -> None:
    room.heartbeat("c1", "G", connection=1)
    room.heartbeat("c2", "G", connection=2)
    room.settle()
    again = successor(room, make_room)
    token = again.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "G"})
    assert replies(again.settle()) == [], "the list waits for the members"
    again.heartbeat("c1", "G", connection=1)
    assert pushes(again.settle()) == []
    assert again.control.held_count == 1
    again.heartbeat("c2", "G", connection=2)
    assert pushes(again.settle()) == []
    found = {reply.token: reply for reply in replies(again.pass_time(100))}
    assert jsonish.loads(found[token].body) == {"consumerIdList": ["c1", "c2"]}
    again.heartbeat("c3", "G", connection=3)
    assert len(pushes(again.settle())) == 3, "from now on all are told again"


def test_who_stays_away_is_gone_after_a_while(room: ControlRoom, make_room: MakeRoom) -> None:
    room.heartbeat("c1", "G", connection=1)
    room.heartbeat("c2", "G", connection=2)
    room.heartbeat("c9", "H", connection=9)
    room.settle()
    again = successor(room, make_room)
    again.heartbeat("c1", "G", connection=1)
    token = again.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": "G"})
    again.pass_time(9_000)
    assert again.control.held_count == 1
    sendings = again.pass_time(1_000)
    assert pushes(sendings) == [told(1)]
    sendings += again.pass_time(1)
    found = {reply.token: reply for reply in replies(sendings)}
    assert jsonish.loads(found[token].body) == {"consumerIdList": ["c1"]}
    assert again.members("H") is None


def test_a_second_restart_remembers_the_late_ones_too(
    room: ControlRoom, make_room: MakeRoom
) -> None:
    room.heartbeat("c1", "G", connection=1)
    room.heartbeat("c2", "G", connection=2)
    room.settle()
    first = successor(room, make_room)
    first.heartbeat("c1", "G", connection=1)
    first.settle()
    (remembered,) = first.plane.remember()
    assert remembered.client_ids == ["c1", "c2"]
    second = successor(first, make_room)
    second.heartbeat("c1", "G", connection=1)
    second.heartbeat("c2", "G", connection=2)
    assert pushes(second.settle()) == []


def test_subscriptions_are_there_from_the_start(room: ControlRoom, make_room: MakeRoom) -> None:
    """Pulls that come before the heartbeats' replay find their subscription."""
    room.heartbeat("c1", "G", topics={"T": "a"})
    room.settle()
    again = successor(room, make_room)
    update = again.plane.complete_group_update(now_ms=again.now_ms)
    (view,) = [group for group in update.groups if group.name == "G"]
    assert view.online
    assert [sub.sub_string for sub in view.subscriptions] == ["a"]

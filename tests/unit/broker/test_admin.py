"""What administrators ask of topics and groups; each success is on disk."""

from __future__ import annotations

from typing import Any

import pytest

from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from tests.unit.broker.conftest import MakeRoom
from tests.unit.broker.controlroom import ControlRoom

TOPIC = {
    "topic": "T",
    "readQueueNums": "4",
    "writeQueueNums": "2",
    "perm": "6",
    "topicFilterType": "SINGLE_TAG",
    "order": "true",
}


def update_topic(room: ControlRoom, **fields: str) -> int:
    return room.reply(RequestCode.UPDATE_AND_CREATE_TOPIC, TOPIC | fields).code


def json(room: ControlRoom, code: int, ext: dict[str, str] | None = None) -> Any:
    reply = room.reply(code, ext)
    assert reply.code == 0, reply.remark
    return jsonish.loads(reply.body)


def test_a_topic_is_made_changed_and_deleted(room: ControlRoom, make_room: MakeRoom) -> None:
    assert update_topic(room) == 0
    found = json(room, RequestCode.GET_TOPIC_CONFIG, {"topic": "T"})
    assert (found["readQueueNums"], found["writeQueueNums"], found["order"]) == (4, 2, True)
    version = room.plane.topics.version.counter
    assert update_topic(room) == 0
    assert room.plane.topics.version.counter == version, "the same again"
    assert update_topic(room, perm="2", readQueueNums="6") == 0
    assert make_room().plane.topics.need("T").perm == 2
    stats = room.reply(RequestCode.GET_TOPIC_STATS_INFO, {"topic": "T"})
    assert stats.body.count(b'"maxOffset":0') == 6
    room.plane.offsets.commit("G", "T", 0, 5)
    assert room.reply(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "T"}).code == 0
    assert room.plane.offsets.get("G", "T", 0) is None
    again = make_room()
    assert again.plane.topics.get("T") is None
    assert again.plane.offsets.get("G", "T", 0) is None
    missing = room.reply(RequestCode.GET_TOPIC_CONFIG, {"topic": "T"})
    assert missing.code == ResponseCode.TOPIC_NOT_EXIST


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": "a b"},
        {"topic": ""},
        {"topic": "TBW102"},
        {"topic": "rmq_sys_x"},
        {"readQueueNums": "-1"},
        {"readQueueNums": "1025"},
        {"writeQueueNums": "x"},
        {"perm": "16"},
        {"perm": "-1"},
        {"attributes": "+no.such=1"},
        {"attributes": "+queue.type=BatchCQ"},
        {"attributes": "queue.type"},
        {"attributes": "-message.type"},
        {"attributes": "+reserve.time=x"},
    ],
)
def test_topics_that_are_refused(room: ControlRoom, fields: dict[str, str]) -> None:
    before = dict(room.plane.topics.configs)
    assert update_topic(room, **fields) != 0
    assert room.plane.topics.configs == before


@pytest.mark.parametrize("fields", [{"readQueueNums": "1024"}, {"perm": "15"}, {"perm": "0"}])
def test_topics_at_the_limits(room: ControlRoom, fields: dict[str, str]) -> None:
    assert update_topic(room, **fields) == 0


def test_attributes(room: ControlRoom) -> None:
    assert update_topic(room, attributes="+message.type=FIFO,+queue.type=SimpleCQ") == 0
    assert room.plane.topics.need("T").attributes["message.type"] == "FIFO"
    assert update_topic(room, attributes="-message.type,+reserve.time=5") == 0
    assert room.plane.topics.need("T").attributes == {
        "queue.type": "SimpleCQ",
        "reserve.time": "5",
    }
    assert update_topic(room, attributes="-queue.type") != 0


def test_several_topics_or_none(room: ControlRoom) -> None:
    def update(*names: str) -> int:
        configs = [
            {"topicName": name, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6}
            for name in names
        ]
        body = {"topicConfigList": configs}
        return room.reply(RequestCode.UPDATE_AND_CREATE_TOPIC_LIST, {}, body).code

    assert update("X", "Y", "c d") != 0
    assert room.plane.topics.get("X") is None
    assert update("X", "Y") == 0
    assert room.plane.topics.get("Y") is not None


def test_tables_as_a_whole(room: ControlRoom) -> None:
    update_topic(room)
    topics = json(room, RequestCode.GET_ALL_TOPIC_CONFIG)
    assert topics["topicConfigTable"]["T"]["writeQueueNums"] == 2
    assert "TBW102" in json(room, RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER)["topicList"]


def test_a_group_is_made_changed_and_deleted(room: ControlRoom, make_room: MakeRoom) -> None:
    config = {"groupName": "G", "retryMaxTimes": 3, "consumeEnable": False}
    assert room.reply(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, config).code == 0
    found = make_room().plane.groups.need("G")
    assert (found.retry_max_times, found.consume_enable) == (3, False)
    assert json(room, 352, {"group": "G"})["retryMaxTimes"] == 3
    table = json(room, RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
    assert table["subscriptionGroupTable"]["G"]["consumeEnable"] is False
    room.plane.offsets.commit("G", "T", 0, 5)
    gone = {"groupName": "G", "cleanOffset": "true"}
    assert room.reply(RequestCode.DELETE_SUBSCRIPTIONGROUP, gone).code == 0
    again = make_room()
    assert again.plane.groups.get("G") is None
    assert again.plane.offsets.get("G", "T", 0) is None


@pytest.mark.parametrize(
    "body", [None, [], {}, {"groupName": "a b"}, {"groupName": "G", "retryMaxTimes": "x"}]
)
def test_groups_that_are_refused(room: ControlRoom, body: object) -> None:
    assert room.reply(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, body).code != 0
    many = {"groupConfigList": [{"groupName": "Good"}, body]}
    assert room.reply(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, {}, many).code != 0
    assert room.plane.groups.get("Good") is None

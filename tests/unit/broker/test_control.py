"""The control plane as a whole: topics made by sending, answers that are durable, disk errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmq.errors import ShmqError, StoreError
from shmq.store.tables import TableFile
from shmq.wire import internal, jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.internal import CreateGroup, CreateTopic, TopicUpdate
from tests.unit.broker.conftest import MakeRoom
from tests.unit.broker.controlroom import ControlRoom, replies


def topics_on_disk(folder: Path) -> set[str]:
    return set(jsonish.loads((folder / "topics.json").read_bytes())["topicConfigTable"])


def test_a_topic_is_made_by_sending(room: ControlRoom, make_room: MakeRoom) -> None:
    room.settle()
    room.send(CreateTopic(5, "New", "TBW102", 16))
    update, reply = room.settle()
    assert update.serve_index == -1
    assert isinstance(update.message, TopicUpdate)
    (view,) = update.message.topics
    assert (view.name, view.perm, view.read_queue_nums, view.write_queue_nums) == ("New", 6, 8, 8)
    assert len(set(view.slots)) == 8
    assert isinstance(reply.message, internal.Reply)
    assert (reply.message.token, reply.message.code) == (5, 0)
    assert "New" in topics_on_disk(room.folder), "the answer promises it"
    again = make_room()
    assert again.plane.topics.need("New").write_queue_nums == 8


@pytest.mark.parametrize(("asked", "made"), [(0, 1), (1, 1), (8, 8), (9, 8), (-5, 1), (2**31, 8)])
def test_queue_counts_are_bounded_by_the_default_topic(
    room: ControlRoom, asked: int, made: int
) -> None:
    assert room.create_topic("New", queues=asked) == 0
    assert room.plane.topics.need("New").read_queue_nums == made


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", ResponseCode.INVALID_PARAMETER),
        ("a b", ResponseCode.INVALID_PARAMETER),
        ("../../etc", ResponseCode.INVALID_PARAMETER),
        ("a/b", ResponseCode.INVALID_PARAMETER),
        ("t" * 128, ResponseCode.INVALID_PARAMETER),
        ("名", ResponseCode.INVALID_PARAMETER),
    ],
)
def test_names_that_are_not_allowed(room: ControlRoom, name: str, code: int) -> None:
    assert room.create_topic(name) == code
    assert name not in room.plane.topics.configs


@pytest.mark.parametrize("name", ["t", "t" * 127, "%RETRY%" + "g" * 248, "a-b_c|d%1"])
def test_names_that_are_allowed(room: ControlRoom, name: str) -> None:
    assert room.create_topic(name) == 0


@pytest.mark.parametrize("default", ["", "Nope", "T2"])
def test_without_a_topic_to_inherit_from(room: ControlRoom, default: str) -> None:
    room.create_topic("T2")
    assert room.create_topic("New", default=default) == ResponseCode.TOPIC_NOT_EXIST


def test_not_by_sending_when_it_is_switched_off(make_room: MakeRoom) -> None:
    room = make_room(auto_create=False)
    assert room.create_topic("New") == ResponseCode.TOPIC_NOT_EXIST
    assert room.create_topic("%RETRY%G", default="") == 0, "the broker's own are made all the same"


def test_creating_again_is_no_error(room: ControlRoom) -> None:
    assert room.create_topic("New") == 0
    version = room.plane.topics.version
    assert room.create_topic("New", queues=1) == 0
    assert room.plane.topics.version == version


def test_a_full_queue_table_is_said(make_room: MakeRoom) -> None:
    room = make_room(queues_max=1_100)
    codes = [room.create_topic(f"T{number}", queues=8) for number in range(12)]
    assert codes[0] == 0
    assert codes[-1] == ResponseCode.SYSTEM_ERROR
    assert room.create_topic("T0") == 0


def test_a_group_is_made_by_pulling(room: ControlRoom) -> None:
    room.settle()
    room.send(CreateGroup(3, "G"))
    update, reply = room.settle()
    assert isinstance(reply.message, internal.Reply)
    assert reply.message.code == 0
    assert isinstance(update.message, internal.GroupUpdate)
    assert [view.name for view in update.message.groups] == ["G"]
    room.send(CreateGroup(4, "a b"))
    (refused,) = replies(room.settle())
    assert refused.code == ResponseCode.INVALID_PARAMETER


class FullDisk:
    """Refuses to replace tables until there is room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self.attempts = 0
        replace = TableFile.replace

        def refused(table: TableFile, data: bytes) -> None:
            self.attempts += 1
            if self.full:
                raise OSError(28, "No space left on device")
            replace(table, data)

        monkeypatch.setattr(TableFile, "replace", refused)


def test_a_topic_that_cannot_be_written_is_not_announced(
    room: ControlRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.settle()
    disk = FullDisk(monkeypatch)
    room.send(CreateTopic(1, "New", "TBW102", 4))
    (sending,) = room.settle()
    assert isinstance(sending.message, internal.Reply)
    assert sending.message.code == ResponseCode.SYSTEM_ERROR
    assert "No space left" in str(sending.message.remark)
    assert room.create_topic("New") == ResponseCode.SYSTEM_ERROR
    assert disk.attempts == 1, "not tried with every message"
    disk.full = False
    update, *_ = room.pass_time(1000)
    assert isinstance(update.message, TopicUpdate)
    assert [view.name for view in update.message.topics] == ["New"]
    assert "New" in topics_on_disk(room.folder)
    assert room.control.topics_were_saved


def test_consumers_go_on_while_tables_cannot_be_written(
    room: ControlRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.create_topic("T")
    room.heartbeat("c1", "G")
    room.settle()
    disk = FullDisk(monkeypatch)
    room.send(CreateTopic(1, "New", "TBW102", 4))
    room.heartbeat("c2", "G", connection=2)
    assert room.members("G") == ["c1", "c2"]
    ext = {"consumerGroup": "G", "topic": "T", "queueId": "0", "commitOffset": "9"}
    assert room.reply(RequestCode.UPDATE_CONSUMER_OFFSET, ext).code == 0, "it is in the journal"
    assert disk.attempts >= 1


def test_everything_is_saved_at_the_end(room: ControlRoom, make_room: MakeRoom) -> None:
    room.create_topic("T")
    room.heartbeat("c1", "G")
    room.send(internal.Commit([("G", "T", 0, 3)]))
    assert room.control.save_all()
    again = make_room()
    assert again.replayed == 0
    assert again.plane.offsets.get("G", "T", 0) == 3
    assert "G" in again.plane.groups.configs
    assert "%RETRY%G" in again.plane.topics.configs


def test_the_end_says_when_something_was_not_saved(
    room: ControlRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    room.heartbeat("c1", "G")
    assert not room.control.save_all()
    disk.full = False
    assert room.control.save_all()


def test_unknown_codes_and_faults_are_answered(
    room: ControlRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = room.reply(9999)
    assert (reply.code, reply.remark) == (
        ResponseCode.REQUEST_CODE_NOT_SUPPORTED,
        " request type 9999 not supported",
    )
    monkeypatch.setattr(room.plane.offsets, "get", lambda *_: 1 // 0)
    ext = {"consumerGroup": "G", "topic": "T", "queueId": "0"}
    reply = room.reply(RequestCode.QUERY_CONSUMER_OFFSET, ext)
    assert reply.code == ResponseCode.SYSTEM_ERROR
    assert "request.failed" in [event.name for event in room.plane.events]
    with pytest.raises(ShmqError, match="other side"):
        room.send(internal.Push(1, 40))


def test_oneway_requests_are_never_answered(room: ControlRoom) -> None:
    room.ask(RequestCode.HEART_BEAT, {}, {"clientID": "c"}, oneway=True)
    room.ask(9999, oneway=True)
    assert replies(room.settle()) == []


def test_deeply_nested_bodies_are_refused(room: ControlRoom) -> None:
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b"{" * 10, b"\xff\xfe", b'{"a":1'):
        room.send(internal.Ask(7, 1, "p", RequestCode.HEART_BEAT, body=body))
        (reply,) = replies(room.settle())
        assert reply.code == ResponseCode.SYSTEM_ERROR


def test_a_table_with_a_dangerous_name_stops_the_start(tmp_path: Path, make_room: MakeRoom) -> None:
    (tmp_path / "topics.json").write_text('{"topicConfigTable":{"../x":{"topicName":"../x"}}}')
    with pytest.raises(StoreError, match="may not become a folder"):
        make_room()


def test_runtime_and_config(room: ControlRoom) -> None:
    table = jsonish.loads(room.reply(RequestCode.GET_BROKER_RUNTIME_INFO).body)["table"]
    assert table["brokerVersionDesc"] == "V5_5_0"
    assert all(isinstance(value, str) for value in table.values())
    assert "version" in room.reply(RequestCode.GET_BROKER_CONFIG).ext

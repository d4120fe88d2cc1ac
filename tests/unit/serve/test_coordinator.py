"""Coordinator and serve processes over their real socket: what clients see of them together."""

from __future__ import annotations

from typing import Any

import pytest

from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.workers.context import control_path_of
from shmq.workers.coordinator import RETURN_MAX_MS, MembersFile
from shmq.workers.statefile import MEMBERS_FILE
from shmq.workers.uplink import ASK_MAX_MS, COMMIT_INTERVAL_MS
from tests.unit.serve.broker import Broker, Client
from tests.unit.serve.conftest import MakeBroker
from tests.unit.serve.frames import codes, pull, request, send

OK = ResponseCode.SUCCESS
NOTIFY = RequestCode.NOTIFY_CONSUMER_IDS_CHANGED


def heartbeat(
    client_id: str,
    *,
    consumers: tuple[str, ...] = ("G",),
    producers: tuple[str, ...] = (),
    tags: str = "*",
    opaque: int = 1,
) -> bytes:
    """Frame of a heartbeat of a client that consumes T."""
    body: dict[str, Any] = {
        "clientID": client_id,
        "producerDataSet": [{"groupName": name} for name in producers],
        "consumerDataSet": [
            {
                "groupName": name,
                "consumeType": "CONSUME_PASSIVELY",
                "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
                "unitMode": False,
                "subscriptionDataSet": [
                    {"topic": "T", "subString": tags, "tagsSet": [], "codeSet": [], "subVersion": 5}
                ],
            }
            for name in consumers
        ],
    }
    return request(RequestCode.HEART_BEAT, jsonish.dumps(body), opaque=opaque)


def answer_to(broker: Broker, client: Client, frame: bytes) -> Any:
    """The answer to a request; what else comes meanwhile stays there."""
    client.send(frame)
    found: list[Any] = []

    def arrived() -> bool:
        found.extend(one for one in client.look() if one.header.is_response)
        client.got = [one for one in client.got if not one.header.is_response]
        return bool(found)

    broker.until(arrived)
    assert len(found) == 1
    return found[0]


def beat(broker: Broker, client: Client, client_id: str, **more: Any) -> None:
    """Send a heartbeat and have it answered."""
    assert answer_to(broker, client, heartbeat(client_id, **more)).header.code == OK


def members(broker: Broker, client: Client, group: str = "G") -> list[str]:
    """The ids of a group's members, as a client is told."""
    got = answer_to(
        broker, client, request(RequestCode.GET_CONSUMER_LIST_BY_GROUP, consumerGroup=group)
    )
    if got.header.code != OK:
        return []
    ids: list[str] = jsonish.loads(got.body)["consumerIdList"]
    return ids


def committed(broker: Broker, client: Client) -> str:
    """G's offset in queue 0 of T."""
    got = answer_to(
        broker,
        client,
        request(RequestCode.QUERY_CONSUMER_OFFSET, consumerGroup="G", topic="T", queueId="0"),
    )
    assert got.header.code == OK
    return str(got.header.ext["offset"])


# Members


def test_own_id_is_in_the_list_at_once(broker: Broker) -> None:
    client = broker.connect()
    beat(broker, client, "c1")
    assert members(broker, client) == ["c1"]


def test_members_of_several_serve_processes(make_broker: MakeBroker) -> None:
    broker = make_broker(serve_count=2)
    clients = spread(broker)
    for number, client in enumerate(clients):
        beat(broker, client, f"c{number}")
    assert members(broker, clients[0]) == ["c0", "c1"]
    broker.until(lambda: len(clients[0].look()) == 2)  # It came, then the other one.
    for push in clients[0].take():
        assert (push.header.code, push.header.is_oneway) == (NOTIFY, True)
        assert push.header.ext["consumerGroup"] == "G"
    clients[1].reset()
    broker.until(clients[0].look)
    assert codes(clients[0].take()) == [NOTIFY]
    assert members(broker, clients[0]) == ["c0"]


def spread(broker: Broker) -> list[Client]:
    """A client of each serve process; all listen on one socket here."""
    clients = []
    for serve in broker.serves:
        others = [one for one in broker.serves if one is not serve]
        stepped, broker.serves = broker.serves, [serve]
        clients.append(broker.connect("unix"))
        broker.serves = stepped
        assert len(serve.door.connections) == 1
        assert others
    return clients


def test_unregister(broker: Broker) -> None:
    client, other = broker.connect(), broker.connect()
    beat(broker, client, "c1", consumers=("G", "H"), producers=("P",))
    beat(broker, other, "c2")
    leave = request(RequestCode.UNREGISTER_CLIENT, clientID="c1", consumerGroup="G")
    assert answer_to(broker, client, leave).header.code == OK
    assert members(broker, other) == ["c2"]
    assert members(broker, other, "H") == ["c1"]


def test_members_of_a_serve_process_that_died(make_broker: MakeBroker) -> None:
    broker = make_broker(serve_count=2)
    clients = spread(broker)
    for number, client in enumerate(clients):
        beat(broker, client, f"c{number}")
    dead = broker.serves.pop()
    dead.uplink.close()
    dead.close()
    broker.until(lambda: members(broker, clients[0]) == ["c0"])


# A coordinator that is replaced


def test_requests_that_wait_are_answered_by_the_successor(broker: Broker) -> None:
    client = broker.connect()
    broker.stands.add("coordinator")
    client.send(request(RequestCode.GET_ALL_TOPIC_CONFIG, opaque=5))
    client.send(send(opaque=6, topic="Fresh"))
    client.send(pull(opaque=7, group="NewGroup"))
    broker.until(lambda: broker.serve.uplink.waiting_count == 3)
    broker.settle()
    assert not client.take()
    broker.new_coordinator()
    broker.stands.clear()
    broker.until(lambda: len(client.look()) == 3)
    got = {one.header.opaque: one.header.code for one in client.take()}
    assert got == {5: OK, 6: OK, 7: ResponseCode.PULL_NOT_FOUND}
    assert "Fresh" in broker.serve.views.topics


def test_members_are_kept(broker: Broker) -> None:
    """Nobody is told of a change, since there is none: all come back with their heartbeats."""
    clients = [broker.connect() for _ in range(2)]
    for number, client in enumerate(clients):
        beat(broker, client, f"c{number}")
    broker.settle()
    for client in clients:
        client.take()
    broker.new_coordinator()
    assert members(broker, clients[0]) == ["c0", "c1"]
    broker.settle()
    assert [client.take() for client in clients] == [[], []]


def test_a_list_is_not_given_before_all_are_back(make_broker: MakeBroker) -> None:
    """A member that stays away is waited for, then its queues are given to the others."""
    broker = make_broker(serve_count=2)
    stays, leaves = spread(broker)
    beat(broker, stays, "stays")
    beat(broker, leaves, "leaves")
    broker.settle()
    stays.take()
    dead = broker.serves.pop()
    dead.uplink.close()
    dead.close()
    broker.new_coordinator()
    stays.send(request(RequestCode.GET_CONSUMER_LIST_BY_GROUP, consumerGroup="G"))
    broker.settle()
    broker.clock.now_ms += ASK_MAX_MS  # Serve gives up after it.
    broker.settle()
    assert not stays.take()
    broker.clock.now_ms += RETURN_MAX_MS - ASK_MAX_MS
    broker.until(lambda: len(stays.look()) == 2)
    assert sorted(codes(stays.take())) == [ResponseCode.SYSTEM_BUSY, NOTIFY]
    assert members(broker, stays) == ["stays"]


def test_unregistered_groups_do_not_come_back(broker: Broker) -> None:
    client = broker.connect()
    beat(broker, client, "c1", consumers=("G", "H"))
    leave = request(RequestCode.UNREGISTER_CLIENT, clientID="c1", consumerGroup="G")
    assert answer_to(broker, client, leave).header.code == OK
    broker.new_coordinator()
    assert members(broker, client, "H") == ["c1"]
    assert members(broker, client, "G") == []


def test_a_client_that_left_all_groups(broker: Broker) -> None:
    client = broker.connect()
    beat(broker, client, "c1")
    leave = request(RequestCode.UNREGISTER_CLIENT, clientID="c1", consumerGroup="G")
    assert answer_to(broker, client, leave).header.code == OK
    (connection,) = broker.serve.door.connections.values()
    assert connection.heartbeat is None


def test_members_file_that_cannot_be_understood(broker: Broker) -> None:
    path = broker.context.run_dir / MEMBERS_FILE
    client = broker.connect()
    beat(broker, client, "c1")
    assert [one.name for one in MembersFile(path).load()] == ["G"]
    path.write_bytes(b"\x93nonsense")
    assert MembersFile(path).load() == []
    broker.new_coordinator()
    broker.until(lambda: members(broker, client) == ["c1"])


def test_requests_are_given_up(broker: Broker) -> None:
    """The coordinator stands still: who asks it is told so, sends and pulls go on."""
    client = broker.connect()
    broker.stands.add("coordinator")
    client.send(request(RequestCode.GET_ALL_TOPIC_CONFIG, opaque=5))
    client.send(send(opaque=6))
    client.send(pull(opaque=7))
    broker.until(lambda: len(client.look()) == 2)
    client.take()
    broker.clock.now_ms += ASK_MAX_MS
    broker.settle()
    assert not client.take()
    broker.clock.now_ms += 1
    broker.until(client.look)
    (got,) = client.take()
    assert (got.header.code, got.header.opaque) == (ResponseCode.SYSTEM_BUSY, 5)
    broker.stands.clear()
    broker.settle()
    assert not client.take(), "an answer that comes too late is nobody's"


# Offsets


def test_commit_of_a_pull_is_seen_by_the_next_request(broker: Broker) -> None:
    client = broker.connect()
    broker.ask(client, send())
    client.send(pull(commit=1, opaque=1, offset=1))
    broker.until(client.look)
    client.take()
    assert committed(broker, client) == "1"


def test_commits_of_pulls_come_by_themselves(broker: Broker) -> None:
    client = broker.connect()
    broker.ask(client, pull(commit=7))
    assert broker.coordinator is not None
    offsets = broker.coordinator._control.plane.offsets
    broker.settle()
    assert offsets.get("G", "T", 0) is None
    broker.clock.now_ms += COMMIT_INTERVAL_MS
    broker.until(lambda: offsets.get("G", "T", 0) == 7)


def test_commits_survive_the_coordinator(broker: Broker) -> None:
    """One that it has written, and one that it has not been told of yet."""
    client = broker.connect()
    update = request(
        RequestCode.UPDATE_CONSUMER_OFFSET,
        consumerGroup="G",
        topic="T",
        queueId="0",
        commitOffset="4",
    )
    assert answer_to(broker, client, update).header.code == OK
    broker.new_coordinator()
    assert committed(broker, client) == "4"
    broker.stands.add("coordinator")
    broker.ask(client, pull(commit=6))
    broker.new_coordinator()
    broker.turn()
    broker.stands.clear()
    assert committed(broker, client) == "6"


# Clients that are told something


def test_silent_clients_are_closed(broker: Broker) -> None:
    client, other = broker.connect(), broker.connect()
    beat(broker, client, "silent")
    assert broker.coordinator is not None
    plane = broker.coordinator._control.plane
    (connection,) = plane.clients.connections_of(0)
    plane.disconnects.append(connection)
    broker.clock.now_ms += 1000
    broker.until(lambda: client.look() and client.closed)
    assert codes(client.take()) == [NOTIFY]
    assert members(broker, other) == []


def test_unknown_code(broker: Broker) -> None:
    (got,) = broker.ask(broker.connect(), request(9999))
    assert got.header.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
    assert "9999" in (got.header.remark or "")


def test_unknown_code_one_way(broker: Broker) -> None:
    client = broker.connect()
    client.send(request(9999, flag=2, opaque=1) + request(9999, opaque=2))
    broker.until(client.look)
    assert [one.header.opaque for one in client.take()] == [2]


def test_too_many_requests_wait(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmq.workers.uplink.WAITING_MAX", 2)
    client = broker.connect()
    broker.stands.add("coordinator")
    for number in range(3):
        client.send(request(RequestCode.GET_ALL_TOPIC_CONFIG, opaque=number))
    broker.until(client.look)
    (got,) = client.take()
    assert (got.header.code, got.header.opaque) == (ResponseCode.SYSTEM_BUSY, 2)
    assert codes(broker.ask(client, send())) == [OK]


def test_topic_is_refused_by_the_coordinator(make_broker: MakeBroker) -> None:
    broker = make_broker()
    client = broker.connect()
    (got,) = broker.ask(client, send(topic="New", default_topic="NoSuchDefault"))
    assert got.header.code == ResponseCode.TOPIC_NOT_EXIST


def test_runtime_info_counts_messages(broker: Broker) -> None:
    client = broker.connect()
    before = runtime(broker, client)
    broker.ask(client, send(opaque=1) + send(opaque=2), count=2)
    broker.ask(client, pull())
    after = runtime(broker, client)
    assert int(after["msgPutTotalTodayNow"]) - int(before["msgPutTotalTodayNow"]) == 2
    assert int(after["msgGetTotalTodayNow"]) - int(before["msgGetTotalTodayNow"]) == 2
    broker.clock.now_ms += 10_000
    rates = runtime(broker, client)["putTps"].split()
    assert float(rates[0]) >= 0.2
    assert len(rates) == 3


def runtime(broker: Broker, client: Client) -> dict[str, str]:
    """The broker's runtime info."""
    got = answer_to(broker, client, request(RequestCode.GET_BROKER_RUNTIME_INFO))
    table: dict[str, str] = jsonish.loads(got.body)["table"]
    return table


def test_socket_is_in_the_run_directory(broker: Broker) -> None:
    assert control_path_of(broker.context).parent == broker.context.run_dir

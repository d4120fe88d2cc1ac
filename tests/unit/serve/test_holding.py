"""Pulls that wait in a serve process, with the queues, clocks and connections around them."""

from __future__ import annotations

import pytest

from shmq.layout.counters import Counter
from shmq.shm.counters import totals
from shmq.wire.codes import ResponseCode
from shmq.workers.holding import HELD_BY_ONE_MAX, LOOK_INTERVAL_MS
from tests.unit.serve.broker import Broker, Client
from tests.unit.serve.conftest import MakeBroker
from tests.unit.serve.frames import codes, opaques, pull

NOT_FOUND = ResponseCode.PULL_NOT_FOUND
RETRY = ResponseCode.PULL_RETRY_IMMEDIATELY


def held_count(broker: Broker) -> int:
    """Pulls that wait, as dispatch and the counters are told."""
    held = broker.arena.holding(0).load()
    assert totals(broker.arena.counters)[Counter.PULLS_HELD] == held
    return held


def hold(broker: Broker, client: Client, frame: bytes) -> None:
    """Send a pull that must be held."""
    before = held_count(broker)
    client.send(frame)
    broker.until(lambda: held_count(broker) == before + 1)
    assert not client.take()


def test_woken_by_arrival(broker: Broker) -> None:
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000, opaque=7))
    broker.put(b"came")
    broker.until(client.look)
    (got,) = client.take()
    assert (got.header.code, got.header.opaque) == (0, 7)
    assert got.header.ext["nextBeginOffset"] == "1"
    assert b"came" in got.body
    assert held_count(broker) == 0


def test_not_woken_by_another_queue(broker: Broker) -> None:
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000))
    broker.put(queue_id=1)
    broker.settle()
    assert held_count(broker) == 1
    assert not client.take()


def test_not_woken_by_other_tags(broker: Broker) -> None:
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000, tags="A || B"))
    broker.put(tag="C")
    broker.put(tag="D")
    broker.settle()
    assert held_count(broker) == 1
    assert not client.take()
    broker.put(tag="B", body=b"wanted")
    broker.until(client.look)
    (got,) = client.take()
    assert b"wanted" in got.body
    assert got.header.ext["nextBeginOffset"] == "3"


@pytest.mark.parametrize("passed_ms", [0, 999, 1000, 1001])
def test_deadline(broker: Broker, passed_ms: int) -> None:
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000))
    broker.clock.now_ms += passed_ms
    broker.settle()
    assert codes(client.take()) == ([NOT_FOUND] if passed_ms >= 1000 else [])
    assert held_count(broker) == (passed_ms < 1000)


def test_deadline_after_messages_of_other_tags(broker: Broker) -> None:
    """The client is told where to go on, so that it does not look at them again."""
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000, tags="A"))
    broker.put(tag="C")
    broker.settle()
    broker.clock.now_ms += 1000
    broker.until(client.look)
    (got,) = client.take()
    assert (got.header.code, got.header.ext["nextBeginOffset"]) == (RETRY, "1")


def test_deadlines_are_looked_for_now_and_then(broker: Broker) -> None:
    client = broker.connect()
    broker.clock.now_ms += LOOK_INTERVAL_MS
    hold(broker, client, pull(suspend_ms=1))
    broker.clock.now_ms += 1
    broker.settle()
    assert held_count(broker) == 1
    broker.clock.now_ms += LOOK_INTERVAL_MS
    broker.until(client.look)
    assert codes(client.take()) == [NOT_FOUND]


def test_without_suspend_flag_and_one_way_are_not_held(broker: Broker) -> None:
    client = broker.connect()
    assert codes(broker.ask(client, pull())) == [NOT_FOUND]
    client.send(pull(flag=2, suspend_ms=1000))
    broker.settle()
    assert (held_count(broker), client.take()) == (0, [])


def test_short_polling(make_broker: MakeBroker) -> None:
    broker = make_broker(long_polling_enable=False, short_polling_time_mills=300)
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=20_000))
    broker.clock.now_ms += 299
    broker.settle()
    assert not client.take()
    broker.clock.now_ms += LOOK_INTERVAL_MS
    broker.until(client.look)
    assert codes(client.take()) == [NOT_FOUND]


@pytest.mark.parametrize("tell_serve", [True, False])
def test_connection_that_holds_pulls_ends(broker: Broker, tell_serve: bool) -> None:  # noqa: FBT001
    """Two pulls of one connection that is broken; both queues grow before serve sees the end."""
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000))
    hold(broker, client, pull(suspend_ms=1000, queueId=1))
    other = broker.connect()
    hold(broker, other, pull(suspend_ms=1000, queueId=1))
    client.reset()
    if tell_serve:
        broker.until(lambda: held_count(broker) == 1)
    for queue_id in (0, 1):
        broker.put(queue_id=queue_id)
    broker.serve.pulls.step(broker.clock.now_ms)
    broker.until(other.look)
    assert codes(other.take()) == [0]
    broker.settle()
    assert held_count(broker) == 0


def test_both_deadlines_of_a_broken_connection(broker: Broker) -> None:
    client = broker.connect()
    for queue_id in (0, 1):
        hold(broker, client, pull(suspend_ms=1000, queueId=queue_id))
    client.reset()
    broker.clock.now_ms += 1000
    broker.serve.pulls.step(broker.clock.now_ms)
    assert held_count(broker) == 0


def test_limit_of_one_connection(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmq.workers.holding.HELD_BY_ONE_MAX", 3)
    assert HELD_BY_ONE_MAX == 10_000
    client, other = broker.connect(), broker.connect()
    frames = [pull(suspend_ms=1000, opaque=number) for number in range(4)]
    (got,) = broker.ask(client, b"".join(frames))
    assert (got.header.code, got.header.opaque) == (ResponseCode.SYSTEM_BUSY, 3)
    assert "too many pulls wait for a message" in (got.header.remark or "")
    hold(broker, other, pull(suspend_ms=1000))
    assert held_count(broker) == 4


def test_limit_of_all(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmq.workers.holding.HELD_MAX", 2)
    for _ in range(2):
        hold(broker, broker.connect(), pull(suspend_ms=1000))
    assert codes(broker.ask(broker.connect(), pull(suspend_ms=1000))) == [ResponseCode.SYSTEM_BUSY]


def test_answers_come_in_the_order_of_arrival_of_messages(broker: Broker) -> None:
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000, opaque=1, queueId=1))
    hold(broker, client, pull(suspend_ms=1000, opaque=2, queueId=0))
    broker.put(queue_id=0)
    broker.until(client.look)
    broker.put(queue_id=1)
    broker.until(lambda: len(client.look()) == 2)
    assert opaques(client.take()) == [2, 1]


def test_group_is_deleted_while_a_pull_of_it_waits(make_broker: MakeBroker) -> None:
    broker = make_broker(slave_read_enable=True)
    client = broker.connect()
    hold(broker, client, pull(suspend_ms=1000))
    del broker.serve.views.groups["G"]
    broker.put()
    broker.until(client.look)
    assert codes(client.take()) == [0]


def test_the_second_pull_of_a_kind_goes_the_short_way(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.put(b"first")
    broker.put(b"second")
    client = broker.connect()
    answers = []
    for opaque in (1, 2):
        client.send(pull(opaque=opaque, count=1, offset=1, commit=1))
        broker.until(client.look)
        answers += client.take()
        monkeypatch.setattr(broker.serve.pulls, "take", None)  # The long way ends here.
    assert opaques(answers) == [1, 2]
    assert [frame.header.ext for frame in answers] == [answers[0].header.ext] * 2
    assert answers[0].body == answers[1].body
    assert totals(broker.arena.counters)[Counter.PULLED_MESSAGES] == 2

"""Producing through a native ring: results, back-pressure, time limits, lost sessions."""

from __future__ import annotations

import os
import signal
import time
from array import array

import pytest

from shmq.client.nativesession import NativeSession
from shmq.errors import LayoutError, RequestRefused, Unavailable
from shmq.wire.codes import RequestCode
from tests.crash.live import Broker
from tests.crash.peer import Peer, eventually
from tests.native.conftest import NewBroker, Open


def many(count: int, size: int) -> tuple[bytes, array[int], list[int], array[int]]:
    """Bodies back to back, as put_many() takes them."""
    return (
        bytes(count * size),
        array("q", range(0, count * size, size)),
        [size] * count,
        array("q", [size] * count),
    )


def test_results_in_order(shared: Broker, opened: Open) -> None:
    engine = opened(shared)
    spec = engine.spec("Order", 1)
    tickets = [engine.put(spec, b"%d" % number) for number in range(50)]
    tickets.append(engine.put_many(spec, *many(1000, 100), timeout_s=10))
    tickets += [engine.put(spec, b"%d" % number) for number in range(50)]
    results = [one for ticket in tickets for one in ticket.result(10)]
    assert [one.queue_offset for one in results] == list(range(1100))
    assert {one.queue_id for one in results} == {1}
    offsets = [one.physical_offset for one in results]
    assert offsets == sorted(set(offsets))
    assert len({one.message_id for one in results}) == 1100
    assert len({one.offset_message_id for one in results}) == 1100
    assert all(ticket.done() for ticket in tickets)


def test_results_come_at_once(shared: Broker, opened: Open) -> None:
    """The writer's bell ends the wait, not a clock."""
    engine = opened(shared)
    spec = engine.spec("Fast", 0)
    engine.put(spec, b"first").result(10)
    took = []
    for _ in range(200):
        begin = time.monotonic()
        engine.put(spec, b"x").result(10)
        took.append(time.monotonic() - begin)
    assert sorted(took)[len(took) // 2] < 0.01, sorted(took)[-20:]


def test_a_full_ring_holds_the_producer_up(new_broker: NewBroker, opened: Open) -> None:
    broker = new_broker(nativeRingEntries=16, nativeRingSize=65536)
    engine = opened(broker)
    spec = engine.spec("Full", 0)
    engine.put(spec, b"first").result(10)
    writer = broker.kill_role("writer", how=signal.SIGSTOP)
    waiting = [engine.put(spec, b"%d" % number) for number in range(16)]
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="full"):
        engine.put(spec, b"x", timeout_s=0.2)
    with pytest.raises(TimeoutError, match="full"):
        engine.put_many(spec, *many(100, 10), timeout_s=0.2)
    with pytest.raises(TimeoutError, match="not stored"):
        waiting[-1].result(0.2)
    assert 0.5 < time.monotonic() - begin < 5
    assert not waiting[0].done()
    assert not engine.flush(0.05)
    broker_pid = broker.roles()["writer"]
    assert broker_pid == writer
    os.kill(writer, signal.SIGCONT)
    ticket = engine.put_many(spec, *many(2000, 200), timeout_s=20)
    assert engine.flush(20)
    assert [one.queue_offset for one in waiting[-1].result(1)] == [16]
    assert len(ticket.result(1)) == 2000


def test_what_the_broker_refuses(shared: Broker, opened: Open) -> None:
    engine = opened(shared)
    with pytest.raises(RequestRefused):
        engine.put(engine.spec("no such name", 0), b"x")
    with pytest.raises(RequestRefused, match="queue id"):
        engine.put(engine.spec("Refuse", 99), b"x")
    with pytest.raises(RequestRefused, match="properties"):
        engine.put(engine.spec("Refuse", 0, properties={"a": "b" * 32_700}), b"x")
    with pytest.raises(LayoutError, match="too large"):
        engine.put(engine.spec("Refuse", 0), bytes(engine.session.ring.data_size))
    assert engine.put(engine.spec("Refuse", 0), b"x").result(10)[0].queue_offset == 0


def test_a_topic_that_is_deleted(shared: Broker, opened: Open) -> None:
    engine = opened(shared)
    spec = engine.spec("Gone", 0)
    engine.put(spec, b"x").result(10)
    with Peer(shared.tcp) as peer:
        peer.ask_ok(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "Gone"})

    def refused() -> bool:
        try:
            engine.put(spec, b"late").result(10)
        except RequestRefused:
            return True
        return False

    eventually("messages to it are refused", refused, timeout_s=5)
    engine.forget_topic("Gone")
    assert len(engine.put(spec, b"new").result(10)) == 1


def test_a_session_ends_with_its_serve_process(new_broker: NewBroker, opened: Open) -> None:
    broker = new_broker(serveProcessNums=1)
    engine = opened(broker)
    spec = engine.spec("Lost", 0)
    engine.put(spec, b"x").result(10)
    writer = broker.kill_role("writer", how=signal.SIGSTOP)
    ticket = engine.put(spec, b"unknown")
    broker.kill_role("serve 0" if "serve 0" in broker.roles() else "serve0")
    begin = time.monotonic()
    with pytest.raises(Unavailable):
        ticket.result(10)
    assert time.monotonic() - begin < 3
    assert not engine.session.alive
    os.kill(writer, signal.SIGCONT)

    def reopened() -> bool:
        try:
            NativeSession(str(broker.socket_path)).close()
        except OSError:
            return False
        return True

    eventually("another serve process", reopened, timeout_s=5)
    again = opened(broker)
    assert again.put(again.spec("Lost", 0), b"y").result(10)


def test_a_closed_session_refuses(shared: Broker, opened: Open) -> None:
    engine = opened(shared)
    alive = [engine.session.alive]
    engine.session.close()
    engine.session.close()
    alive.append(engine.session.alive)
    assert alive == [True, False]
    with pytest.raises(Unavailable):
        engine.session.topic("T")

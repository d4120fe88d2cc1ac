"""Signals: an end that is asked for, settings read again, stuck and stopped processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from shmq.wire.codes import RequestCode, ResponseCode
from tests.crash.conftest import NewBroker
from tests.crash.group import GO_ON_MAX_S, Load
from tests.crash.impatient import SILENCE_MAX_MS
from tests.crash.live import Broker
from tests.crash.peer import PATIENCE, Peer, eventually, pull_fields, send_fields

pytestmark = pytest.mark.crash

STOP_MAX_S: Final = 5.0 * PATIENCE
BIG_BODY: Final = bytes(200_000)


def impatient(broker: Broker) -> Broker:
    """The same broker with little patience."""
    broker.program = [sys.executable, str(Path(__file__).parent / "impatient.py")]
    return broker


@pytest.mark.parametrize("flush_type", ["ASYNC_FLUSH", "SYNC_FLUSH"])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGTERM to the group", "SIGINT to the group"])
def test_ends_when_asked_under_load(new_broker: NewBroker, how: str, flush_type: str) -> None:
    broker = new_broker(flushDiskType=flush_type)
    broker.wrapper = ["setsid"]
    broker.start()
    assert (broker.store / "abort").exists()
    load = Load(broker, "end", window=64, pace_per_s=4000)
    begin = time.monotonic()
    broker.note_pids()
    if how == "SIGTERM":
        os.kill(broker.process.pid, signal.SIGTERM)
    else:
        number = signal.SIGTERM if how.startswith("SIGTERM") else signal.SIGINT
        os.killpg(broker.process.pid, number)
    assert broker.process.wait(timeout_s=30) == 0, broker.process.tail()
    assert time.monotonic() - begin < STOP_MAX_S
    assert not (broker.store / "abort").exists()
    broker.check_nothing_left()
    load.abandon()
    assert load.refusals == []
    broker.start()
    assert [event["clean"] for event in broker.events("store.opened")] == [True, True]
    load.check()
    assert broker.stop() == 0
    assert not broker.events("role.drained_badly"), broker.process.tail()


def test_stop_while_it_starts(new_broker: NewBroker) -> None:
    broker = new_broker()
    for tenths in range(1, 10, 2):
        process = broker.launch()
        threading.Event().wait(tenths / 10)
        broker.note_pids()
        # Before it takes signals, the signal ends it, and it has made nothing yet.
        assert process.stop() in {0, -signal.SIGTERM}, process.tail()
        broker.check_nothing_left()


def test_client_that_reads_nothing_does_not_hold_up_the_end(new_broker: NewBroker) -> None:
    broker = new_broker(shutdownTimeout=1000)
    broker.start()
    with broker.peer() as peer:
        peer.create_topic("unread", 1)
        for _ in range(10):
            peer.ask_ok(RequestCode.SEND_MESSAGE_V2, send_fields("unread", 0), BIG_BODY)
        for _ in range(100):
            peer.send(RequestCode.PULL_MESSAGE, pull_fields("unread", 0, 0, group="g"))
        with broker.peer() as other:  # When it is answered, so are some of the pulls.
            other.max_offset("unread", 0)
        begin = time.monotonic()
        broker.stop()
        assert time.monotonic() - begin < STOP_MAX_S
    broker.check_nothing_left()


def test_second_interrupt_hastens_the_end(new_broker: NewBroker) -> None:
    broker = new_broker(shutdownTimeout=60_000)
    broker.start()
    stopped = broker.kill_role("coordinator", how=signal.SIGSTOP)
    begin = time.monotonic()
    os.kill(broker.process.pid, signal.SIGINT)
    eventually("the drain of all others", lambda: "flush" not in broker.roles(), timeout_s=10)
    assert broker.roles()["coordinator"] == stopped
    os.kill(broker.process.pid, signal.SIGINT)
    broker.process.wait(timeout_s=20)
    assert time.monotonic() - begin < 2 * STOP_MAX_S
    broker.check_nothing_left()


def test_settings_are_read_again(new_broker: NewBroker) -> None:
    broker = new_broker()
    broker.start()
    pids = broker.roles()
    with Peer(broker.tcp) as peer:
        peer.create_topic("reload", 1)

        def pulled() -> int:
            fields = pull_fields("reload", 0, 0, group="g")
            return peer.ask(RequestCode.PULL_MESSAGE, fields).header.code

        def reload(**settings: object) -> None:
            broker.write_settings(**settings)
            os.kill(broker.process.pid, signal.SIGHUP)

        peer.ask_ok(RequestCode.SEND_MESSAGE_V2, send_fields("reload", 0), b"x")
        reload(brokerPermission=2, connectionsMax=1)
        eventually("a refusal", lambda: pulled() == ResponseCode.NO_PERMISSION, timeout_s=5)
        with broker.peer() as two, broker.peer() as three:  # That limit needs a restart.
            assert two.max_offset("reload", 0) == three.max_offset("reload", 0)
        (event,) = broker.events("settings.reloaded")
        assert event["need_restart"] == ["connectionsMax"]
        reload(brokerPermission=6)
        eventually("an answer", lambda: pulled() == ResponseCode.SUCCESS, timeout_s=5)
        reload(brokerPermission="none")
        eventually("a refusal", lambda: bool(broker.events("settings.refused")), timeout_s=5)
        assert pulled() == ResponseCode.SUCCESS
    assert broker.roles() == pids
    assert broker.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_stopped_roles_are_replaced(new_broker: NewBroker) -> None:
    broker = impatient(new_broker())
    broker.start()
    load = Load(broker, "stuck")
    for role in ("writer", "flush", "dispatch", "serve0", "coordinator"):
        begin = time.monotonic()
        old = broker.kill_role(role, how=signal.SIGSTOP)
        broker.await_other(role, old, timeout_s=SILENCE_MAX_MS / 1000 + 2)
        load.await_all_go_on(begin, within_s=SILENCE_MAX_MS / 1000 + 1 + GO_ON_MAX_S)
    hows = [event["how"] for event in broker.events("role.exited")]
    assert len(hows) == 5
    assert all(how.startswith("killed by SIGKILL (no beat for ") for how in hows), hows
    load.finish()
    load.check()
    assert broker.stop() == 0
    broker.check_nothing_left()


@pytest.mark.slow
def test_nobody_is_replaced_when_all_were_stopped(new_broker: NewBroker) -> None:
    """Ctrl-Z, a suspended machine: the supervisor was away as long as the roles were."""
    broker = impatient(new_broker())
    broker.start()
    load = Load(broker, "suspended")
    pids = broker.roles()
    everybody = (broker.process.pid, *pids.values())
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(SILENCE_MAX_MS * 2 / 1000)
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
    load.await_all_go_on(time.monotonic())
    load.finish()
    assert broker.roles() == pids
    assert [client.connected_count for client in load.clients] == [1, 1, 1]
    load.check()
    assert broker.stop() == 0

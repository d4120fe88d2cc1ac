"""The whole broker dies, under load, and starts again on its store; several starts on one store."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from typing import Final

import pytest

from shmq.wire.codes import RequestCode
from tests.crash.check import check_store
from tests.crash.conftest import NewBroker
from tests.crash.group import Load
from tests.crash.live import SHM, Broker
from tests.crash.load import Producer
from tests.crash.peer import send_fields

pytestmark = pytest.mark.crash

ROUNDS: Final = int(os.environ.get("CRASH_ROUNDS", "2"))
SEED: Final = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 10**9)  # noqa: S311


def end(broker: Broker, how: str) -> None:
    """End it in a way that no process can do anything about."""
    if how == "supervisor":
        broker.kill_supervisor()
    else:
        broker.kill_all()
    broker.await_all_gone()


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * ROUNDS)
@pytest.mark.parametrize("flush_type", ["ASYNC_FLUSH", "SYNC_FLUSH"])
@pytest.mark.parametrize("how", ["supervisor", "all"])
def test_all_that_was_acknowledged_is_there_after_sigkill(
    new_broker: NewBroker, how: str, flush_type: str
) -> None:
    print(f"CRASH_SEED={SEED}")  # noqa: T201  shown when the test fails
    chance = random.Random(SEED)  # noqa: S311
    broker = new_broker(flushDiskType=flush_type)
    broker.start()
    load = Load(broker, "whole", window=64, pace_per_s=4000)
    for _ in range(ROUNDS):
        load.producers[0].await_count(chance.randrange(1, 1000))
        end(broker, how)
        broker.start()
        load.await_all_go_on(time.monotonic())
    load.finish()
    load.check()
    assert broker.stop() == 0, broker.process.tail()
    broker.check_nothing_left()
    assert not broker.events("commitlog.cut"), "nothing unsound was ever in the files"


@pytest.mark.parametrize("how", ["supervisor", "all"])
def test_hot_pages_that_no_file_has_are_taken_over(new_broker: NewBroker, how: str) -> None:
    broker = new_broker()
    broker.start()
    load = Load(broker, "hot")
    broker.kill_role("flush", how=signal.SIGSTOP)
    for producer in load.producers:
        producer.await_count(1500)
    end(broker, how)
    load.abandon()
    broker.start()
    (rescued,) = broker.events("hot_pages.rescued")
    assert rescued["size"] > 500_000
    load.check()
    assert broker.stop() == 0
    broker.check_nothing_left()


def test_recovery_can_be_killed_at_any_time(new_broker: NewBroker) -> None:
    print(f"CRASH_SEED={SEED}")  # noqa: T201  shown when the test fails
    chance = random.Random(SEED)  # noqa: S311
    broker = new_broker()
    broker.start()
    load = Load(broker, "again", body_size_max=4000)
    broker.kill_role("flush", how=signal.SIGSTOP)
    for producer in load.producers:
        producer.await_count(1500)
    end(broker, "all")
    load.abandon()
    for number in range(ROUNDS * 2):
        process = broker.launch()
        if number % 2:
            broker.await_boot()
        else:
            threading.Event().wait(chance.uniform(0.2, 1.0))  # It may be ready by then.
        broker.note_pids()
        process.kill()
        broker.await_all_gone()
    process = broker.launch()
    while (boot := broker.await_boot()) is None:
        broker.kill_all()
        broker.await_all_gone()
        process = broker.launch()
    os.kill(boot, signal.SIGKILL)
    broker.note_pids()
    assert process.wait() == 1
    said = broker.log().splitlines()[-1]
    assert said.startswith("shmq: opening the store ended early: how=killed by signal 9"), said
    broker.start()
    load.check()
    assert broker.stop() == 0
    broker.check_nothing_left()


def test_second_start_on_the_same_store_is_refused_and_harms_nothing(
    new_broker: NewBroker,
) -> None:
    broker = new_broker()
    first_pid = broker.start()["pid"]
    load = Load(broker, "first")
    second = Broker(broker.folder, settings={"runDir": str(broker.folder / "run2")})
    process = second.launch()
    assert process.wait() == 1
    said = process.errors.read_text().splitlines()[-1]
    assert said.startswith("shmq: the store is in use by another broker; stop it first"), said
    assert f"holder_pid={first_pid}" in said
    load.await_all_go_on(time.monotonic())
    load.finish()
    assert [client.connected_count for client in load.clients] == [1, 1, 1]
    load.check()
    broker.check_runs()
    assert broker.stop() == 0
    broker.check_nothing_left()


@pytest.mark.parametrize("taken", ["listen", "vip", "namesrv", "socket", "run directory"])
def test_start_on_what_another_broker_has_is_refused(new_broker: NewBroker, taken: str) -> None:
    first = new_broker("first")
    first.start()
    second = new_broker("second")
    if taken == "listen":
        second.tcp = first.tcp
    elif taken == "vip":
        assert isinstance(first.tcp, tuple)
        second.tcp = (first.tcp[0], first.tcp[1] - 2)
    elif taken == "namesrv":
        second.namesrv = first.namesrv
    elif taken == "socket":
        second.socket_path = first.socket_path
    else:
        second.write_settings(runDir=first.store / "run")
    process = second.launch()
    assert process.wait() == 2, process.tail()
    said = process.errors.read_text().splitlines()[-1]
    what = {
        "socket": "another process listens on socketPath",
        "run directory": "the run directory is in use by another broker",
    }.get(taken, "cannot listen: address=127.0.0.1")
    assert said.startswith(f"shmq: {what}"), said
    assert second.segments() == []
    assert taken == "socket" or not second.socket_path.exists()
    with first.peer() as peer:
        peer.ask_ok(RequestCode.SEND_MESSAGE_V2, send_fields("still-there", 0), b"x")
    first.check_runs()
    assert first.stop() == 0
    first.check_nothing_left()


def test_two_stores_at_once(new_broker: NewBroker) -> None:
    brokers = [new_broker(name) for name in ("one", "two")]
    for broker in brokers:
        broker.start()
    loads = [Load(broker, "same-name") for broker in brokers]
    end(brokers[0], "all")
    loads[1].await_all_go_on(time.monotonic())
    brokers[0].start()
    for load in loads:
        load.await_all_go_on(time.monotonic())
        load.finish()
    for load in loads:
        load.check()
    assert [client.connected_count for client in loads[1].clients] == [1, 1, 1]
    for broker in brokers:
        assert broker.stop() == 0
        broker.check_nothing_left()


def test_hot_pages_of_a_store_that_was_removed_are_left_out(new_broker: NewBroker) -> None:
    """Another store in the same place has the same instance name; the old pages are none of its."""
    broker = new_broker()
    broker.start()
    with broker.peer() as peer:
        peer.ask_ok(RequestCode.SEND_MESSAGE_V2, send_fields("old", 0), b"x")
    end(broker, "all")
    keep = broker.folder / "kept-alive-so-that-no-inode-is-used-twice"
    (broker.store / "commitlog").rename(keep)
    shutil.rmtree(broker.store)
    broker.start()
    assert broker.events("hot_pages.foreign")
    with broker.peer() as peer:
        answer = peer.ask(RequestCode.GET_MAX_OFFSET, {"topic": "old", "queueId": 0})
        assert answer.header.ext.get("offset", "0") == "0", answer.header
    assert broker.stop() == 0
    broker.check_nothing_left()


def test_too_large_a_hot_pool_is_refused_with_the_reason(new_broker: NewBroker) -> None:
    room = os.statvfs(SHM).f_bavail * os.statvfs(SHM).f_frsize
    broker = new_broker(hotPoolSize=room + 64 * 1024 * 1024)
    process = broker.launch()
    broker.note_pids()
    assert process.wait() in {1, 2}
    said = process.errors.read_text().splitlines()[-1]
    assert said.startswith("shmq: "), said
    assert str(SHM) in said, said
    assert "hotPoolSize" in said, said
    broker.check_nothing_left()


def test_a_producer_that_waits_through_a_restart_loses_nothing(new_broker: NewBroker) -> None:
    """The client is never told of the restart; it only sees its connection close."""
    broker = new_broker()
    broker.start()
    with broker.peer() as peer:
        peer.create_topic("through", 2)
    producer = Producer(broker.tcp, topic="through", queue_count=2, name="through")
    producer.start()
    for _ in range(2):
        producer.await_count(50)
        assert broker.stop() == 0
        broker.check_nothing_left()
        broker.start()
    producer.await_count(50)
    producer.finish()
    check_store(broker.tcp, [producer])
    assert broker.stop() == 0

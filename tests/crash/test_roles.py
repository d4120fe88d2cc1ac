"""SIGKILL to every role in turn, under load."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.crash.conftest import NewBroker
from tests.crash.group import GO_ON_MAX_S, Load
from tests.crash.live import Broker
from tests.crash.peer import PATIENCE

pytestmark = pytest.mark.crash

KILLS: Final = 3
HALT_MAX_S: Final = 5.0 * PATIENCE
ROUNDS: Final = int(os.environ.get("CRASH_ROUNDS", "12"))
"""Rounds of kills in each of the long tests; a soak sets more."""
SEED: Final = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 10**9)  # noqa: S311
ROLES: Final = (
    "writer",
    "flush",
    "dispatch",
    "index",
    "serve0",
    "serve1",
    "coordinator",
    "namesrv",
    "register",
    "housekeeping",
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for many tests: they kill its roles dozens of times, and it leaves nothing."""
    broker = Broker(tmp_path_factory.mktemp("roles"))
    try:
        broker.start()
        supervisor_fds = broker.fd_count(broker.process.pid)
        yield broker
        assert broker.fd_count(broker.process.pid) == supervisor_fds
        assert broker.stop() == 0, broker.process.tail()
        broker.check_nothing_left()
        assert not broker.events("role.failed")
    finally:
        broker.clean_up()


@pytest.mark.parametrize("role", ROLES)
def test_clients_go_on_when_a_role_is_killed(broker: Broker, role: str) -> None:
    load = Load(broker, role)
    for _ in range(KILLS):
        old = broker.pid_of(role)
        fds = broker.fd_count(old)
        killed_at = time.monotonic()
        broker.kill_role(role)
        load.await_all_go_on(killed_at)
        broker.await_other(role, old, timeout_s=2)
        for producer in load.producers:
            producer.await_count(200)
        assert broker.fd_count(broker.pid_of(role)) <= fds + len(load.clients)
    load.finish()
    load.check()
    if not role.startswith("serve"):
        assert [client.connected_count for client in load.clients] == [1, 1, 1]
    assert load.refusals == []


@pytest.mark.parametrize("number", range(2))
def test_two_roles_killed_at_once_at_random_times(broker: Broker, number: int) -> None:
    print(f"CRASH_SEED={SEED}")  # noqa: T201  shown when the test fails
    chance = random.Random(SEED + number)  # noqa: S311
    load = Load(broker, f"pairs-{number}")
    for _ in range(5):
        killed_at = time.monotonic()
        for role in chance.sample(ROLES, 2):
            broker.kill_role(role)
        load.await_all_go_on(killed_at)
        load.producers[0].await_count(chance.randrange(1, 300))
    load.finish()
    load.check()


@pytest.mark.slow
@pytest.mark.timeout(60 + 5 * ROUNDS)
@pytest.mark.parametrize("flush_type", ["ASYNC_FLUSH", "SYNC_FLUSH"])
def test_kills_at_random_times_under_full_load(new_broker: NewBroker, flush_type: str) -> None:
    """Kills come also while a role is being replaced; the pool and the files go round."""
    print(f"CRASH_SEED={SEED}")  # noqa: T201  shown when the test fails
    chance = random.Random(SEED)  # noqa: S311
    broker = new_broker(
        flushDiskType=flush_type, restartsWindow=1000, waitTimeMillsInSendQueue=10_000
    )
    broker.start()
    load = Load(broker, "soak", window=64, pace_per_s=4000, body_size_max=5000)
    for _ in range(ROUNDS):
        killed_at = time.monotonic()
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            role = chance.choice(ROLES)
            if role in broker.roles():
                broker.kill_role(role)
        load.await_all_go_on(killed_at, within_s=2 * GO_ON_MAX_S)
        load.producers[1].await_count(chance.randrange(1, 100))
    load.finish()
    load.check()
    assert broker.stop() == 0, broker.process.tail()
    broker.check_nothing_left()
    assert not broker.events("role.failed")
    assert not broker.events("dispatch.gap_found")


@pytest.mark.parametrize("role", ["writer", "flush", "serve0"])
def test_broker_halts_when_a_role_keeps_dying(new_broker: NewBroker, role: str) -> None:
    broker = new_broker(restartsMax=2)
    broker.start()
    load = Load(broker, "dying", pace_per_s=200)
    for _ in range(3):
        killed_at = time.monotonic()
        old = broker.kill_role(role)
        broker.await_other(role, old, timeout_s=30)
    assert broker.process.wait(timeout_s=30) == 1, broker.process.tail()
    assert time.monotonic() - killed_at < HALT_MAX_S
    said = [line for line in broker.log().splitlines() if line.startswith("shmq: ")]
    reason = f"{role} keeps dying: 3 times in 60000 ms, allowed 2"
    assert said == [f"shmq: {reason}; the last time: killed by SIGKILL"]
    # Without a flush role some messages are in shared memory alone, for the next start.
    broker.check_nothing_left(kept=("control", "pool") if role == "flush" else ())
    load.abandon()
    broker.write_settings(restartsMax=5)
    broker.start()
    load.check()
    assert broker.stop() == 0
    broker.check_nothing_left()

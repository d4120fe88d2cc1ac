"""Clients and roles that die, stop or behave badly, under load through the native door."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Final

import psutil
import pytest

from shmq.client.nativeread import NativeReader
from shmq.client.nativesession import NativeSession
from shmq.errors import RequestRefused, Unavailable
from shmq.layout import record
from tests.crash.live import Broker
from tests.crash.peer import eventually
from tests.native.conftest import NewBroker, NewChild, Open
from tests.native.engine import NativeEngine, Stored, records_of

KILLS: Final = int(os.environ.get("SHMQ_NATIVE_KILLS", "30"))
"""Clients that are killed at random moments."""
HOSTILE_S: Final = float(os.environ.get("SHMQ_NATIVE_HOSTILE_S", "20"))
"""How long a client writes noise."""
TOPIC: Final = "Crash"
OTHER: Final = "Children"


class Honest(threading.Thread):
    """A client that counts what was acknowledged, over as many sessions as it needs."""

    def __init__(self, broker: Broker, queue_id: int = 0) -> None:
        super().__init__(daemon=True)
        self._path = str(broker.socket_path)
        self._queue_id = queue_id
        self._stopping = threading.Event()
        self.acked: list[tuple[bytes, Stored]] = []
        self.sessions_count = 0
        self.error: BaseException | None = None
        self.slowest_s = 0.0

    def run(self) -> None:
        """Send until told to stop."""
        try:
            while not self._stopping.is_set():
                try:
                    self._one_session()
                except (Unavailable, RequestRefused, OSError):
                    time.sleep(0.02)
        except BaseException as error:  # noqa: BLE001  given to finish()
            self.error = error

    def _one_session(self) -> None:
        session = NativeSession(self._path)
        self.sessions_count += 1
        try:
            engine = NativeEngine(session)
            spec = engine.spec(TOPIC, self._queue_id)
            number = 0
            while not self._stopping.is_set():
                bodies = [b"%d.%d.%d" % (self._queue_id, self.sessions_count, number + n)
                          for n in range(16)]  # fmt: skip
                number += 16
                begin = time.monotonic()
                tickets = [engine.put(spec, body, timeout_s=10) for body in bodies]
                for body, ticket in zip(bodies, tickets, strict=True):
                    (stored,) = ticket.result(10)
                    self.acked.append((body, stored))
                self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
        finally:
            session.close()

    def await_more(self, count: int = 64) -> None:
        """Wait until it has got so many more answers."""
        wanted = len(self.acked) + count
        eventually(
            "answers", lambda: len(self.acked) >= wanted or not self.is_alive(), timeout_s=15
        )

    def finish(self) -> list[tuple[bytes, Stored]]:
        """Stop it; what was acknowledged."""
        self._stopping.set()
        self.join(30)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.acked


def check_stored(engine: NativeEngine, acked: list[tuple[bytes, Stored]], queue_id: int) -> None:
    """Each acknowledged message is where its result says, and none is there twice."""
    reader = NativeReader(engine.session)
    slot = reader.slot(TOPIC, queue_id)
    assert slot is not None
    end = max(stored.queue_offset for _, stored in acked) + 1
    eventually("all are visible", lambda: reader.bounds(slot)[1] >= end, timeout_s=10)
    found: list[tuple[bytes, int]] = []
    while (batch := reader.batch(slot, len(found), 1024)) is not None:
        for data in records_of(batch):
            one = record.decode(data)
            found.append((one.body, one.physical_offset))
    for body, stored in acked:
        assert found[stored.queue_offset] == (body, stored.physical_offset)
    assert len({body for body, _ in found}) == len(found)


def open_of(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return found


def fds_of(broker: Broker) -> dict[str, int]:
    """Sockets and memory without a name of the processes that hold rings."""
    return {
        role: sum(1 for what in open_of(pid) if what.startswith(("socket:", "/memfd:")))
        for role, pid in broker.roles().items()
        if role.startswith(("writer", "dispatch", "serve"))
    }


def await_reclaimed(broker: Broker, before: dict[str, int]) -> None:
    """Wait until all rings are given back: as many descriptors as before, within seconds."""
    eventually(
        f"descriptors as before: {before} now {fds_of(broker)}",
        lambda: all(fds_of(broker)[role] <= count for role, count in before.items()),
        timeout_s=5,
    )


def warm(broker: Broker) -> None:
    """Have every serve process open what it keeps open."""
    session = NativeSession(str(broker.socket_path))
    engine = NativeEngine(session)
    engine.put(engine.spec(TOPIC, 0), b"0").result(10)
    engine.put(engine.spec(OTHER, 0), b"0").result(10)
    session.close()


@pytest.mark.timeout(60 + KILLS)
def test_clients_that_are_killed(new_broker: NewBroker, new_child: NewChild, opened: Open) -> None:
    broker = new_broker()
    warm(broker)
    honest = Honest(broker)
    honest.start()
    honest.await_more()
    before = fds_of(broker)
    chance = random.Random(3)  # noqa: S311  load, no secret
    roles = broker.roles()
    for _ in range(max(1, KILLS // 3)):
        children = [new_child("produce", broker, OTHER) for _ in range(3)]
        for child in children:
            child.await_ready()
        for child in children:
            time.sleep(chance.random() * 0.05)  # any moment of its work
            child.send(signal.SIGKILL)
            child.wait(10)
        honest.await_more(16)
    await_reclaimed(broker, before)
    acked = honest.finish()
    assert honest.sessions_count == 1
    assert honest.slowest_s < 5
    assert broker.roles() == roles, "no role has died"
    check_stored(opened(broker), acked, 0)


def test_a_client_that_is_stopped(new_broker: NewBroker, new_child: NewChild, opened: Open) -> None:
    """It costs its own ring, and that no longer than it lives."""
    broker = new_broker()
    warm(broker)
    honest = Honest(broker)
    honest.start()
    honest.await_more()
    before = fds_of(broker)
    children = [new_child("produce", broker, OTHER) for _ in range(3)]
    for child in children:
        child.await_ready()
        child.send(signal.SIGSTOP)
    honest.await_more(1000)
    assert honest.slowest_s < 5
    for child in children:
        child.send(signal.SIGKILL)
        child.wait(10)
    await_reclaimed(broker, before)
    check_stored(opened(broker), honest.finish(), 0)


@pytest.mark.parametrize("role", ["writer", "dispatch", "serve"])
def test_roles_that_are_killed(new_broker: NewBroker, opened: Open, role: str) -> None:
    """No acknowledged message is lost; a session is lost only with its serve process."""
    broker = new_broker(serveProcessNums=1)
    warm(broker)
    honest = [Honest(broker, queue_id) for queue_id in range(2)]
    for one in honest:
        one.start()
    for one in honest:
        one.await_more()
    for _ in range(5):
        name = next(title for title in broker.roles() if title.startswith(role))
        pid = broker.kill_role(name)
        broker.await_other(name, pid)
        for one in honest:
            one.await_more()
    for queue_id, one in enumerate(honest):
        acked = one.finish()
        if role == "serve":
            assert one.sessions_count > 1
        else:
            assert one.sessions_count == 1
        check_stored(opened(broker), acked, queue_id)


def memory_of(broker: Broker) -> int:
    """Private bytes of all processes of a broker."""
    supervisor = psutil.Process(broker.process.pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    return sum(one.memory_full_info().uss for one in family)


@pytest.mark.timeout(60 + 2 * HOSTILE_S)
def test_a_client_that_writes_noise_everywhere(
    new_broker: NewBroker, new_child: NewChild, opened: Open
) -> None:
    broker = new_broker(hotPoolSize=64 * 1024 * 1024)
    warm(broker)
    honest = Honest(broker)
    honest.start()
    honest.await_more()
    before, roles, memory = fds_of(broker), broker.roles(), memory_of(broker)
    hostile = new_child("scribble", broker, OTHER, str(HOSTILE_S))
    hostile.await_ready()
    highest = 0
    end = time.monotonic() + HOSTILE_S
    while time.monotonic() < end:
        honest.await_more(200)
        highest = max(highest, memory_of(broker))
    assert hostile.wait(20) == 0
    await_reclaimed(broker, before)
    assert broker.roles() == roles, "no role has died"
    assert highest - memory < 200 * 1024 * 1024
    acked = honest.finish()
    assert honest.sessions_count == 1
    assert honest.slowest_s < 5
    check_stored(opened(broker), acked, 0)


def test_nothing_is_kept_for_clients_that_do_nothing(
    new_broker: NewBroker, new_child: NewChild
) -> None:
    broker = new_broker()
    warm(broker)
    before = fds_of(broker)
    children = [new_child("hold", broker, OTHER) for _ in range(3)]
    for child in children:
        child.await_ready()
    assert sum(fds_of(broker).values()) > sum(before.values())
    for child in children:
        child.send(signal.SIGTERM)
        child.wait(10)
    await_reclaimed(broker, before)
    assert not list(Path("/dev/shm").glob("*native*"))  # noqa: S108  POSIX shared memory

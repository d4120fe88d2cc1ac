"""Doorbells: they wake who sleeps, and nobody hangs."""

from __future__ import annotations

import mmap
import os
import select
import threading
import time
from collections.abc import Iterator

import posix_ipc
import pytest

from shmq.shm.doorbell import EventBell, SemaphoreBell
from shmq.shm.segment import SHM_FOLDER, segment_name
from shmq.shm.words import OwnedCell


@pytest.fixture(params=["semaphore", "event"])
def bell(request: pytest.FixtureRequest, instance: str) -> Iterator[SemaphoreBell | EventBell]:
    sleeping = OwnedCell(memoryview(mmap.mmap(-1, 4096)), 0, free=True)
    if request.param == "semaphore":
        yield SemaphoreBell(instance, "test", sleeping)
        return
    bell = EventBell(sleeping)
    yield bell
    os.close(bell.fileno())


def test_a_ring_is_heard_only_by_a_sleeper(bell: SemaphoreBell | EventBell) -> None:
    bell.ring()
    assert not bell.wait(0)
    bell.arm()
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    bell.disarm()
    assert not bell.wait(0), "rings of the last sleep are forgotten"
    bell.ring()
    assert not bell.wait(0)


def test_force_is_always_heard(bell: SemaphoreBell | EventBell) -> None:
    bell.force()
    assert bell.wait(0)


def test_a_wait_ends_by_itself(bell: SemaphoreBell | EventBell) -> None:
    bell.arm()
    start = time.monotonic()
    assert not bell.wait(20)
    assert 0.015 < time.monotonic() - start < 5


def test_a_sleeper_is_woken(bell: SemaphoreBell | EventBell) -> None:
    heard: list[bool] = []
    bell.arm()
    sleeper = threading.Thread(target=lambda: heard.append(bell.wait(30_000)))
    sleeper.start()
    bell.ring()
    sleeper.join(20)
    assert heard == [True]


def test_another_process_rings(bell: SemaphoreBell | EventBell) -> None:
    bell.arm()
    pid = os.fork()
    if pid == 0:
        bell.ring()
        os._exit(0)
    assert bell.wait(30_000)
    assert os.waitpid(pid, 0)[1] == 0


def test_an_event_bell_is_seen_by_poll() -> None:
    bell = EventBell(OwnedCell(memoryview(bytearray(64)), 0, free=True))
    poller = select.poll()
    poller.register(bell.fileno(), select.POLLIN)
    assert poller.poll(0) == []
    bell.force()
    assert [fd for fd, _ in poller.poll(0)] == [bell.fileno()]
    bell.disarm()
    assert poller.poll(0) == []


def test_an_event_bell_whose_counter_is_full_still_rings() -> None:
    bell = EventBell(OwnedCell(memoryview(bytearray(64)), 0, free=True))
    os.eventfd_write(bell.fileno(), 2**64 - 2)
    bell.force()
    assert bell.wait(0)


def test_a_semaphore_leaves_no_name(instance: str) -> None:
    sleeping = OwnedCell(memoryview(bytearray(64)), 0, free=True)
    name = segment_name(instance, f"bell-test-{os.getpid()}")
    left = posix_ipc.Semaphore(name, posix_ipc.O_CREX)
    bell = SemaphoreBell(instance, "test", sleeping)
    assert bell.fileno() == -1
    left.release()
    assert not bell.wait(0), "a name left by a killed process is not taken over"
    assert not list(SHM_FOLDER.glob(f"*{instance}*"))

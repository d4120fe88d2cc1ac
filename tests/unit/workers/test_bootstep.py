"""The boot step in its child: progress, errors, deaths, and being asked to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from shmq.errors import StoreError
from shmq.units import MiB
from shmq.workers.bootstep import REPORT_SIZE_MAX, BootFailed, Pace, amounts, run_boot
from shmq.workers.notify import Notifier
from shmq.workers.signals import Inbox

if TYPE_CHECKING:
    from shmq.workers.bootstep import Progress

pytestmark = pytest.mark.crash


class Told(Notifier):
    """Remembers what it would have said."""

    def __init__(self) -> None:
        super().__init__({}, pid=os.getpid())
        self.said: list[str] = []

    def extend_timeout(self, timeout_ms: int, status: str) -> None:
        """Remember it."""
        self.said.append(status)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    made = Inbox()
    made.open()
    yield made
    made.restore()


def test_done_with_progress(inbox: Inbox) -> None:
    told = Told()

    def step(progress: Progress) -> None:
        for done in range(1000):
            progress("walking", done * MiB, 1000 * MiB)
        progress("building", 0, 1)

    assert run_boot(step, inbox=inbox, notifier=told)
    assert told.said[0] == "walking: 0 of 1000 MiB"
    assert told.said[-1] == "building"
    assert len(told.said) < 100, "not with every report"


def test_rate_and_time_left() -> None:
    pace = Pace(10_000, 100 * MiB)
    assert pace.facts(10_000, 100 * MiB, 900 * MiB) == {}
    facts = pace.facts(12_000, 300 * MiB, 900 * MiB)
    assert facts == {"bytes_per_s": 100 * MiB, "left_s": 6}
    assert amounts(300 * MiB, 900 * MiB, facts) == ": 300 of 900 MiB, 100 MiB/s, 6 s left"
    assert pace.facts(12_000, 950 * MiB, 900 * MiB)["left_s"] == 0


def test_an_error_comes_through_with_its_facts(inbox: Inbox) -> None:
    def step(_progress: Progress) -> None:
        raise StoreError("the store is odd", size=5, hint="mend it")

    with pytest.raises(BootFailed, match="the store is odd") as raised:
        run_boot(step, inbox=inbox, notifier=Told())
    assert raised.value.facts == {"size": "5", "hint": "mend it"}


def test_a_fault_comes_through_as_one(inbox: Inbox) -> None:
    def step(_progress: Progress) -> None:
        raise KeyError("x" * 2 * REPORT_SIZE_MAX)

    with pytest.raises(BootFailed, match="unexpected fault"):
        run_boot(step, inbox=inbox, notifier=Told())


def test_a_child_that_is_killed(inbox: Inbox) -> None:
    def step(progress: Progress) -> None:
        progress("walking", 1, 2)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(BootFailed, match="ended early") as raised:
        run_boot(step, inbox=inbox, notifier=Told())
    assert raised.value.facts == {"how": "killed by signal 9", "while_doing": "walking"}


def test_asked_to_stop(inbox: Inbox) -> None:
    def step(progress: Progress) -> None:
        progress("walking", 1, 2)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    start = time.monotonic()
    assert not run_boot(step, inbox=inbox, notifier=Told())
    assert time.monotonic() - start < 20
    assert inbox.stop_asked


def test_a_child_that_does_not_stop_is_killed(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmq.workers.bootstep.STOP_MAX_MS", 50)
    monkeypatch.setattr("shmq.workers.bootstep.LOG_EVERY_MS", 50)

    def step(_progress: Progress) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    assert not run_boot(step, inbox=inbox, notifier=Told())

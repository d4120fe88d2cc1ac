"""The family: forked in order, replaced when it dies or is silent, drained in order, gone after."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmq.config import Settings
from shmq.workers import family as family_module
from shmq.workers.context import Context
from shmq.workers.family import Family, Halted
from shmq.workers.judgement import Policy
from shmq.workers.roles import RoleSpec
from shmq.workers.signals import Inbox

MODULE = "tests.unit.workers.tinyroles"
WAIT_MAX_S = 20
pytestmark = pytest.mark.crash


class Home:
    """A folder, an inbox and families on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inbox = Inbox()
        self.inbox.open()
        self.context = Context(
            settings=Settings(broker_name="before"),
            instance="tiny",
            store_dir=folder,
            run_dir=folder,
            started_ms=0,
            load_settings=lambda: Settings(broker_name="before", log_level="error"),
        )
        self.family: Family | None = None

    def make(self, *, restarts_max: int = 3, **spec: Any) -> Family:
        """A family of one first and two second roles."""
        specs = [
            RoleSpec(
                name="first",
                module=MODULE,
                make_name="make_first",
                start_rank=0,
                drain_rank=2,
                keeps_data=True,
                **spec,
            ),
            RoleSpec(
                name="second",
                module=MODULE,
                make_name="make_second",
                count=2,
                numbered=True,
                start_rank=1,
                drain_rank=1,
                **spec,
            ),
        ]
        policy = Policy(restarts_max=restarts_max, restarts_window_ms=60_000)
        self.family = Family(
            specs=specs, context=self.context, policy=policy, inbox=self.inbox, look_ms=50
        )
        return self.family

    def order(self, order: str, *, always: bool = False) -> None:
        """Have a role do something."""
        (self.folder / order).write_text("always" if always else "")

    def events(self) -> list[str]:
        """What the roles noted."""
        path = self.folder / "events"
        return path.read_text().splitlines() if path.exists() else []

    def turn_until(self, done: Callable[[], bool]) -> None:
        """Let the supervisor turn until `done()`."""
        assert self.family is not None
        deadline = time.monotonic() + WAIT_MAX_S
        while not done():
            assert time.monotonic() < deadline, self.events()
            self.family._turn()

    def close(self) -> None:
        """End all that lives."""
        if self.family is not None:
            self.family.kill()
            assert not any(member.pid for member in self.family.members)
            self.family.close()
        self.inbox.restore()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def pids(family: Family) -> dict[str, int]:
    return {member.name: member.pid for member in family.members}


def test_started_and_drained_in_order(home: Home) -> None:
    family = home.make()
    assert family.start()
    assert home.events()[0] == "first made"
    assert sorted(home.events()[1:]) == ["second0 made", "second1 made"]
    assert [(one["role"], one["state"], one["restarts"]) for one in family.describe()] == [
        ("first", "ready", 0),
        ("second0", "ready", 0),
        ("second1", "ready", 0),
    ]
    before = set(pids(family).values())
    assert len(before) == 3
    assert family.drain()
    assert family.data_kept()
    events = home.events()[3:]
    assert events[-2:] == ["first drained", "first closed"], "after all others"
    assert sorted(events[:-2]) == sorted(
        f"second{index} {what}" for index in (0, 1) for what in ("drained", "closed")
    )
    for pid in before:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("order", ["die", "fail", "end"])
def test_who_dies_is_replaced_at_once(home: Home, order: str) -> None:
    family = home.make()
    assert family.start()
    before = pids(family)
    start = time.monotonic()
    home.order(f"second1.{order}")
    home.turn_until(
        lambda: pids(family)["second1"] not in (0, before["second1"]) and family.members[2].ready
    )
    assert time.monotonic() - start < 5
    after = pids(family)
    assert (after["first"], after["second0"]) == (before["first"], before["second0"])
    assert [one["restarts"] for one in family.describe()] == [0, 0, 1]
    assert family.drain()


def test_who_keeps_dying_halts_the_broker(home: Home) -> None:
    family = home.make(restarts_max=2)
    assert family.start()
    home.order("second0.die", always=True)
    with pytest.raises(Halted, match="second0 keeps dying: 3 times in 60000 ms, allowed 2"):
        home.turn_until(lambda: False)
    assert not family.drain()
    assert family.data_kept(), "the one that keeps data has drained"
    assert "first drained" in home.events()


def test_who_says_that_it_is_of_no_use_halts_the_broker(home: Home) -> None:
    family = home.make()
    assert family.start()
    home.order("second0.wrong")
    with pytest.raises(Halted, match="second0 cannot go on"):
        home.turn_until(lambda: False)


@pytest.mark.parametrize("order", ["first.refuse", "second1.refuse", "second0.die"])
def test_a_death_before_all_are_ready_is_a_failed_boot(home: Home, order: str) -> None:
    family = home.make()
    if order.endswith("die"):  # It is ready then, but the broker is not.
        home.order("second1.slow")
    home.order(order)
    with pytest.raises(Halted, match=f"boot failed: {order.partition('.')[0]}"):
        family.start()


def test_who_is_silent_is_replaced(home: Home) -> None:
    family = home.make(silence_max_ms=400)
    assert family.start()
    before = pids(family)
    home.order("second0.hang")
    home.turn_until(lambda: pids(family)["second0"] not in (0, before["second0"]))
    assert family.drain()
    assert home.events().count("second0 made") == 2


def test_who_is_not_ready_in_time_is_a_failed_boot(home: Home) -> None:
    family = home.make(ready_max_ms=300)
    home.order("second0.slow")
    with pytest.raises(Halted, match="not ready 300 ms after the fork"):
        family.start()


def test_who_cannot_drain_is_killed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_module, "DRAIN_GRACE_MS", 100)
    family = home.make(drain_max_ms=300)
    assert family.start()
    home.order("first.never")
    assert not family.drain()
    assert not family.data_kept(), "its hot pages must stay"


def test_who_dies_while_draining_lives_again_to_finish(home: Home) -> None:
    family = home.make()
    assert family.start()
    home.order("first.die-draining")
    assert family.drain()
    assert family.data_kept()
    assert home.events().count("first made") == 2
    assert home.events()[-1] == "first closed"


def test_a_member_that_is_dead_when_the_drain_begins_lives_again_for_it(home: Home) -> None:
    family = home.make()
    assert family.start()
    os.kill(pids(family)["first"], signal.SIGKILL)
    assert family.drain()
    assert family.data_kept()
    assert home.events().count("first made") == 2


def test_asked_to_stop_while_starting(home: Home) -> None:
    family = home.make()
    home.order("first.slow")
    home.inbox.stop_asked = True
    assert not family.start()
    family.kill()
    assert not any(pids(family).values())


def test_a_second_interrupt_hastens(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_module, "HASTENED_MS", 200)
    family = home.make(drain_max_ms=60_000)
    assert family.start()
    home.order("second0.never")
    home.inbox.hasten_asked = True
    start = time.monotonic()
    assert not family.drain()
    assert time.monotonic() - start < 20


def test_settings_are_read_again_by_every_role(home: Home) -> None:
    family = home.make()
    assert family.start()
    family.reload()
    home.turn_until(lambda: sum("reloaded" in event for event in home.events()) == 3)
    assert family.drain()


def test_signals_are_taken_by_the_supervisor(home: Home) -> None:
    family = home.make()
    assert family.start()
    os.kill(os.getpid(), signal.SIGHUP)
    home.turn_until(home.inbox.take_reload)
    os.kill(os.getpid(), signal.SIGTERM)
    family.watch()  # Returns, since it was asked to stop.
    assert home.inbox.stop_asked
    assert not home.inbox.hasten_asked
    os.kill(os.getpid(), signal.SIGINT)
    home.turn_until(lambda: home.inbox.hasten_asked)
    assert not family.data_kept()

"""The one loop: steps, sleeps, reloads, drains, closes whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shmq.layout.heartbeat import State
from shmq.shm.heartbeat import HeartbeatSlot, HeartbeatTable
from shmq.workers.base import DRAIN_WAIT_MS, IDLE_WAIT_MS, Pulse, run


class Script:
    """A role that does as many things as its script says, then has the pulse stop it."""

    def __init__(self, slot: HeartbeatSlot, *done: int, drains: int = 0) -> None:
        self.calls: list[str] = []
        self.now_ms = 1000
        self.states: list[State] = []
        self._slot = slot
        self._done = list(done)
        self._drains = drains
        self.pulse = Pulse(
            slot=slot,
            drain_max_ms=100,
            clock_ms=lambda: 7,
            monotonic_clock_ms=lambda: self.now_ms,
            on_state=lambda: self.states.append(slot.state),
        )

    def step(self, now_ms: int) -> int:
        """The next number of the script."""
        assert now_ms == 7
        self.calls.append("step")
        self.now_ms += 10
        done = self._done.pop(0)
        if not self._done:
            self.pulse.stop()
        if done < 0:
            raise RuntimeError("as written")
        return done

    def wait(self, timeout_ms: int) -> None:
        """Note how long."""
        self.calls.append(f"wait {timeout_ms}")

    def drain(self, now_ms: int) -> bool:
        """Done after so many times."""
        self.calls.append("drain")
        self.now_ms += 10
        self._drains -= 1
        return self._drains <= 0

    def close(self) -> None:
        """Note it."""
        self.calls.append("close")


@pytest.fixture
def slot() -> Iterator[HeartbeatSlot]:
    table = HeartbeatTable(1)
    made = table.slot(0)
    yield made
    table.close()


def test_a_role_sleeps_only_when_idle(slot: HeartbeatSlot) -> None:
    role = Script(slot, 3, 0, 2, 1)
    assert run(role, role.pulse)
    assert role.calls == [
        "step", "step", f"wait {IDLE_WAIT_MS}", "step", "step", "drain", "close",
    ]  # fmt: skip
    assert role.states == [State.READY, State.DRAINING]
    assert slot.beat_ms == 1030


def test_draining_takes_as_long_as_it_takes(slot: HeartbeatSlot) -> None:
    role = Script(slot, 1, drains=4)
    assert run(role, role.pulse)
    assert role.calls[1:] == ["drain", f"wait {DRAIN_WAIT_MS}"] * 3 + ["drain", "close"]


def test_but_not_for_ever(slot: HeartbeatSlot) -> None:
    role = Script(slot, 1, drains=1000)
    assert not run(role, role.pulse)
    assert role.calls.count("drain") == 10
    assert role.calls[-1] == "close"


def test_a_fault_closes_the_role(slot: HeartbeatSlot) -> None:
    role = Script(slot, 1, -1)
    with pytest.raises(RuntimeError, match="as written"):
        run(role, role.pulse)
    assert role.calls == ["step", "step", "close"]


def test_settings_are_read_again_between_steps(slot: HeartbeatSlot) -> None:
    role = Script(slot, 1, 1)
    woken: list[str] = []
    role.pulse.wake = lambda: woken.append("woken")
    role.pulse.ask_reload()
    assert run(role, role.pulse, reload=lambda: role.calls.append("reload"))
    assert role.calls[:3] == ["reload", "step", "step"]
    assert woken == ["woken", "woken"], "by the reload and by the stop"

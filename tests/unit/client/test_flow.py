"""Flows: driven by whoever ends a wait, cancelled at any point, never twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from shmq.client.bell import Bell
from shmq.client.flow import Cancelled, Done, Flow, Wait, Waiter, call_safely, run, together
from shmq.client.timers import Timers
from shmq.errors import Timeout


class Gate:
    """A wait that the test ends."""

    def __init__(self) -> None:
        self.done: Done[Any] | None = None
        self.undone = 0

    def wait(self) -> Wait[Any]:
        """For the flow."""

        def begin(done: Done[Any]) -> Callable[[], None]:
            self.done = done
            return self._undo

        return Wait(begin)

    def _undo(self) -> None:
        self.undone += 1

    def open(self, outcome: Any) -> None:
        """For the test."""
        assert self.done is not None
        self.done(outcome)


def test_values_and_errors_come_back() -> None:
    first, second = Gate(), Gate()
    seen: list[Any] = []

    async def work() -> str:
        seen.append(await first.wait())
        try:
            await second.wait()
        except ZeroDivisionError:
            return "caught"
        return "not caught"

    flow = Flow(work(), seen.append)
    flow.start()
    first.open(1)
    second.open(ZeroDivisionError())
    assert seen == [1, "caught"]
    second.open("late")  # Nobody waits any more.
    first.open("late")
    assert seen == [1, "caught"]


def test_thousands_of_waits_that_end_at_once() -> None:
    """No recursion: each is ended before it is waited for."""
    one: Wait[int] = Wait(lambda done: done(1))

    async def work() -> int:
        count = 0
        for _ in range(20_000):
            count += await one
        return count

    assert run(work()) == 20_000


def test_cancelling() -> None:
    gate, cleanup = Gate(), Gate()
    seen: list[Any] = []

    async def work() -> str:
        try:
            await gate.wait()
        except Cancelled:
            await cleanup.wait()
            raise
        return "done"

    flow = Flow(work(), seen.append)
    flow.start()
    flow.cancel()
    flow.cancel()
    assert gate.undone == 1
    gate.open("late")
    cleanup.open(None)
    assert len(seen) == 1
    assert isinstance(seen[0], Cancelled)


def test_cancelling_before_the_next_wait() -> None:
    gate = Gate()
    seen: list[Any] = []
    flows: list[Flow[None]] = []

    async def work() -> None:
        flows[0].cancel()
        await gate.wait()

    flows.append(Flow(work(), seen.append))
    flows[0].start()
    assert gate.done is None
    assert isinstance(seen[0], Cancelled)


def test_a_race_of_ends_and_cancels() -> None:
    """Whatever comes first counts, and the flow ends once."""
    for _ in range(300):
        gate = Gate()
        seen: list[Any] = []

        async def work(gate: Gate = gate) -> str:
            return str(await gate.wait())

        flow = Flow(work(), seen.append)
        flow.start()
        start = threading.Barrier(2)

        def cancel(flow: Flow[str] = flow, start: threading.Barrier = start) -> None:
            start.wait()
            flow.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        start.wait()
        gate.open("value")
        thread.join()
        assert len(seen) == 1
        assert seen[0] == "value" or isinstance(seen[0], Cancelled)


def test_together() -> None:
    async def value(number: int) -> int:
        return number

    async def fail() -> int:
        raise ZeroDivisionError

    async def work() -> list[int | Exception]:
        return await together([value(1), fail(), value(3)])

    async def nothing() -> list[int | Exception]:
        return await together([])

    one, two, three = run(work())
    assert (one, three) == (1, 3)
    assert isinstance(two, ZeroDivisionError)
    assert run(nothing()) == []


def test_waiting_for_a_result() -> None:
    waiter: Waiter[int] = Waiter()
    with pytest.raises(Timeout, match="waiting_for=a thing"):
        waiter.result(0.01, "a thing")
    threading.Timer(0.05, lambda: waiter(5)).start()
    assert waiter.result(30) == 5
    assert waiter.result(0) == 5
    failed: Waiter[int] = Waiter()
    failed(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        failed.result(0)


def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    call_safely(fail, None)
    assert "callback failed" in caplog.text


def test_timers_in_their_order() -> None:
    timers = Timers()
    called: list[str] = []
    done = threading.Event()

    def last() -> None:
        called.append("last")
        done.set()

    def fail() -> None:
        raise ZeroDivisionError

    timers.after(0.1, last)
    timers.after(0.05, lambda: called.append("second"))
    timers.after(0.0, lambda: called.append("first"))
    timers.after(0.02, lambda: called.append("never")).cancel()
    timers.after(0.03, fail)
    assert done.wait(30)
    assert called == ["first", "second", "last"]
    timers.close()
    timers.after(0.0, lambda: called.append("never"))
    assert called == ["first", "second", "last"]


def test_a_flow_sleeps() -> None:
    timers = Timers()

    async def work() -> float:
        begin = time.monotonic()
        await timers.sleep(0.05)
        return time.monotonic() - begin

    assert run(work()) >= 0.05
    timers.close()


def test_a_bell_wakes_all() -> None:
    bell = Bell()
    woken: list[bool] = []
    threads = [threading.Thread(target=lambda: woken.append(bell.wait(0, 30))) for _ in range(5)]
    for thread in threads:
        thread.start()
    bell.ring()
    for thread in threads:
        thread.join(30)
    assert woken == [True] * 5
    assert not bell.wait(1, 0.01)
    assert bell.wait(0, 0)
    assert not bell.wait(1, 0)
    assert not bell.wait_for(lambda: False, 0.01)
    assert bell.wait_for(lambda: True, None)


def test_no_ring_is_missed() -> None:
    bell = Bell()
    value = 0

    def change() -> None:
        nonlocal value
        for _ in range(2000):
            value += 1
            bell.ring()

    thread = threading.Thread(target=change)
    thread.start()
    assert bell.wait_for(lambda: value == 2000, 30)
    thread.join()

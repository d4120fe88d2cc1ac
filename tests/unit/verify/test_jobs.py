from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from shmq.errors import LayoutError, ShmqError, StoreError
from shmq.verify.jobs import run


def square(item: int, tick: Callable[[int], None]) -> tuple[int, int]:
    tick(item)
    return item * item, os.getpid()


def fail(item: int, _tick: Callable[[int], None]) -> int:
    raise LayoutError("no luck", item=item)


def die(item: int, _tick: Callable[[int], None]) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def nothing(_done: int) -> None:
    pass


@pytest.mark.parametrize("jobs", [1, 2, 3, 50])
def test_results_in_order(jobs: int) -> None:
    seen: list[int] = []
    found = run(square, range(20), jobs=jobs, watch=seen.append)
    assert [value for value, _ in found] == [item * item for item in range(20)]
    assert seen[-1] == sum(range(20))
    pids = {pid for _, pid in found}
    assert (os.getpid() in pids) is (jobs == 1)
    assert len(pids) <= jobs


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_is_raised_here(jobs: int) -> None:
    with pytest.raises(ShmqError, match=r"no luck: item=[01]"):
        run(fail, range(5), jobs=jobs, watch=nothing)


def test_a_killed_process_is_noticed() -> None:
    with pytest.raises(StoreError, match="was killed"):
        run(die, range(8), jobs=3, watch=nothing)


def test_nothing_to_do() -> None:
    assert run(square, [], jobs=4, watch=nothing) == []


def wait_for_parent(item: int, tick: Callable[[int], None]) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        tick(1)
    return item


def test_processes_end_with_their_parent() -> None:
    """Whoever held the pipe's other end is gone when all of them are."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            run(wait_for_parent, range(2), jobs=2, watch=lambda done: os._exit(9) if done else None)
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(pid, 0)
    assert os.read(reader, 1) == b""
    os.close(reader)

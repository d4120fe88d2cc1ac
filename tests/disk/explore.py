"""Recovers many states of a store, in as many processes as there are cores, and checks each."""

from __future__ import annotations

import logging
import os
import pickle
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar

import structlog

from shmq.workers.base import end_with
from tests.disk.disks import RecordingDisk, tree
from tests.disk.onebroker import recover, reopen
from tests.disk.powercut import CrashState, Image, PowerCut
from tests.disk.promises import Promises
from tests.disk.script import life_after_cut

MEMORY_DIR: Final = Path("/dev/shm")  # noqa: S108  images are small, and many
TRIES_MAX: Final = 4
"""So many states are made for one that is new."""
SHOWN_MAX: Final = 5
HUNG_AFTER_S: Final = 60

T = TypeVar("T")

Check: TypeAlias = Callable[[Path, CrashState], int]
"""Checks one state in its folder; how many states that were."""


class Outcome(NamedTuple):
    """Of all states together."""

    state_count: int
    failures: list[str]

    def __str__(self) -> str:
        shown = "\n".join(self.failures[:SHOWN_MAX])
        return (
            f"{len(self.failures)} of {self.state_count} states are not as they must be:\n{shown}"
        )


def states_of(
    disk: RecordingDisk, promises: Promises, *, count: int, seed: int
) -> Iterator[CrashState]:
    """About `count` different states after the changes on a disk, spread over all moments.

    Where there are fewer states than changes, chance says which changes get one.
    """
    rng = random.Random(seed)
    cut = PowerCut(disk.first, disk.first_numbers)
    seen: set[tuple[bytes, int]] = set()
    left = count
    for number, change in enumerate(disk.changes):
        cut.follow(change)
        wanted = int(left / (len(disk.changes) - number) + rng.random())
        found = 0
        for state in islice(cut.states(rng), wanted * TRIES_MAX):
            key = (state.digest, promises.count_at(state.change_count))
            if key not in seen:
                seen.add(key)
                found += 1
                yield state
            if found >= wanted:
                break
        left -= found


def explore(states: Callable[[], Iterable[CrashState]], check: Check) -> Outcome:
    """Put every state into a folder and check it there; a failed assertion or any error counts."""

    def check_one(root: Path, state: CrashState) -> int:
        put(root, state.image)
        return check(root, state)

    return share_out(states, check_one)


def share_out(items: Callable[[], Iterable[T]], check: Callable[[Path, T], int]) -> Outcome:
    """Check every item, with a folder of its own to make, in one process for each core.

    Each process makes all items and takes its share, so that nothing but counts is handed over.
    `check` gives how many states it looked at; whatever it raises is a failure of that item.
    """
    workers, parent_pid = len(os.sched_getaffinity(0)), os.getpid()
    readers = []
    for index in range(workers):
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                end_with(parent_pid)
                os.close(read_fd)
                with os.fdopen(write_fd, "wb") as pipe:
                    pickle.dump(_share(islice(items(), index, None, workers), check), pipe)
                code = 0
            finally:
                os._exit(code)
        os.close(write_fd)
        readers.append((pid, read_fd))
    count, failures = 0, []
    for pid, read_fd in readers:
        with os.fdopen(read_fd, "rb") as pipe:
            data = pipe.read()
        _pid, status = os.waitpid(pid, 0)
        assert status == 0, f"a process that checks states ended with {status}"
        mine: Outcome = pickle.loads(data)  # noqa: S301  a fork of ours wrote it
        count += mine.state_count
        failures += mine.failures
    return Outcome(count, failures)


def _share(items: Iterable[T], check: Callable[[Path, T], int]) -> Outcome:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    signal.signal(signal.SIGALRM, _say_hung)
    count, failures = 0, []
    folder = Path(tempfile.mkdtemp(prefix="shmq-states-", dir=MEMORY_DIR))
    try:
        for number, item in enumerate(items):
            root = folder / str(number)
            signal.alarm(HUNG_AFTER_S)
            try:
                count += check(root, item)
            except Exception as error:  # noqa: BLE001  whatever it is, the item is named
                count += 1
                failures.append(f"{item}: {type(error).__name__}: {str(error)[:600]}")
            signal.alarm(0)
            shutil.rmtree(root, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(count, failures)


def _say_hung(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"not done after {HUNG_AFTER_S} s")


def put(root: Path, image: Image) -> None:
    """Make the files and folders of an image; zeros at a file's end become a hole."""
    root.mkdir(parents=True)
    for path, data in image.items():
        if data is None:
            (root / path).mkdir()
        else:
            with (root / path).open("wb") as file:
                file.write(data.rstrip(b"\0"))
                file.truncate(len(data))


def check_recovery(root: Path, change_count: int, promises: Promises, *, sync: bool) -> int:
    """Recover a state after so many changes and hold it to the promises made by then.

    Recovered again, nothing may change.
    """
    found = recover(root, sync=sync)
    promises.check(found, change_count)
    first = tree(root)
    reopen(root, sync=sync)
    second = tree(root)
    changed = {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
    assert not changed, ("recovered again, files changed", changed)
    return 1


def check_second_cut(
    root: Path, state: CrashState, promises: Promises, *, sync: bool, count: int
) -> int:
    """Start a broker on a state, and cut the power again, while it recovers or later."""
    disk = RecordingDisk(root)
    still = promises.after(state.change_count)
    life_after_cut(root, disk, still, sync=sync)
    done = 0
    for number, second in enumerate(states_of(disk, still, count=count, seed=state.change_count)):
        other = root.with_name(f"{root.name}-{number}")
        put(other, second.image)
        try:
            done += check_recovery(other, second.change_count, still, sync=sync)
        except Exception as error:
            raise AssertionError(
                f"and again after change {second.change_count}, {second.how}: {error}"
            ) from error
        shutil.rmtree(other)
    return done

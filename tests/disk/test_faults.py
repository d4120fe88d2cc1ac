"""A disk that fails, or a kill: at whatever call, nothing false is promised, nothing promised lost.

A script is run once for every call of the disk and every fault that the call can have.
SHMQ_FAULTS_EVERY sets which share of them is looked at: 1 is all.
"""

from __future__ import annotations

import os
import random
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from shmq.errors import StoreError
from shmq.layout.control import Word
from tests.disk.disks import FAULTS, Fault, FaultyDisk, Killed, Made, Synced, SyncFailed
from tests.disk.explore import put, share_out
from tests.disk.onebroker import FIRST_MS, OneBroker, look, recover, remove_segments
from tests.disk.powercut import PowerCut
from tests.disk.promises import Promises
from tests.disk.script import LONG_MS, body
from tests.unit.workers.house import instance_name

DEFAULT_EVERY: Final = 12
EVERY: Final = int(os.environ.get("SHMQ_FAULTS_EVERY", DEFAULT_EVERY))
STATES: Final = 4
"""Power cuts at each end: nothing in doubt, all, and some of it."""

pytestmark = [pytest.mark.crash, pytest.mark.timeout(60 + 900 // EVERY)]


class Case(NamedTuple):
    """Which call goes wrong, and how."""

    call: int
    name: str
    fault: Fault

    def __str__(self) -> str:
        return f"call {self.call}, {self.name}, {self.fault.name}"


class Lives:
    """Brokers on one disk that goes wrong once: two before it is repaired, and one after."""

    def __init__(self, root: Path, disk: FaultyDisk, *, sync: bool) -> None:
        self._root = root
        self.disk = disk
        self._sync = sync
        self.promises = Promises()
        self.instance = instance_name()

    def before_repair(self) -> None:
        """Serve and stop, serve and be killed; a start may be refused, with file and cause."""
        for start_ms, serve, end in (
            (FIRST_MS, serve_first, OneBroker.stop),
            (FIRST_MS + 200_000, serve_second, OneBroker.kill),
        ):
            broker = None
            before = len(self.disk.changes)
            try:
                broker = self._start(start_ms)
                refusals = len(self.disk.refusals)
                serve(broker)
                check_fault_is_seen(broker, self.disk, refusals)
                end(broker)
            except Killed:
                if broker is not None:
                    broker.kill()
            except (StoreError, OSError) as error:
                if broker is not None:
                    broker.kill()
                    raise
                if not any(path in str(error) for path in self.disk.refusals):
                    raise AssertionError(f"names no file that was refused: {error}") from error
            check_no_second_sync(self.disk, before)

    def after_repair(self) -> None:
        """Start again: all that was acknowledged is there, and it goes on."""
        self.disk.repair()
        broker = self._start(FIRST_MS + 400_000)
        house = broker.house
        found = look(house, topics=broker.topics(), offsets=broker.offsets())
        self.promises.check_restart(found)
        assert broker.create_topic("Z", queues=1)
        assert broker.send("Z", 0, body(700, 100)) == 1
        assert broker.commit("Z", 0, 1)
        broker.work(pass_ms=LONG_MS)
        broker.work(pass_ms=LONG_MS)
        assert house.word(Word.FLUSHED_OFFSET) == house.word(Word.APPEND_OFFSET)
        assert broker.stop(), "a clean end"

    def check_power_cut(self) -> int:
        """What a power cut leaves now; how many states were looked at."""
        cut = PowerCut(self.disk.first, self.disk.first_numbers)
        for change in self.disk.changes:
            cut.follow(change)
        for number, state in enumerate(islice(cut.states(random.Random(0)), STATES)):
            other = self._root.with_name(f"{self._root.name}-{number}-{len(self.disk.changes)}")
            put(other, state.image)
            try:
                self.promises.check(recover(other, sync=self._sync), state.change_count)
            except Exception as error:
                raise AssertionError(f"power cut {state}: {error}") from error
        return STATES

    def _start(self, start_ms: int) -> OneBroker:
        return OneBroker(
            self._root,
            disk=self.disk,
            promises=self.promises,
            sync=self._sync,
            now_ms=start_ms,
            instance=self.instance,
        )


def serve_first(broker: OneBroker) -> None:
    """A little of everything."""
    broker.create_topic("A")
    broker.send("A", 0, *(body(number, 20) for number in range(5)))
    broker.work()
    broker.commit("A", 0, 2)
    broker.send("A", 1, body(100, 5000), body(101, 5000))
    broker.work(pass_ms=LONG_MS)
    broker.commit("A", 0, 4)
    broker.send("A", 1, body(102, 7000))
    broker.send("A", 0, *(body(number, 20) for number in range(5, 45)))
    broker.work(pass_ms=LONG_MS)


def serve_second(broker: OneBroker) -> None:
    """And an end with much that is not synced."""
    broker.commit("A", 0, 5)
    broker.create_topic("B", queues=1)
    broker.send("B", 0, body(200, 300))
    broker.work()
    broker.commit("B", 0, 1)
    broker.work(pass_ms=LONG_MS)
    broker.send("B", 0, body(201, 300))
    broker.work()


def check_fault_is_seen(broker: OneBroker, disk: FaultyDisk, refusals_before: int) -> None:
    """A commitlog that cannot be written is said, and then no message is taken any more.

    A full disk is not final: a write that found no room is tried again.
    """
    refused = disk.refusals[refusals_before:]
    if disk.lacks_room:
        assert not broker.flush_error, refused
    elif any("/commitlog/" in path or path.endswith("/checkpoint") for path in refused):
        assert broker.flush_error, refused
    if broker.flush_error or broker.no_room:
        assert broker.send("A", 0, b"one more") == 0


def check_no_second_sync(disk: FaultyDisk, before: int) -> None:
    """No file of log, queues or checkpoint is synced again after a sync of it has failed."""
    names = {change.file: change.path for change in disk.changes if isinstance(change, Made)}
    failed: set[int] = set()
    for change in disk.changes[before:]:
        if isinstance(change, SyncFailed) and not names.get(change.file, "").endswith(".tmp"):
            failed.add(change.file)
        assert not (isinstance(change, Synced) and change.file in failed), names[change.file]


@pytest.mark.parametrize("sync", [True, False], ids=["SYNC_FLUSH", "ASYNC_FLUSH"])
def test_at_every_call_something_goes_wrong(tmp_path: Path, sync: bool) -> None:  # noqa: FBT001
    well = Lives(tmp_path, FaultyDisk(tmp_path), sync=sync)
    well.before_repair()
    calls = list(well.disk.calls)
    well.after_repair()

    def run(root: Path, case: Case) -> int:
        root.mkdir()
        disk = FaultyDisk(root, fail_at=case.call, fault=case.fault)
        lives = Lives(root, disk, sync=sync)
        try:
            lives.before_repair()
            done = lives.check_power_cut()
            lives.after_repair()
            return done + lives.check_power_cut()
        finally:
            remove_segments(lives.instance)

    cases = [
        Case(call, name, fault)
        for call, name in enumerate(calls)
        for fault in FAULTS
        if fault.can_befall(name)
    ]
    outcome = share_out(lambda: cases[::EVERY], run)
    assert not outcome.failures, str(outcome)
    assert outcome.state_count >= len(cases) // EVERY

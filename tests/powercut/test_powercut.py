"""Power cuts under a real file system: no image that one may leave makes the store break a promise.

A script runs on an ext4 whose disk writes down each write and each barrier. The images that a cut
of the power may have left are mounted, recovered, and held to what had been promised by then.
SHMQ_POWERCUTS sets how many (DEFAULT_COUNT), SHMQ_CRASH_SEED which.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import psutil
import pytest

from tests.compat.processes import eventually
from tests.disk.disks import TimedDisk, tree
from tests.disk.explore import Outcome, check_recovery, share_out
from tests.disk.promises import Promises
from tests.disk.script import life_after_cut, run_script
from tests.powercut.kernel import (
    MEMORY_DIR,
    check_host,
    commit_journal,
    ext4_on,
    with_own_mounts,
)
from tests.powercut.recorder import (
    LyingDisk,
    RecordedDisk,
    Recorder,
    RestlessDisk,
    new_ext4,
    recorded_ext4,
)
from tests.powercut.replay import Cut, Replay, cuts

DEFAULT_COUNT: Final = 6_000
COUNT: Final = int(os.environ.get("SHMQ_POWERCUTS", DEFAULT_COUNT))
SEED: Final = int(os.environ.get("SHMQ_CRASH_SEED", "1"))
CUTS_A_SECOND_MIN: Final = 10
CUTS_A_RECORD: Final = 500
"""More of one record would show little that is new."""
SECOND_CUTS: Final = 20
"""Cuts after each first one."""
MOUNTS: Final = ("", "data=writeback", "data=journal")
"""Options of ext4: when the bytes of a file go to the disk, compared with its name and size."""

pytestmark = [pytest.mark.powercut, pytest.mark.timeout(120 + COUNT // CUTS_A_SECOND_MIN)]


class Record(NamedTuple):
    """The script, as the disk and as the clients saw it."""

    recorder: Recorder
    promises: Promises
    end: int
    """Events up to its last step."""
    files: dict[str, bytes | None]
    """What the file system showed then."""
    synced_end: int
    """Events until all of that was on the disk."""


class Case(NamedTuple):
    """One way to run the script."""

    sync: bool
    seed: int | None
    """Of the moments when the kernel writes back by itself; None: never."""
    options: str

    def __str__(self) -> str:
        mode = "SYNC_FLUSH" if self.sync else "ASYNC_FLUSH"
        return f"{mode}, write-back seed {self.seed}, mounted with '{self.options}'"

    def disk(self, recorder: Recorder) -> TimedDisk:
        if self.seed is None:
            return RecordedDisk(recorder)
        return RestlessDisk(recorder, seed=self.seed)


def record(case: Case, *, disk: type[RecordedDisk] | None = None) -> Record:
    """Run the script on a new ext4."""
    promises = Promises()
    with recorded_ext4(MEMORY_DIR, new_ext4(MEMORY_DIR), options=case.options) as (recorder, root):
        run_script(root, disk(recorder) if disk else case.disk(recorder), promises, sync=case.sync)
        end = recorder.count
        files = tree(root)
        with folder_fd(root) as fd:
            commit_journal(fd)
        synced_end = recorder.count
    return Record(recorder, promises, end, files, synced_end)


@contextmanager
def folder_fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def replay(made: Record, *, sync: bool, count: int) -> Outcome:
    """Cut the power `count` times, and recover after each."""
    replays = Replay(made.recorder)

    def check(root: Path, cut: Cut) -> int:
        root.mkdir()
        with replays.image(cut) as image_fd, ext4_on(image_fd, root):
            return check_recovery(root, cut.position, made.promises, sync=sync)

    return share_out(lambda: cuts(made.recorder, end=made.end, count=count, seed=SEED), check)


def replay_twice(made: Record, *, sync: bool, count: int) -> Outcome:
    """Cut the power `count` times, start a broker after each, and cut it then SECOND_CUTS times."""
    replays = Replay(made.recorder)

    def check(root: Path, cut: Cut) -> int:
        root.mkdir()
        with replays.image(cut) as image_fd:
            image = os.pread(image_fd, len(made.recorder.first), 0)
        still = made.promises.after(cut.position)
        with recorded_ext4(root, image) as (recorder, top):
            life_after_cut(top, RestlessDisk(recorder, seed=cut.position), still, sync=sync)
            end = recorder.count
        return check_seconds(root, Record(recorder, still, end, {}, end), sync=sync)

    return share_out(lambda: cuts(made.recorder, end=made.end, count=count, seed=SEED), check)


def check_seconds(root: Path, made: Record, *, sync: bool) -> int:
    """Hold what a second cut leaves to what was promised before it and before the first."""
    again = Replay(made.recorder)
    done = 0
    for cut in cuts(made.recorder, end=made.end, count=SECOND_CUTS, seed=SEED):
        where = root / str(done)
        where.mkdir()
        with again.image(cut) as image_fd, ext4_on(image_fd, where):
            try:
                done += check_recovery(where, cut.position, made.promises, sync=sync)
            except Exception as error:
                raise AssertionError(f"and again {cut}: {error}") from error
    return done


def replay_all(cases: list[Case], *, count: int) -> Outcome:
    """Cut the power in each case; failures name it."""
    total, failures = 0, []
    for case in cases:
        outcome = replay(record(case), sync=case.sync, count=count)
        total += outcome.state_count
        failures += [f"{case}: {failure}" for failure in outcome.failures]
    return Outcome(total, failures)


@pytest.fixture(autouse=True)
def _host() -> None:
    check_host()


@pytest.fixture(params=[True, False], ids=["SYNC_FLUSH", "ASYNC_FLUSH"])
def sync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_with_all_writes_the_files_are_what_they_are(sync: bool) -> None:  # noqa: FBT001
    """The record is the disk: replayed to its end, the file system shows the same."""

    def run() -> None:
        made = record(Case(sync, SEED, ""))
        everything = Cut(made.synced_end, made.synced_end, (), (), "everything")
        where = MEMORY_DIR / "again"
        where.mkdir()
        with Replay(made.recorder).image(everything) as image_fd, ext4_on(image_fd, where):
            assert tree(where) == made.files

    with_own_mounts(run)


def test_a_disk_that_never_syncs_is_found_out() -> None:
    """What these tests look for, they find."""
    case = Case(True, None, "")
    outcome = with_own_mounts(lambda: replay(record(case, disk=LyingDisk), sync=True, count=100))
    assert any("acknowledged message lost" in failure for failure in outcome.failures), outcome


def test_every_promise_outlives_a_power_cut(
    sync: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
) -> None:
    """First with the writes of the store's own syncs alone, then with more of the kernel's."""
    count = COUNT * 2 // 5
    cases = [Case(sync, None, "")]
    cases += [
        Case(sync, SEED + number, MOUNTS[number % len(MOUNTS)])
        for number in range(count // CUTS_A_RECORD)
    ]
    outcome = with_own_mounts(lambda: replay_all(cases, count=CUTS_A_RECORD))
    with capsys.disabled():
        print(f"\n{outcome.state_count} power cuts in {len(cases)} records")
    assert not outcome.failures, str(outcome)
    assert outcome.state_count >= count // 2


def test_every_promise_outlives_a_second_power_cut(
    sync: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Recovery itself is cut short, or what a broker did after it."""
    count = COUNT // 10
    outcome = with_own_mounts(
        lambda: replay_twice(record(Case(sync, SEED, "")), sync=sync, count=count // SECOND_CUTS)
    )
    with capsys.disabled():
        print(f"\n{outcome.state_count} second power cuts")
    assert not outcome.failures, str(outcome)
    assert outcome.state_count >= count // 2


def test_nothing_is_left_behind_by_kill_9() -> None:
    """Processes, mounts and loop devices go with the test, however it ends."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with_own_mounts(lambda: mount_and_wait(write_fd))
        finally:
            os._exit(1)
    os.close(write_fd)
    try:
        with os.fdopen(read_fd) as pipe:
            pids, device, backing = json.loads(pipe.readline())
            assert Path(device).read_text() == backing
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    eventually("the processes end", lambda: not any(map(is_alive, pids)))
    eventually("the loop device is free", lambda: not is_backed_by(Path(device), backing))


def mount_and_wait(write_fd: int) -> None:
    """Say which processes there are, and the loop device and its file; then wait."""
    with recorded_ext4(MEMORY_DIR, new_ext4(MEMORY_DIR)) as (_recorder, root):
        device = Path(f"/sys/dev/block/7:{os.minor(root.stat().st_dev)}/loop/backing_file")
        processes = [psutil.Process(), *psutil.Process().children()]
        news = ([one.pid for one in processes], str(device), device.read_text())
        os.write(write_fd, json.dumps(news).encode() + b"\n")
        signal.pause()


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_backed_by(device: Path, backing: str) -> bool:
    try:
        return device.read_text() == backing
    except OSError:
        return False

"""Power cuts: no state that one may leave makes the store break a promise.

SHMQ_CRASH_STATES sets how many states are looked at (DEFAULT_COUNT), SHMQ_CRASH_SEED which.
"""

from __future__ import annotations

import os
import random
from itertools import islice
from pathlib import Path
from typing import Final

import pytest

from tests.disk.disks import RecordingDisk, tree
from tests.disk.explore import check_recovery, check_second_cut, explore, states_of
from tests.disk.powercut import PowerCut
from tests.disk.promises import Promises
from tests.disk.script import run_script

DEFAULT_COUNT: Final = 5_000
COUNT: Final = int(os.environ.get("SHMQ_CRASH_STATES", DEFAULT_COUNT))
SEED: Final = int(os.environ.get("SHMQ_CRASH_SEED", "1"))
SECOND_CUTS: Final = 20
"""States after a second power cut for each first one."""
STATES_A_SECOND_MIN: Final = 20

pytestmark = [pytest.mark.crash, pytest.mark.timeout(60 + COUNT // STATES_A_SECOND_MIN)]


@pytest.fixture(params=[True, False], ids=["SYNC_FLUSH", "ASYNC_FLUSH"])
def sync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def scripted(tmp_path: Path, sync: bool) -> tuple[RecordingDisk, Promises]:  # noqa: FBT001
    """The record of the script, and all that was promised in it."""
    disk, promises = RecordingDisk(tmp_path), Promises()
    run_script(tmp_path, disk, promises, sync=sync)
    return disk, promises


def test_with_all_changes_the_store_is_what_it_is(
    scripted: tuple[RecordingDisk, Promises], tmp_path: Path
) -> None:
    """The model of a disk agrees with the kernel where nothing is lost."""
    disk, _promises = scripted
    cut = PowerCut(disk.first, disk.first_numbers)
    for change in disk.changes:
        cut.follow(change)
    _none, whole = islice(cut.states(random.Random(0)), 2)
    assert whole.image == tree(tmp_path)


def test_every_promise_outlives_a_power_cut(
    scripted: tuple[RecordingDisk, Promises],
    sync: bool,  # noqa: FBT001
) -> None:
    disk, promises = scripted
    outcome = explore(
        lambda: states_of(disk, promises, count=COUNT * 9 // 20, seed=SEED),
        lambda root, state: check_recovery(root, state.change_count, promises, sync=sync),
    )
    assert not outcome.failures, str(outcome)
    assert outcome.state_count >= min(COUNT, DEFAULT_COUNT) // 3


def test_every_promise_outlives_a_second_power_cut(
    scripted: tuple[RecordingDisk, Promises],
    sync: bool,  # noqa: FBT001
) -> None:
    """Recovery itself is cut short, or what a broker did after it."""
    disk, promises = scripted
    firsts = COUNT // 8 // SECOND_CUTS
    outcome = explore(
        lambda: islice(states_of(disk, promises, count=firsts * 4, seed=SEED), 0, None, 4),
        lambda root, state: check_second_cut(root, state, promises, sync=sync, count=SECOND_CUTS),
    )
    assert not outcome.failures, str(outcome)

"""The writer leaves the core of a client that streams, and only then."""

from __future__ import annotations

import os

import pytest

from shmq.kernels.cores import core
from shmq.layout import ring
from shmq.shm.words import OwnedCell
from shmq.workers.stepaside import INTERVAL_NS, StepAside
from shmq.workers.writer import STREAM_SIZE
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import small_settings
from tests.unit.workers.natives import Natives, stranger_record

TOPIC = "T"
NOW_MS = 1_700_000_000_000


class Moves:
    """A process on core 3 whose moves are counted."""

    def __init__(self) -> None:
        self.now_ns = 5
        self.masks: list[set[int]] = []
        self.allowed = {1, 3}

    def aside(self) -> StepAside:
        """What moves it."""
        return StepAside(core=lambda: 3, clock_ns=lambda: self.now_ns)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Moves:
    made = Moves()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: made.allowed)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, mask: made.masks.append(mask))
    return made


def test_it_goes_to_the_other_cores_and_may_come_back(moves: Moves) -> None:
    assert moves.aside().avoid(3)
    assert moves.masks == [{1}, {1, 3}]


@pytest.mark.parametrize("taken", [1, -1, 4, 2**63 - 2, -(2**63)])
def test_it_stays_where_the_client_is_not(moves: Moves, taken: int) -> None:
    """Whatever number a client writes."""
    assert not moves.aside().avoid(taken)
    assert moves.masks == []


def test_it_does_not_move_again_at_once(moves: Moves) -> None:
    aside = moves.aside()
    assert aside.avoid(3)
    moves.now_ns += INTERVAL_NS - 1
    assert not aside.avoid(3)
    moves.now_ns += 1
    assert aside.avoid(3)
    assert len(moves.masks) == 4


def test_a_single_core_is_shared(moves: Moves) -> None:
    moves.allowed = {3}
    assert not moves.aside().avoid(3)
    assert moves.masks == []


def test_what_is_allowed_may_change_meanwhile(
    moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_pid: int, _mask: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    moves.aside().avoid(3)


def test_the_kernel_moves_it() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:  # Nowhere to go: as in test_a_single_core_is_shared.
        assert not StepAside().avoid(core())
        return
    pid = os.fork()
    if not pid:
        code = 1
        try:
            first = min(allowed)
            os.sched_setaffinity(0, {first})
            os.sched_setaffinity(0, allowed)
            # The kernel may have moved it in between: then there is nothing to leave.
            left = [StepAside().avoid(first) and core() != first for _ in range(100)]
            code = 0 if any(left) and os.sched_getaffinity(0) == allowed else 2
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_writer_leaves_the_core_of_a_stream(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(StepAside, "avoid", lambda _self, taken: left.append(taken))
    house = make_house(native=True)
    house.context.settings = small_settings(house.store_dir, broker_ip1="127.0.0.1")
    natives = Natives(house)
    try:
        writer = house.writer()
        client = natives.add(slots=(house.slot(TOPIC),), data_size=2 * STREAM_SIZE)
        said = OwnedCell(
            memoryview(client.native.ring.entries.obj), ring.PRODUCER_CORE_AT, free=True
        )
        said.publish(1 + 7)
        record = stranger_record(TOPIC, b"b" * (STREAM_SIZE // 8))
        for count, wanted in ((1, []), (8, [7])):
            for _ in range(count):
                client.producer.submit(0, record)
            assert writer.step(NOW_MS) == count
            assert left == wanted
    finally:
        natives.close()

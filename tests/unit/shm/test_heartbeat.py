"""Heartbeat slots: what a role says of itself, as the supervisor sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shmq.errors import LayoutError
from shmq.layout.heartbeat import State
from shmq.shm.heartbeat import HeartbeatTable


@pytest.fixture
def table() -> Iterator[HeartbeatTable]:
    made = HeartbeatTable(3)
    yield made
    made.close()


def test_a_slot_shows_what_its_role_said(table: HeartbeatTable) -> None:
    slot, reader = table.slot(1), table.reader(1)
    assert (reader.pid, reader.beat_ms, reader.state) == (0, 0, State.STARTING)
    slot.take(pid=4711, now_ms=100)
    slot.enter(State.READY)
    slot.beat(250)
    assert (reader.pid, reader.beat_ms, reader.state) == (4711, 250, State.READY)
    slot.take(pid=4712, now_ms=90)
    assert (reader.pid, reader.beat_ms, reader.state) == (4712, 90, State.STARTING)
    for other in (0, 2):
        assert table.reader(other).pid == 0


def test_a_vacated_slot_keeps_its_count(table: HeartbeatTable) -> None:
    table.slot(0).take(pid=1, now_ms=5)
    table.slot(0).enter(State.DRAINING)
    table.count_restart(0)
    table.count_restart(0)
    table.vacate(0)
    reader = table.reader(0)
    assert (reader.pid, reader.state, reader.restart_count) == (0, State.STARTING, 2)


def test_a_forked_role_is_seen(table: HeartbeatTable) -> None:
    pid = os.fork()
    if pid == 0:
        table.slot(2).take(pid=os.getpid(), now_ms=7)
        table.slot(2).enter(State.READY)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert (table.reader(2).pid, table.reader(2).state) == (pid, State.READY)


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_slots_outside_the_table(table: HeartbeatTable, index: int) -> None:
    for look in (table.slot, table.reader, table.count_restart, table.vacate):
        with pytest.raises(LayoutError, match="no such heartbeat slot"):
            look(index)


@pytest.mark.parametrize("count", [0, -1])
def test_a_table_needs_a_slot(count: int) -> None:
    with pytest.raises(LayoutError, match="needs a slot"):
        HeartbeatTable(count)

"""Control rooms that are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.broker.controlroom import ControlRoom

MakeRoom = Callable[..., ControlRoom]


@pytest.fixture
def make_room(tmp_path: Path) -> Iterator[MakeRoom]:
    """Function that makes a ControlRoom on the same folder each time."""
    rooms: list[ControlRoom] = []

    def make(**more: Any) -> ControlRoom:
        rooms.append(ControlRoom(tmp_path, **more))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


@pytest.fixture
def room(make_room: MakeRoom) -> ControlRoom:
    """A control plane on an empty folder."""
    return make_room()

"""Houses that are cleaned up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.workers.house import House

MakeHouse = Callable[..., House]


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[MakeHouse]:
    """Function that makes a House, on `tmp_path`/store unless told otherwise."""
    houses: list[House] = []

    def make(store_dir: Path | None = None, **more: Any) -> House:
        house = House(store_dir or tmp_path / "store", **more)
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.close()


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """A House on an empty store."""
    return make_house()


@pytest.fixture
def whole_syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each os.sync(), which would wait for all disks of the machine."""
    calls: list[int] = []
    monkeypatch.setattr(os, "sync", lambda: calls.append(1))
    return calls

"""Houses that are cleaned up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmq.store.disk import Disk
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
    """Grows with each sync of a whole file system, which would wait for all that tests wrote."""
    calls: list[int] = []
    monkeypatch.setattr(Disk, "sync_all", lambda _disk, _folder: calls.append(1))
    return calls

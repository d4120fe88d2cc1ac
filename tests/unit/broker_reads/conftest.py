"""Stores that are cleaned up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.broker_reads.store import Store

MakeStore = Callable[..., Store]


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[MakeStore]:
    """Function that makes a Store."""
    stores: list[Store] = []

    def make(**more: Any) -> Store:
        stores.append(Store(tmp_path / f"s{len(stores)}", **more))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """A Store without messages."""
    return make_store()

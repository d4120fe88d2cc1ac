"""A broker for each test; whatever a failed test leaves behind is ended and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.crash.live import Broker

NewBroker: TypeAlias = Callable[..., Broker]


@pytest.fixture
def new_broker(tmp_path: Path) -> Iterator[NewBroker]:
    """Function that makes a broker, not started, with a folder of its own and other settings."""
    made: list[Broker] = []

    def make(name: str = "a", **settings: object) -> Broker:
        broker = Broker(tmp_path / name, settings=settings)
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.clean_up()

"""Brokers that are cleaned up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.serve.broker import GROUP, TOPIC, Broker
from tests.unit.serve.frames import codes, pull, send

MakeBroker = Callable[..., Broker]


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[MakeBroker]:
    """Function that makes a Broker with topic T (4 queues) and group G."""
    brokers: list[Broker] = []

    def make(**more: Any) -> Broker:
        store_dir = tmp_path / f"s{len(brokers)}"
        broker = Broker(store_dir, **more)
        brokers.append(broker)
        client = broker.connect()
        assert codes(broker.ask(client, send(b"first", queue_id=3))) == [0]
        assert broker.ask(client, pull(offset=9))[0].header.code != 26
        assert TOPIC in broker.serve.views.topics
        assert GROUP in broker.serve.views.groups
        client.sock.close()
        broker.until(lambda: not any(serve.door.connections for serve in broker.serves))
        return broker

    yield make
    for broker in brokers:
        broker.close()


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    """A Broker with one serve process."""
    return make_broker()

"""Brokers for the native door's tests; whatever a failed test leaves behind is ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from shmq.client.nativesession import NativeSession
from tests.crash.live import Broker
from tests.native.children import Child
from tests.native.engine import NativeEngine

NewBroker: TypeAlias = Callable[..., Broker]
Open: TypeAlias = Callable[[Broker], NativeEngine]
NewChild: TypeAlias = Callable[..., Child]


def native_broker(folder: Path, **settings: object) -> Broker:
    """A broker of the code that the tests import."""
    broker = Broker(folder, settings=settings)
    broker.program = [sys.executable, "-m", "shmq.workers.cli"]
    return broker


@pytest.fixture
def new_broker(tmp_path: Path) -> Iterator[NewBroker]:
    """Function that starts a broker."""
    made: list[Broker] = []

    def make(**settings: object) -> Broker:
        broker = native_broker(tmp_path / f"b{len(made)}", **settings)
        made.append(broker)
        broker.start()
        return broker

    yield make
    try:
        for broker in made:
            if broker.process.running:
                assert broker.stop() == 0
                broker.check_nothing_left()
    finally:
        for broker in made:
            broker.clean_up()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for all tests of a module."""
    broker = native_broker(tmp_path_factory.mktemp("shared"))
    broker.start()
    yield broker
    try:
        assert broker.stop() == 0
        broker.check_nothing_left()
    finally:
        broker.clean_up()


@pytest.fixture
def opened() -> Iterator[Open]:
    """Function that opens a session and gives its engine."""
    sessions: list[NativeSession] = []

    def make(broker: Broker) -> NativeEngine:
        sessions.append(NativeSession(str(broker.socket_path)))
        return NativeEngine(sessions[-1])

    yield make
    for session in sessions:
        session.close()


@pytest.fixture
def new_child() -> Iterator[NewChild]:
    """Function that starts a client process, see children.py."""
    made: list[Child] = []

    def make(work: str, broker: Broker, *arguments: str) -> Child:
        made.append(Child(work, broker.socket_path, *arguments))
        return made[-1]

    yield make
    for child in made:
        child.end()

"""Fixtures of the client's tests: one broker for all, and a client by each way to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from shmq.client import Client
from tests.client.live import LiveBroker, connect

WAYS = ("native", "unix", "namesrv", "broker")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBroker]:
    """The broker that all tests share."""
    broker = LiveBroker(tmp_path_factory.mktemp("live"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own_live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBroker]:
    """A broker of the test's own, to be stopped and killed."""
    broker = LiveBroker(tmp_path_factory.mktemp("own"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(params=WAYS)
def address(request: pytest.FixtureRequest, live: LiveBroker) -> str:
    """The shared broker's address, by each way in turn."""
    return live.addresses()[request.param]


@pytest.fixture
def mq(address: str) -> Iterator[Client]:
    """A client, by each way in turn."""
    with connect(address) as client:
        yield client


@pytest.fixture
def clients(live: LiveBroker) -> Iterator[Callable[..., Client]]:
    """A function that makes clients over the Unix socket, closed after the test."""
    made: list[Client] = []

    def make(address: str = "", **options: object) -> Client:
        made.append(connect(address or live.addresses()["unix"], **options))
        return made[-1]

    yield make
    for client in made:
        client.close()

"""Fixtures of the interop tests: real clients, real brokers, and the broker under test."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.compat.drivers import HERE, PEERS, Client, Driver, DriverError, Received, start_driver
from tests.compat.peers import Admin, ApacheNamesrv, Broker, new_broker
from tests.compat.processes import eventually, numbered

SETUP_TIMEOUT_S: Final = 900
TEST_TIMEOUT_S: Final = SETUP_TIMEOUT_S + 180  # the first test has the set-up in its own time
JAVA: Final = "java-5.5.0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.compat)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def programs() -> None:
    """Have the clients, brokers and drivers; takes no time when they are there."""
    subprocess.run([HERE / "setup.sh"], check=True, timeout=SETUP_TIMEOUT_S)


@pytest.fixture(scope="session")
def driver(
    programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Driver]]:
    """A function from a peer's name to its driver, which all tests share."""
    started: dict[str, Driver] = {}

    def get(peer: str) -> Driver:
        if peer not in started:
            started[peer] = start_driver(peer, tmp_path_factory.mktemp("driver"))
        return started[peer]

    yield get
    for one in started.values():
        one.stop()


@pytest.fixture
def drivers(driver: Callable[[str], Driver]) -> Iterator[Callable[[str], Driver]]:
    """As `driver`, and after the test the clients that it left are stopped."""
    used: dict[str, Driver] = {}

    def get(peer: str) -> Driver:
        used[peer] = driver(peer)
        return used[peer]

    yield get
    for one in used.values():
        one.dismiss_clients()


@pytest.fixture
def own_driver(
    programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Driver]]:
    """A function that starts a driver of the test's own, to be killed or set up differently."""
    started: list[Driver] = []

    def start(peer: str, *properties: str) -> Driver:
        started.append(start_driver(peer, tmp_path_factory.mktemp("own"), *properties))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, drivers: Callable[[str], Driver]) -> Driver:
    """Each kind and version of client in turn."""
    return drivers(request.param)


@pytest.fixture(params=[name for name in PEERS if name.startswith("java")])
def java(request: pytest.FixtureRequest, drivers: Callable[[str], Driver]) -> Driver:
    """Each version of the Java client in turn, for what only it can do."""
    return drivers(request.param)


@pytest.fixture
def go(drivers: Callable[[str], Driver]) -> Driver:
    """The Go client."""
    return drivers("go-2.1.2")


@pytest.fixture(scope="session")
def broker(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker under test, which all tests share."""
    shared = new_broker(tmp_path_factory.mktemp("broker"))
    shared.start()
    yield shared
    shared.stop()


@pytest.fixture
def own_broker(
    programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Broker]]:
    """A function that starts a broker of the test's own, to be restarted or set up differently."""
    started: list[Broker] = []

    def start(*, host: str = "127.0.0.1", settings: dict[str, object] | None = None) -> Broker:
        one = new_broker(tmp_path_factory.mktemp("own-broker"), host=host, settings=settings)
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def apache_namesrv(
    programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApacheNamesrv]:
    """Apache's name server."""
    namesrv = ApacheNamesrv(tmp_path_factory.mktemp("apache-namesrv"))
    namesrv.start()
    yield namesrv
    namesrv.stop()


@pytest.fixture(scope="session")
def mqadmin(
    programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., str]]:
    """A function that runs a command of Apache's mqadmin; what that printed."""
    admin = Admin(tmp_path_factory.mktemp("mqadmin"))
    yield admin.run
    admin.stop()


_topics = numbered("compat")


def create_topic(admin: Client, name: str, *, queues: int) -> str:
    """Create a topic and wait until its route shows all its queues."""
    admin.call("create_topic", topic=name, queues=queues)

    def shown() -> bool:
        with contextlib.suppress(DriverError):  # there is no route yet
            return len(admin.queues(name)) == queues
        return False

    eventually(f"a route of {name} with {queues} queues", shown)
    return name


@pytest.fixture(scope="session")
def admin(broker: Broker, driver: Callable[[str], Driver]) -> Client:
    """A producer that creates topics on the shared broker."""
    client = driver(JAVA).producer(broker.namesrv, "PID_admin")
    client.kept = True
    return client


@pytest.fixture(scope="session")
def reader(broker: Broker, driver: Callable[[str], Driver]) -> Client:
    """A pull consumer on the shared broker; reading by it takes no rebalancing."""
    client = driver(JAVA).pull(broker.namesrv, "GID_reader", "none")
    client.kept = True
    return client


@pytest.fixture
def read_all(reader: Client) -> Callable[[str, int], list[Received]]:
    """A function that reads a topic from its beginning, until there are so many messages."""

    def read(topic: str, count: int) -> list[Received]:
        got: list[Received] = []
        next_offsets: dict[int, int] = {}

        def known() -> bool:
            """Whether the name server has heard of the topic."""
            try:
                next_offsets.update({queue_id: 0 for _, _, queue_id in reader.queues(topic)})
            except DriverError:
                return False
            return True

        eventually(f"a route of {topic}", known)

        def complete() -> bool:
            for queue_id, offset in next_offsets.items():
                pulled = reader.pull_once(topic, queue_id, offset=offset)
                next_offsets[queue_id] = pulled.next
                got.extend(pulled.messages)
            return len(got) >= count

        eventually(f"{count} messages in {topic}", complete)
        assert len(got) == count
        return got

    return read


@pytest.fixture
def new_name(request: pytest.FixtureRequest) -> Callable[[], str]:
    """A function that makes a topic's or group's name, with the test's name in it."""
    test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")
    return lambda: f"{next(_topics)}-{test}"[:60]


@pytest.fixture
def topic(admin: Client, new_name: Callable[[], str]) -> str:
    """A new topic of four queues on the shared broker."""
    return create_topic(admin, new_name(), queues=4)


@pytest.fixture
def group(new_name: Callable[[], str]) -> str:
    """A consumer group that nobody else is in."""
    return new_name()

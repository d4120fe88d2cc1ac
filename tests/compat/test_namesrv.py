"""Name servers and brokers of both makes together: registration, routes, and their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.compat.ask import ROUTE_BY_TOPIC, ask, loose_json
from tests.compat.conftest import create_topic
from tests.compat.drivers import PEERS, Driver
from tests.compat.messages import expect, fenced, some_messages
from tests.compat.peers import (
    BROKER_NAME,
    CLUSTER,
    ApacheBroker,
    ApacheNamesrv,
    ShmqBroker,
    ShmqNamesrv,
    await_registration,
    registered,
)
from tests.compat.processes import eventually

TOPIC_NOT_EXIST = 17
# A lost connection is a lost broker, at once.
GONE_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def shmq_namesrv(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShmqNamesrv]:
    """Our name server, alone."""
    namesrv = ShmqNamesrv(tmp_path_factory.mktemp("shmq-namesrv"))
    namesrv.start()
    yield namesrv
    namesrv.stop()


@pytest.fixture(params=["shmq with apache", "apache with shmq", "shmq with both"])
def mixed(
    request: pytest.FixtureRequest,
    apache_namesrv: ApacheNamesrv,
    shmq_namesrv: ShmqNamesrv,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ShmqBroker | ApacheBroker]:
    """A running broker of one make with name servers of the other, or of both."""
    namesrv = {
        "shmq with apache": apache_namesrv.address,
        "apache with shmq": shmq_namesrv.address,
        "shmq with both": f"{shmq_namesrv.address};{apache_namesrv.address}",
    }[request.param]
    kind = ApacheBroker if request.param.startswith("apache") else ShmqBroker
    broker = kind(tmp_path_factory.mktemp("mixed"), namesrv=namesrv)
    broker.start()
    yield broker
    broker.stop()


def test_life_of_a_registration(
    mixed: ShmqBroker | ApacheBroker,
    drivers: Callable[[str], Driver],
    new_name: Callable[[], str],
) -> None:
    """Clients of all kinds work through it; it ends with the broker, and comes back with it."""
    topic = new_name()
    producer = drivers(PEERS[0]).producer(mixed.namesrv)
    create_topic(producer, topic, queues=4)
    for number, peer in enumerate(PEERS):
        sent = some_messages(topic, 20, prefix=peer)
        assert all(
            one.ok for one in drivers(peer).producer(mixed.namesrv, f"PID_{number}").send(sent)
        )
    everything = [m for peer in PEERS for m in some_messages(topic, 20, prefix=peer)]
    everything = fenced(producer, topic, everything)
    consumers = [
        drivers(peer).push(mixed.namesrv, f"{topic}-{n}", {topic: "*"})
        for n, peer in enumerate(PEERS)
    ]
    for consumer in consumers:
        expect([consumer], everything)
        consumer.stop()
    producer.stop()
    for servers in mixed.namesrv.split(";"):
        assert_route(servers, topic, mixed.address)
    mixed.stop()
    eventually(
        "no route after the stop", lambda: gone(mixed.namesrv, topic), timeout_s=GONE_WITHIN_S
    )
    mixed.start()
    eventually("the route again", lambda: not gone(mixed.namesrv, topic))
    mixed.kill()
    eventually("no route after a kill", lambda: gone(mixed.namesrv, topic), timeout_s=GONE_WITHIN_S)
    mixed.start()
    eventually("the route again", lambda: not gone(mixed.namesrv, topic))


def gone(namesrv: str, topic: str) -> bool:
    """Whether none of the name servers has a route of the topic."""
    return all(
        ask(one, ROUTE_BY_TOPIC, {"topic": topic}).code == TOPIC_NOT_EXIST
        for one in namesrv.split(";")
    )


def assert_route(namesrv: str, topic: str, address: str) -> None:
    """The route names one broker, with all its queues."""
    route = loose_json(ask(namesrv, ROUTE_BY_TOPIC, {"topic": topic}).body)
    (queue,) = route["queueDatas"]
    assert (
        queue["brokerName"],
        queue["readQueueNums"],
        queue["writeQueueNums"],
        queue["perm"],
    ) == (
        BROKER_NAME,
        4,
        4,
        6,
    )
    (broker,) = route["brokerDatas"]
    assert (broker["brokerName"], broker["cluster"]) == (BROKER_NAME, CLUSTER)
    assert broker["brokerAddrs"] == {"0": address}


def test_name_server_starts_later(
    tmp_path_factory: pytest.TempPathFactory, drivers: Callable[[str], Driver], programs: None
) -> None:
    """A name server that starts anew learns of the broker by its next registration."""
    namesrv = ApacheNamesrv(tmp_path_factory.mktemp("late"))
    namesrv.start()
    broker = ShmqBroker(
        tmp_path_factory.mktemp("early"),
        namesrv=namesrv.address,
        settings={"registerNameServerPeriod": 10_000},
    )
    broker.start()
    namesrv.stop()
    namesrv.start()
    assert not registered(namesrv.address)
    await_registration(namesrv.address)
    producer = drivers("java-5.5.0").producer(namesrv.address)
    assert all(one.ok for one in producer.send(some_messages("late", 4)))
    producer.stop()
    broker.stop()
    namesrv.stop()

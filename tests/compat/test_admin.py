"""Apache's mqadmin against the broker: what it asks is answered in the form that it reads."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.compat.ask import ROUTE_BY_TOPIC, ask, loose_json
from tests.compat.drivers import Client, Driver, DriverError
from tests.compat.messages import expect, fenced, some_messages
from tests.compat.peers import BROKER_NAME, CLUSTER, Broker
from tests.compat.processes import eventually

Mqadmin = Callable[..., str]
TOPIC_NOT_EXIST = 17


def rows(printed: str) -> list[list[str]]:
    """Words of the lines that are neither headings nor empty."""
    return [line.split() for line in printed.splitlines() if line.strip() and line[0] != "#"]


def test_cluster_and_broker(mqadmin: Mqadmin, broker: Broker) -> None:
    """The lists of brokers, and a broker's state and settings."""
    printed = mqadmin("clusterList", namesrv=broker.namesrv)
    (row,) = (row for row in rows(printed) if row[0] == CLUSTER)
    assert row[1:4] == [BROKER_NAME, "0", broker.address]
    printed = mqadmin("brokerStatus", "-b", broker.address, namesrv=broker.namesrv)
    state = dict(re.findall(r"(?m)^(\S+)\s+: (.*)$", printed))
    assert {"bootTimestamp", "msgPutTotalTodayNow", "putTps", "commitLogMaxOffset"} <= state.keys()
    assert int(state["commitLogMaxOffset"]) >= 0
    printed = mqadmin("getBrokerConfig", "-b", broker.address, namesrv=broker.namesrv)
    config = dict(re.findall(r"(?m)^(\S+)\s+=  (.*)$", printed))
    assert config["brokerName"] == BROKER_NAME
    assert config["brokerClusterName"] == CLUSTER


def test_topics(
    mqadmin: Mqadmin, broker: Broker, admin: Client, new_name: Callable[[], str]
) -> None:
    """Create, list, show, change, delete."""
    topic = new_name()
    printed = mqadmin(
        "updateTopic",
        *("-c", CLUSTER),
        *("-t", topic),
        *("-r", "6"),
        *("-w", "6"),
        namesrv=broker.namesrv,
    )
    assert f"create topic to {broker.address} success" in printed
    eventually("its route", lambda: queues_of(admin, topic) == 6)
    assert topic in mqadmin("topicList", namesrv=broker.namesrv).split()
    route = loose_json(mqadmin("topicRoute", "-t", topic, namesrv=broker.namesrv).encode())
    assert route["queueDatas"][0]["readQueueNums"] == 6
    assert route["brokerDatas"][0]["brokerAddrs"] == {"0": broker.address}
    admin.send(some_messages(topic, 10), queue_id=5)
    printed = mqadmin("topicStatus", "-t", topic, namesrv=broker.namesrv)
    bounds = {int(row[1]): row[2:4] for row in rows(printed) if row[0] == BROKER_NAME}
    assert bounds == {**{n: ["0", "0"] for n in range(5)}, 5: ["0", "10"]}
    mqadmin(
        "updateTopic",
        *("-b", broker.address),
        *("-t", topic),
        *("-r", "8"),
        *("-w", "8"),
        namesrv=broker.namesrv,
    )
    eventually("eight queues", lambda: queues_of(admin, topic) == 8)
    printed = mqadmin("deleteTopic", *("-c", CLUSTER), *("-t", topic), namesrv=broker.namesrv)
    assert "success" in printed, printed
    eventually(
        "its route is gone",
        lambda: ask(broker.namesrv, ROUTE_BY_TOPIC, {"topic": topic}).code == TOPIC_NOT_EXIST,
    )
    assert topic not in mqadmin("topicList", namesrv=broker.namesrv).split()


def queues_of(admin: Client, topic: str) -> int:
    """Number of queues in the topic's route, 0 when there is none."""
    try:
        return len(admin.queues(topic))
    except DriverError:
        return 0


def test_consumers(
    mqadmin: Mqadmin, broker: Broker, admin: Client, java: Driver, topic: str
) -> None:
    """Who is in a group, with which subscription, and how far the group is behind."""
    group = f"GID_{topic}"
    sent = some_messages(topic, 20)
    admin.send(sent)
    consumer = java.push(broker.namesrv, group, {topic: "tag0 || tag1 || tag2"})
    expect([consumer], fenced(admin, topic, sent))
    printed = mqadmin("consumerConnection", "-g", group, namesrv=broker.namesrv)
    (member,) = (row for row in rows(printed) if consumer.name in row[0])
    assert member[2] == "JAVA"
    assert "tag0 || tag1 || tag2" in printed
    assert "CONSUME_PASSIVELY" in printed
    assert "CLUSTERING" in printed
    consumer.stop()
    printed = mqadmin("consumerProgress", "-g", group, namesrv=broker.namesrv)
    table = [row for row in rows(printed) if row[0] == topic]
    assert sum(int(row[3]) for row in table) == 24, printed
    assert all(row[3] == row[4] for row in table), "broker offset and consumer offset"
    assert "Consume Diff Total: 0" in printed


def test_write_permission(
    mqadmin: Mqadmin,
    own_broker: Callable[..., Broker],
    drivers: Callable[[str], Driver],
    new_name: Callable[[], str],
) -> None:
    """Taken from a broker at the name server, and given back."""
    broker = own_broker()
    producer = drivers("java-5.5.0").producer(broker.namesrv)
    topic = new_name()
    producer.send(some_messages(topic, 4))

    def perm() -> int:
        printed = mqadmin("topicRoute", "-t", topic, namesrv=broker.namesrv)
        return int(loose_json(printed.encode())["queueDatas"][0]["perm"])

    eventually("its route", lambda: queues_of(producer, topic) == 4)
    assert perm() == 6
    printed = mqadmin("wipeWritePerm", "-b", BROKER_NAME, namesrv=broker.namesrv)
    assert f"wipe write perm of broker[{BROKER_NAME}]" in printed
    assert perm() == 4
    printed = mqadmin("addWritePerm", "-b", BROKER_NAME, namesrv=broker.namesrv)
    assert f"add write perm of broker[{BROKER_NAME}]" in printed
    assert perm() == 6

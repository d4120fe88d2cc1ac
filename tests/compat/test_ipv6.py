"""Everything over IPv6: records, ids and routes with addresses of 16 bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.compat.drivers import Driver
from tests.compat.messages import assert_matches, expect, fenced, some_messages
from tests.compat.peers import Broker, new_broker

LOCALHOST = "0000000000000000" + "0000000000000001"
FIRST_FOUR_BYTES = "0.0.0.0"  # noqa: S104 - which is all that the Go client shows of a host


@pytest.fixture(scope="module")
def broker6(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker on [::1]."""
    broker = new_broker(tmp_path_factory.mktemp("broker6"), host="::1")
    broker.start()
    yield broker
    broker.stop()


def test_produce_and_consume(peer: Driver, broker6: Broker, new_name: Callable[[], str]) -> None:
    """Sent and received by the same client; stored with the broker's IPv6 address."""
    producer = peer.producer(broker6.namesrv)
    topic = new_name()
    (first,) = some_messages(topic, 1, prefix="first")
    (created,) = producer.send(first)
    sent = some_messages(topic, 30)
    results = producer.send(sent)
    port = int(broker6.address.rsplit(":", 1)[1])
    for result in (created, *results):
        assert result.ok
        assert result.offset_msg_id
        assert result.offset_msg_id.startswith(f"{LOCALHOST}{port:08X}")
    consumer = peer.push(broker6.namesrv, f"GID_{topic}", {topic: "*"})
    got = expect([consumer], fenced(producer, topic, [first, *sent]))
    assert_matches([created, *results], [first, *sent], got)
    hosts = {message.store_host.rsplit("|", 1)[0] for message in got}
    assert hosts == {"0:0:0:0:0:0:0:1" if peer.is_java else FIRST_FOUR_BYTES}

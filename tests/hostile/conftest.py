"""A broker under attack, and clients that behave well meanwhile and must not be harmed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shmq.units import MiB
from tests.crash.conftest import new_broker as new_broker  # noqa: PLC0414  a fixture
from tests.crash.group import Load
from tests.crash.live import Broker
from tests.crash.peer import PATIENCE, eventually

LATENCY_MAX_S: Final = 2.0 * PATIENCE
"""For any send of a client that behaves well; the machine is shared, so this is no benchmark."""
GROWTH_MAX: Final = 64 * MiB
"""Memory that all processes together may gain by an attack and keep."""
NUMBERS: Final = itertools.count()


def own_memory(broker: Broker) -> int:
    """Memory of all processes by their part in it, without the segments that they share."""
    total = 0
    for pid in (broker.process.pid, *broker.roles().values()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that lives through all attacks of a module, with the same processes to the end."""
    broker = Broker(tmp_path_factory.mktemp("hostile"))
    try:
        broker.start()
        pids = broker.roles()
        yield broker
        assert broker.roles() == pids, broker.process.tail()
        assert not broker.events("role.failed")
        assert not broker.events("request.failed"), broker.events("request.failed")[0]
        assert broker.stop() == 0, broker.process.tail()
        broker.check_nothing_left()
    finally:
        broker.clean_up()


@pytest.fixture
def witness(broker: Broker) -> Iterator[Load]:
    """Clients that send and read while the test attacks; none of them may notice anything."""
    load = Load(broker, f"witness-{next(NUMBERS)}", pace_per_s=300)
    before = own_memory(broker)
    yield load
    load.finish()
    load.check()
    assert [client.connected_count for client in load.clients] == [1, 1, 1]
    assert load.refusals == []
    assert max(producer.latency_max_s for producer in load.producers) < LATENCY_MAX_S
    eventually(
        "the memory of the attack given back",
        lambda: own_memory(broker) - before < GROWTH_MAX,
        timeout_s=10,
    )

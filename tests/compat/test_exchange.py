"""A store goes from Apache's broker to ours and back, stopped or killed, and shows the same."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.compat import stores
from tests.compat.ask import loose_json
from tests.compat.conftest import JAVA
from tests.compat.drivers import Driver, Received
from tests.compat.peers import BROKER_VERSIONS, ApacheBroker, Shmq, ShmqBroker
from tests.compat.processes import eventually
from tests.compat.stores import PREPARED, Shown

CHAIN_TIMEOUT_S: Final = 300.0
SETTINGS: Final[dict[str, object]] = {
    "mappedFileSizeCommitLog": 1024 * 1024,
    "mappedFileSizeConsumeQueue": 300 * 20,
    "maxMessageSize": 512 * 1024,
    "flushConsumerOffsetInterval": 500,
    "transactionTimeOut": 3_600_000,  # no check of the half message, which would write another one
}
FIXED_FIELDS: Final = struct.Struct(">i 8x i i q q 4x q")
CHAIN_TEST: Final = "test_store_goes_back_and_forth"
TOPIC: Final = "Exchange"
GROUP: Final = "GID_exchange"
RETRY: Final = f"%RETRY%{GROUP}"
LATER: Final = "SCHEDULE_TOPIC_XXXX"
HALF: Final = "RMQ_SYS_TRANS_HALF_TOPIC"
GONE: Final = ("GoneBefore", "GoneAfter")
TOPICS: Final = (TOPIC, RETRY, LATER, HALF, *GONE)


class Chain:
    """One store, and the brokers of one version of Apache's and ours that have it in turn."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version = version
        self.folder = folder
        self.seed = 0

    @contextmanager
    def apache(self, *, host: str = "127.0.0.1", end: str) -> Iterator[str]:
        """Apache's broker on the store; its address."""
        broker = ApacheBroker(
            self.folder, namesrv="", host=host, settings=SETTINGS, version=self.version
        )
        with self._running(broker, end) as address:
            yield address

    @contextmanager
    def ours(self, *, host: str = "127.0.0.1", end: str) -> Iterator[str]:
        """Our broker on the store; its address."""
        broker = ShmqBroker(self.folder, namesrv="", host=host, settings=SETTINGS)
        with self._running(broker, end) as address:
            yield address

    @contextmanager
    def _running(self, broker: ApacheBroker | ShmqBroker, end: str) -> Iterator[str]:
        broker.start()
        try:
            yield broker.address
        except BaseException:
            broker.kill()
            raise
        getattr(broker, end)()

    def show(self, address: str) -> Shown:
        """What the broker shows of what the tests look at."""
        return stores.show(address, TOPICS, groups=[GROUP])

    def add(self, address: str) -> Shown:
        """Send messages of many kinds, commit offsets; what is shown then."""
        self.seed += 1000
        before = {queue: stores.bounds(address, TOPIC, queue)[1] for queue in range(4)}
        sent = stores.send_many_kinds(address, TOPIC, seed=self.seed)

        def dispatched() -> bool:
            ends = {queue: stores.bounds(address, TOPIC, queue)[1] for queue in range(4)}
            return sum(ends.values()) == sum(before.values()) + sent

        eventually("all that was sent is in the queues", dispatched)
        for queue in range(4):
            stores.commit(address, GROUP, TOPIC, queue, before[queue] + queue)
        self.await_saved_offsets(stores.offsets_shown(address)[f"{TOPIC}@{GROUP}"])
        return self.show(address)

    def await_saved_offsets(self, offsets: dict[int, int]) -> None:
        """Wait until the group's offsets are in the file, where a kill cannot reach them."""
        path = self.folder / "store" / "config" / "consumerOffset.json"

        def saved() -> bool:
            try:
                table = loose_json(path.read_bytes())["offsetTable"]
            except (FileNotFoundError, json.JSONDecodeError):
                return False  # It is being replaced.
            found = table.get(f"{TOPIC}@{GROUP}", {})
            return {int(queue): offset for queue, offset in found.items()} == offsets

        eventually(f"{path} has {offsets}", saved)


def fill(chain: Chain, address: str) -> Shown:
    """What only an Apache broker can have put into a store."""
    stores.create_topic(address, TOPIC, queues=4)
    for name in GONE:
        stores.create_topic(address, name, queues=1)
        for number in range(3):
            stores.send(address, name, f"{name} {number}".encode())
    stores.delete_topic(address, GONE[0])  # 4.9 drops queues of some system topics then, too
    stores.create_group(address, GROUP, retryMaxTimes=7, consumeBroadcastEnable=False)
    stores.send(address, RETRY, b"again", properties={"RETRY_TOPIC": TOPIC})
    stores.send(address, TOPIC, b"in two hours", properties={"DELAY": "18"})
    stores.send(
        address,
        TOPIC,
        b"half",
        sys_flag=PREPARED,
        properties={"TRAN_MSG": "true", "PGROUP": "PID_store", "UNIQ_KEY": "7F00000100000000"},
    )
    stores.await_end(address, LATER, 17, 1)
    stores.await_end(address, HALF, 0, 1)
    return chain.add(address)


def same(found: Shown, wanted: Shown, *, without: Sequence[str]) -> None:
    """Nothing that was shown is missing or different."""
    for queue, records in wanted.records.items():
        if queue[0] not in without:
            assert found.records[queue] == records, queue
            assert found.bounds[queue] == wanted.bounds[queue], queue
    assert found.groups == wanted.groups
    assert found.offsets == wanted.offsets
    assert {name: found.topics.get(name) for name in wanted.topics if name not in without} == {
        name: config for name, config in wanted.topics.items() if name not in without
    }
    assert not set(without) & set(found.topics)


def run(version: str, folder: Path) -> tuple[Path, Shown]:
    """All brokers in turn; the folder, and what its store shows in the end."""
    chain = Chain(version, folder)
    with chain.apache(end="kill") as address:
        shown = fill(chain, address)
    gone = GONE[:1]
    with chain.ours(host="::1", end="kill") as address:
        same(chain.show(address), shown, without=gone)
        shown = chain.add(address)
    with chain.apache(host="::1", end="stop") as address:
        same(chain.show(address), shown, without=gone)
        shown = chain.add(address)
    with chain.ours(end="stop") as address:
        same(chain.show(address), shown, without=gone)
        stores.delete_topic(address, GONE[1])
        shown = chain.add(address)
    with chain.apache(end="kill") as address:
        same(chain.show(address), shown, without=GONE)
        shown = chain.add(address)
    with chain.ours(end="stop") as address:
        same(chain.show(address), shown, without=GONE)
    return folder, shown


@pytest.fixture(scope="module")
def chains(
    programs: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[tuple[Path, Shown]]]]:
    """All chosen versions at once: Apache's broker sleeps for most of the time of its stop."""
    chosen = [
        str(item.callspec.params["version"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == CHAIN_TEST
    ] or [BROKER_VERSIONS[0]]
    with ThreadPoolExecutor(len(BROKER_VERSIONS)) as pool:
        yield {
            version: pool.submit(run, version, tmp_path_factory.mktemp(f"store-{version}"))
            for version in chosen
        }


@pytest.mark.parametrize("version", BROKER_VERSIONS)
def test_store_goes_back_and_forth(
    version: str, chains: dict[str, Future[tuple[Path, Shown]]]
) -> None:
    """Apache's is killed, ours is killed, Apache's and ours stop, Apache's is killed again."""
    chains[version].result(CHAIN_TIMEOUT_S)


def test_apaches_client_reads_the_store(
    chains: dict[str, Future[tuple[Path, Shown]]], drivers: Callable[[str], Driver]
) -> None:
    """What brokers of two kinds have stored over IPv4 and IPv6, every field decoded by Apache's."""
    folder, shown = next(iter(chains.values())).result(CHAIN_TIMEOUT_S)
    broker = Shmq(folder, settings=SETTINGS)
    broker.start()
    try:
        reader = drivers(JAVA).pull(broker.namesrv, "GID_decoder", TOPIC)
        for queue_id in range(4):
            records, got = shown.records[TOPIC, queue_id], list[Received]()
            while len(got) < len(records):
                pulled = reader.pull_once(TOPIC, queue_id, offset=len(got))
                assert pulled.messages
                got += pulled.messages
            assert [as_stored(message) for message in got] == [as_read(one) for one in records]
            # Apache's broker of both kinds of address, and ours.
            assert {message.store_host.count(":") > 1 for message in got} == {True, False}
        reader.stop()
    finally:
        broker.stop()


def as_stored(message: Received) -> tuple[int, int, int, int, int, int]:
    """What of a message as the client shows it stands at a known place of its record."""
    return (
        message.store_size,
        message.queue_id,
        message.flag,
        message.queue_offset,
        message.physical_offset,
        message.born_timestamp,
    )


def as_read(record: bytes) -> tuple[int, int, int, int, int, int]:
    """The same of a record; see the table of its layout in shmq/layout/record.py."""
    size, queue_id, flag, queue_offset, physical_offset, born = FIXED_FIELDS.unpack_from(record)
    return size, queue_id, flag, queue_offset, physical_offset, born

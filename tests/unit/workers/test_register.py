"""The register role and the namesrv role against each other, over loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmq.config import Settings
from shmq.errors import StoreError
from shmq.shm.doorbell import EventBell
from shmq.shm.words import OwnedCell
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import Header
from shmq.workers import register as register_module
from shmq.workers.door import Limits
from shmq.workers.identity import Identity
from shmq.workers.listeners import Place, close_all, listen_tcp
from shmq.workers.namesrv import KvFile, NamesrvRole
from shmq.workers.register import RegisterRole, TopicFile
from shmq.workers.remoting_client import RemotingClient

WAIT_MAX_S = 20
IDENTITY = Identity(
    cluster="C",
    name="B",
    broker_id=0,
    address="127.0.0.1:10911",
    ha_address="127.0.0.1:10912",
    host="127.0.0.1",
    port=10911,
)


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **_fields: Any) -> None:
        """Keep an event."""
        self.events.append(event)

    warning = error = exception = info


class NameServer:
    """A namesrv role on a port, stepped by a thread of its own."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.log = Log()
        self.now_ms = 0
        self.listeners = listen_tcp(
            Place(socket.AF_INET, "127.0.0.1", port), 1, setting="x", backlog=16
        )
        self.port = self.listeners[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.role = NamesrvRole(
            listeners=self.listeners,
            kv_file=KvFile(folder / "kvConfig.json"),
            scan_interval_ms=1000,
            clock_ms=lambda: self.now_ms,
            limits=Limits(idle_max_ms=10**9),
            log=self.log,
        )
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop:
            if self.role.step(0) == 0:
                self.role.wait(20)

    def brokers(self, topic: str = "T") -> dict[str, dict[str, str]] | None:
        """Addresses by broker's name, as a client finds them; None when there is no route."""
        client = RemotingClient(self.address)
        try:
            frame = client.call(RequestCode.GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
        finally:
            client.close()
        if frame.header.code == ResponseCode.TOPIC_NOT_EXIST:
            return None
        route = jsonish.loads(frame.body)
        return {data["brokerName"]: data["brokerAddrs"] for data in route["brokerDatas"]}

    def close(self) -> None:
        """End the thread, give the port back."""
        self._stop = True
        self.role.wake()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.role.close()
        close_all(self.listeners)


class Broker:
    """A register role; its clock is the test's."""

    def __init__(self, folder: Path, addresses: list[str], *, embedded: bool = False) -> None:
        self.log = Log()
        self.now_ms = 0
        self.path = folder / "topics.json"
        self.version = 0
        self.set_topics("T", "U")
        self.role = RegisterRole(
            identity=IDENTITY,
            namesrv_addresses=[] if embedded else addresses,
            embedded=addresses if embedded else None,
            topics=TopicFile(self.path),
            bell=EventBell(OwnedCell(memoryview(bytearray(64)), 0, free=True)),
            timeout_ms=5000,
            clock_ms=lambda: self.now_ms,
            log=self.log,
        )

    def set_topics(self, *names: str) -> None:
        """Replace the topic table, as the coordinator does."""
        self.version += 1
        table = {
            "dataVersion": {"counter": self.version, "stateVersion": 0, "timestamp": self.version},
            "topicConfigTable": {
                name: {
                    "topicName": name,
                    "readQueueNums": 4,
                    "writeQueueNums": 4,
                    "perm": 6,
                    "topicFilterType": "SINGLE_TAG",
                    "topicSysFlag": 0,
                    "order": False,
                }
                for name in names
            },
        }
        made = self.path.with_suffix(".new")
        made.write_text(json.dumps(table))
        made.replace(self.path)

    def until(self, done: Callable[[], bool]) -> None:
        """Step until `done()`."""
        deadline = time.monotonic() + WAIT_MAX_S
        while not done():
            assert time.monotonic() < deadline, self.log.events
            if self.role.step(0) == 0:
                self.role.wait(20)

    def registered(self) -> bool:
        """Whether all name servers know it."""
        return all(link.registered for link in self.role.links.values())


@pytest.fixture
def make_namesrv(tmp_path: Path) -> Iterator[Callable[..., NameServer]]:
    made: list[NameServer] = []

    def make(**more: Any) -> NameServer:
        made.append(NameServer(tmp_path, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def make(*addresses: str, **more: Any) -> Broker:
        made.append(Broker(tmp_path, list(addresses), **more))
        return made[-1]

    yield make
    for one in made:
        one.role.close()
    for thread in threading.enumerate():
        if thread.name.startswith("namesrv "):
            thread.join(10)


MakeNamesrv = Callable[..., NameServer]
MakeBroker = Callable[..., Broker]


def test_known_at_every_name_server_until_it_leaves(
    make_namesrv: MakeNamesrv, make_broker: MakeBroker
) -> None:
    servers = [make_namesrv(), make_namesrv()]
    broker = make_broker(*(server.address for server in servers))
    assert [server.brokers() for server in servers] == [None, None]
    broker.until(broker.registered)
    assert [server.brokers() for server in servers] == [{"B": {"0": IDENTITY.address}}] * 2
    broker.until(lambda: broker.role.drain(0))
    assert [server.brokers() for server in servers] == [None, None]
    assert broker.log.events == ["registration.succeeded"] * 2


def test_a_broker_is_ready_when_its_own_name_server_knows_it(
    make_namesrv: MakeNamesrv, make_broker: MakeBroker
) -> None:
    server = make_namesrv()
    broker = make_broker(server.address, embedded=True)
    table = broker.path.rename(broker.path.with_suffix(".later"))
    threading.Timer(0.1, table.rename, (broker.path,)).start()  # The coordinator is not that far.
    assert broker.role.await_embedded(1)  # ms of the test's clock, which stands.
    assert server.brokers() == {"B": {"0": IDENTITY.address}}


def test_a_broker_without_its_name_server_is_ready_all_the_same(make_broker: MakeBroker) -> None:
    broker = make_broker("127.0.0.1:1", embedded=True)
    ticks = iter(range(0, 10**9, 100))
    broker.role._clock_ms = lambda: next(ticks)
    assert not broker.role.await_embedded(2000)


def test_a_new_topic_is_known_at_once(make_namesrv: MakeNamesrv, make_broker: MakeBroker) -> None:
    server = make_namesrv()
    broker = make_broker(server.address)
    broker.until(broker.registered)
    broker.set_topics("T", "U", "New")
    broker.role.wake()
    broker.now_ms += 1  # Not the period, not even the interval of looks.
    broker.role.wait(1000)
    broker.until(lambda: server.brokers("New") is not None)


def test_a_new_topic_that_nobody_rang_for(
    make_namesrv: MakeNamesrv, make_broker: MakeBroker
) -> None:
    """The table changed between the last look and going to sleep, when no bell rings."""
    server = make_namesrv()
    broker = make_broker(server.address)
    broker.until(broker.registered)
    broker.role.step(0)
    broker.set_topics("T", "U", "New")
    begin = time.monotonic()
    broker.role.wait(60_000)
    assert time.monotonic() - begin < 30
    broker.until(lambda: server.brokers("New") is not None)


def test_it_registers_again_each_period(make_namesrv: MakeNamesrv, make_broker: MakeBroker) -> None:
    server = make_namesrv()
    broker = make_broker(server.address)
    broker.until(broker.registered)
    server.now_ms = 100_000
    broker.now_ms = 29_000
    assert broker.role.step(0) == 0
    assert broker.role.links[server.address].pending == 0
    broker.now_ms = 31_000
    assert broker.role.step(0) > 0
    broker.until(lambda: broker.role.links[server.address].pending == 0)
    server.now_ms = 200_000  # 100 s after it was last heard.
    assert server.brokers() is not None


def test_a_dead_name_server_delays_no_other_and_is_tried_again(
    make_namesrv: MakeNamesrv, make_broker: MakeBroker
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # Takes connections, says nothing.
        deaf_address = f"127.0.0.1:{deaf.getsockname()[1]}"
        server = make_namesrv()
        broker = make_broker(deaf_address, server.address)
        broker.until(lambda: broker.role.links[server.address].registered)
        assert not broker.role.links[deaf_address].registered
        assert server.brokers() is not None


def test_a_name_server_that_comes_back(make_namesrv: MakeNamesrv, make_broker: MakeBroker) -> None:
    server = make_namesrv()
    broker = make_broker(server.address)
    broker.until(broker.registered)
    server.close()
    broker.now_ms += 31_000
    broker.until(lambda: not broker.registered())
    assert broker.log.events[-1] == "registration.failed"
    back = make_namesrv(port=server.port)
    broker.now_ms += 999
    assert broker.role.links[server.address].pending == 0
    broker.role.step(0)
    assert broker.role.links[server.address].pending == 0, "not before the pause is over"
    broker.now_ms += 2
    broker.until(broker.registered)
    assert back.brokers() is not None
    server._stop = False
    server.close = lambda: None  # type: ignore[method-assign]


def test_silent_brokers_are_forgotten(make_namesrv: MakeNamesrv, make_broker: MakeBroker) -> None:
    server = make_namesrv()
    broker = make_broker(server.address)
    broker.until(broker.registered)
    server.now_ms += 500_000
    broker.until(lambda: "broker.expired" in server.log.events)
    assert server.brokers() is None


def test_a_broker_whose_connection_closes_is_forgotten(
    make_namesrv: MakeNamesrv, make_broker: MakeBroker
) -> None:
    server = make_namesrv()
    broker = make_broker(server.address)
    broker.until(broker.registered)
    broker.role.close()
    broker.until(lambda: server.brokers() is None)
    assert "broker.left" in server.log.events


def test_name_servers_may_change_while_it_runs(
    make_namesrv: MakeNamesrv, make_broker: MakeBroker
) -> None:
    old, new = make_namesrv(), make_namesrv()
    broker = make_broker(old.address)
    broker.until(broker.registered)
    broker.role.reload(Settings(namesrv_addr=new.address, broker_permission=4))
    broker.until(lambda: broker.registered() and old.brokers() is None)
    assert new.brokers() == {"B": {"0": IDENTITY.address}}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"topicConfigTable":5}', None])
def test_a_topic_table_that_cannot_be_read_keeps_the_last_one(
    make_namesrv: MakeNamesrv, make_broker: MakeBroker, text: str | None
) -> None:
    server = make_namesrv()
    broker = make_broker(server.address)
    broker.until(broker.registered)
    if text is None:
        broker.path.unlink()
    else:
        broker.path.write_text(text)
    broker.now_ms += 1000
    broker.role.step(0)
    broker.now_ms += 1000
    broker.role.step(0)
    assert broker.log.events.count("topics.not_read") == 1
    assert server.brokers() is not None
    broker.set_topics("T", "Later")
    broker.now_ms += 1000
    broker.until(lambda: server.brokers("Later") is not None)


def test_a_topic_table_above_the_limit(
    make_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = make_broker()
    monkeypatch.setattr(register_module, "TOPICS_SIZE_MAX", broker.path.stat().st_size - 1)
    broker.role.step(0)
    assert broker.log.events == ["topics.not_read"]
    monkeypatch.setattr(register_module, "TOPICS_SIZE_MAX", broker.path.stat().st_size)
    broker.now_ms += 1000
    assert broker.role.step(0) == 1


def test_key_value_settings_outlive_the_name_server(
    make_namesrv: MakeNamesrv, tmp_path: Path
) -> None:
    server = make_namesrv()
    client = RemotingClient(server.address)
    put = {"namespace": "N", "key": "k", "value": "v"}
    assert client.call(RequestCode.PUT_KV_CONFIG, put).header.code == 0
    client.close()
    server.close()
    server.close = lambda: None  # type: ignore[method-assign]
    client = RemotingClient(make_namesrv().address)
    frame = client.call(RequestCode.GET_KV_CONFIG, {"namespace": "N", "key": "k"})
    client.close()
    assert frame.header.ext["value"] == "v"
    (tmp_path / "kvConfig.json").write_text("{")
    (tmp_path / "kvConfig.json.bak").unlink(missing_ok=True)
    with pytest.raises(StoreError):
        KvFile(tmp_path / "kvConfig.json").load()


def test_kv_file_says_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KvFile(tmp_path / "kv.json")
    file.save({"N": {"k": "v"}})
    assert KvFile(tmp_path / "kv.json").load() == {"N": {"k": "v"}}

    def refused(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refused)
    with pytest.raises(StoreError, match="No space left"):
        file.save({})


def test_answers_survive_anything_that_is_sent(make_namesrv: MakeNamesrv) -> None:
    server = make_namesrv()
    client = RemotingClient(server.address)
    for code in (*range(0, 400, 7), 103, 105, 9999):
        for body in (b"", b"{}", b"[1", bytes(100)):
            frame = client.call(code, {"topic": "x", "brokerId": "y"}, body)
            assert isinstance(frame.header, Header)
    client.close()
    assert server.brokers() is None

"""The Java and Go drivers: Apache's clients, commanded from a test.

A driver is a process that reads commands and writes answers and events as JSON lines; many clients
live in one. What a client receives is collected here as `Received`, and compared by the test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.compat.processes import Process, eventually, numbered

HERE: Final = Path(__file__).parent
JAVA_VERSIONS: Final = ("5.5.0", "5.3.3", "4.9.8")
GO: Final = "go-2.1.2"
PEERS: Final = (*(f"java-{version}" for version in JAVA_VERSIONS), GO)
# A loaded machine of two cores is slower than the clients' defaults of 3 s allow for.
CALL_TIMEOUT_MS: Final = 15_000
ANSWER_TIMEOUT_S: Final = 60.0
LONG_MAX: Final = 2**63 - 1
# A Java consumer that starts bumps the version of its subscription 1 s after its start, and says so
# in a heartbeat that it omits if its timer sends another at that very moment. The broker then puts
# its pulls off until the next heartbeat: after 30 s, if this did not shorten it.
HEARTBEAT_MS: Final = 3000

QueueName = tuple[str, str, int]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a producer is asked to send."""

    topic: str
    body: bytes
    tags: str = ""
    keys: str = ""
    properties: dict[str, str] = {}
    flag: int = 0

    @property
    def sha256(self) -> str:
        """Digest of the body, as hex."""
        return hashlib.sha256(self.body).hexdigest()


class Received(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One delivery, as the client showed it."""

    topic: str
    queue_id: int
    queue_offset: int
    msg_id: str
    uniq_key: str | None = None
    offset_msg_id: str
    tags: str | None = None
    keys: str | None = None
    properties: dict[str, str]
    sys_flag: int
    flag: int
    length: int
    store_size: int
    sha256: str
    body: bytes | None = None
    reconsume_times: int
    born_timestamp: int
    store_timestamp: int
    born_host: str
    store_host: str
    physical_offset: int

    @property
    def text(self) -> str:
        """The body of a short message."""
        assert self.body is not None
        return self.body.decode()

    @property
    def place(self) -> tuple[str, int, int]:
        """Topic, queue id and queue offset: there is one message of each."""
        return self.topic, self.queue_id, self.queue_offset


class Sent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a send gave back."""

    status: str
    msg_id: str | None
    offset_msg_id: str | None
    broker: str
    queue_id: int
    queue_offset: int

    @property
    def ok(self) -> bool:
        """Whether the broker stored it without reserve."""
        return self.status == "SEND_OK"


class Offsets(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one queue, and the offset found for a time when that was asked for."""

    min: int
    max: int
    found: int | None = None
    earliest: int | None = None


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one pull."""

    status: str
    next: int
    min: int
    max: int
    messages: list[Received]


class DriverError(Exception):
    """The client behind the driver refused a command; the text is the client's."""


class Driver:
    """A driver process and the clients in it."""

    def __init__(
        self, name: str, argv: list[str], *, folder: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._ids = iter(range(1, 1 << 62))
        self._names = numbered(f"{folder.name}-{name}")
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._clients: dict[str, Client] = {}
        self._dismissed: list[Future[dict[str, Any]]] = []
        self._lock = threading.Lock()
        self.process = Process(
            argv, folder=folder, name=name, environ=environ, on_line=self._on_line
        )
        self.call("ping")

    @property
    def is_java(self) -> bool:
        """Whether the client is Apache's Java client."""
        return self.name.startswith("java")

    @property
    def _consumer_config(self) -> dict[str, object]:
        config: dict[str, object] = {"consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET"}
        if self.is_java:
            config["heartbeatBrokerInterval"] = HEARTBEAT_MS
        return config

    @property
    def _push_config(self) -> dict[str, object]:
        config = self._consumer_config
        if self.is_java:  # else what is being consumed is not committed at a stop
            config["awaitTerminationMillisWhenShutdown"] = CALL_TIMEOUT_MS
        return config

    def begin(self, op: str, **arguments: Any) -> Future[dict[str, Any]]:
        """Give a command; its answer comes as the future's result."""
        number = next(self._ids)
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            self._waiting[number] = future
            command = {"id": number, "op": op, **arguments}
            self.process.write(json.dumps(command, default=_jsonable).encode() + b"\n")
        return future

    def call(
        self, op: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any
    ) -> dict[str, Any]:
        """Give a command and wait for its answer."""
        try:
            return self.begin(op, **arguments).result(timeout_s)
        except TimeoutError:
            raise AssertionError(
                f"{self.process!r} did not answer {op} within {timeout_s} s\n{self.process.tail()}"
            ) from None

    def start(self, kind: str, namesrv: str, group: str, **arguments: Any) -> Client:
        """Start a client in this process; see the functions below for its kinds."""
        client = Client(self, next(self._names))
        with self._lock:
            self._clients[client.name] = client
        arguments.setdefault("instance", client.name)
        self.call(kind, client=client.name, namesrv=namesrv, group=group, **arguments)
        return client

    def producer(self, namesrv: str, group: str = "PID_compat", **config: Any) -> Client:
        """Start a producer; `config` are settings by the names of the Java client."""
        return self.start(
            "producer", namesrv, group, config={"sendMsgTimeout": CALL_TIMEOUT_MS, **config}
        )

    def push(
        self,
        namesrv: str,
        group: str,
        subscriptions: Mapping[str, str],
        *,
        orderly: bool = False,
        load: bool = False,
        refusals: int = 0,
        **config: Any,
    ) -> Client:
        """Start a push consumer that begins at the first offset where none is known."""
        return self.start(
            "push",
            namesrv,
            group,
            subscriptions=subscriptions,
            orderly=orderly,
            load=load,
            refusals=refusals,
            config={**self._push_config, **config},
        )

    def lite(
        self,
        namesrv: str,
        group: str,
        subscriptions: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Client:
        """Start a pull consumer that is polled all the time."""
        config = {**self._consumer_config, **arguments.pop("config", {})}
        return self.start(
            "lite", namesrv, group, subscriptions=subscriptions, config=config, **arguments
        )

    def pull(self, namesrv: str, group: str, topic: str, **config: Any) -> Client:
        """Start a pull consumer of which each call is one pull."""
        return self.start("pull", namesrv, group, subscriptions={topic: "*"}, config=config)

    def stop(self) -> None:
        """End the process, and with it the clients that are left, without a farewell."""
        if self.process.running:
            for dismissed in self._dismissed:
                dismissed.result(ANSWER_TIMEOUT_S)
        self.process.end_input()
        self.process.wait()

    def dismiss_clients(self) -> None:
        """Have what a test left running stopped, without waiting: stop() looks at the outcome."""
        with self._lock:
            left = [client for client in self._clients.values() if not client.kept]
        for client in left:
            self._dismissed.append(self.begin("stop", client=client.name))
            self.forget(client)

    def forget(self, client: Client) -> None:
        """Drop a stopped client."""
        with self._lock:
            self._clients.pop(client.name, None)

    def _on_line(self, line: str) -> None:
        told = json.loads(line)
        if "event" in told:
            with self._lock:
                client = self._clients.get(told["client"])
            if client is not None:
                client.deliver(msgspec.convert(told, Received))
            return
        with self._lock:
            future = self._waiting.pop(told["id"])
        if told["ok"]:
            future.set_result(told)
        else:
            future.set_exception(DriverError(f"{self.name}: {told['error']}"))


def _jsonable(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    raise TypeError(f"no JSON for {type(value)}")


class Client:
    """One client in a driver; what it received so far is in `inbox`."""

    _news: Final = threading.Condition()  # one for all clients: a test waits for several at once

    def __init__(self, driver: Driver, name: str) -> None:
        self.driver = driver
        self.name = name
        self.inbox: list[Received] = []
        self.kept = False  # outlives the test that started it

    def __repr__(self) -> str:
        return f"{self.name} with {len(self.inbox)} messages"

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Give this client a command."""
        return self.driver.call(op, client=self.name, **arguments)

    def deliver(self, message: Received) -> None:
        """Called by the driver's reader for each message."""
        with self._news:
            self.inbox.append(message)
            self._news.notify_all()

    def stop(self) -> None:
        """Shut the client down in the orderly way."""
        self.call("stop")
        self.driver.forget(self)

    def send(
        self,
        messages: Message | Iterable[Message],
        *,
        mode: str = "sync",
        queue_id: int | None = None,
        selector_key: str | None = None,
    ) -> list[Sent]:
        """Send in the named mode; results in the order of the messages, none for one-way."""
        batch = [messages] if isinstance(messages, Message) else list(messages)
        answer = self.call(
            "send",
            mode=mode,
            topic=batch[0].topic,
            messages=batch,
            queueId=queue_id,
            selectorKey=selector_key,
        )
        failed = [result for result in answer["results"] or [] if "error" in result]
        assert not failed, failed
        return msgspec.convert(answer["results"] or [], list[Sent])

    def queues(self, topic: str) -> list[QueueName]:
        """Topic, broker name and id of each queue in the route."""
        return msgspec.convert(
            self.call("queues", topic=topic)["queues"], list[QueueName], strict=False
        )

    def assigned(self, topic: str) -> set[int]:
        """Ids of the queues of `topic` that this push consumer holds now."""
        return {queue[2] for queue in self.call("assigned")["queues"] if queue[0] == topic}

    def offsets(
        self, topic: str, queue_id: int, *, timestamp: int | None = None, earliest: bool = False
    ) -> Offsets:
        """Bounds of a queue; with `timestamp`, in ms, the offset found for it."""
        answer = self.call(
            "offsets", topic=topic, queueId=queue_id, timestamp=timestamp, earliest=earliest
        )
        return msgspec.convert(answer, Offsets)

    def pull_once(
        self,
        topic: str,
        queue_id: int,
        *,
        offset: int,
        count: int = 32,
        expression: str = "*",
        block: bool = False,
    ) -> Pulled:
        """One pull request."""
        answer = self.call(
            "pull_once",
            topic=topic,
            queueId=queue_id,
            offset=offset,
            count=count,
            expression=expression,
            block=block,
        )
        return msgspec.convert(answer, Pulled)

    def query(
        self, topic: str, key: str, *, count: int = 64, begin: int = 0, end: int = LONG_MAX
    ) -> list[Received]:
        """The newest messages with a key that were stored in [begin, end], ms."""
        answer = self.call("query", topic=topic, key=key, count=count, begin=begin, end=end)
        return msgspec.convert(answer["messages"], list[Received])

    def view(self, topic: str, message_id: str) -> Received:
        """The message with this unique key, or at the place that an offset message id names."""
        answer = self.call("view", topic=topic, msgId=message_id)
        return msgspec.convert(answer["message"], Received)

    def wait(self, count: int, *, timeout_s: float = 60.0) -> list[Received]:
        """The inbox, as soon as it holds `count` messages."""
        return gather([self], count, timeout_s=timeout_s)


def gather(clients: Sequence[Client], count: int, *, timeout_s: float = 60.0) -> list[Received]:
    """All messages of `clients` as soon as they are `count` together; more or fewer fail."""
    await_messages(clients, lambda got: len(got) >= count, f"{count} messages", timeout_s=timeout_s)
    got = [message for client in clients for message in client.inbox]
    assert len(got) == count, f"{len(got)} messages where {count} were due: {clients}"
    return got


def await_messages(
    clients: Sequence[Client],
    enough: Callable[[list[Received]], bool],
    what: str,
    *,
    timeout_s: float = 60.0,
) -> None:
    """Wait until what `clients` hold together is `enough`."""

    def reached() -> bool:
        return enough([message for client in clients for message in client.inbox])

    with Client._news:
        if not Client._news.wait_for(reached, timeout_s):
            raise AssertionError(f"not within {timeout_s} s: {what}; there is {clients}")


def await_balance(
    consumers: Sequence[Client], topic: str, sizes: Sequence[int], *, timeout_s: float = 60.0
) -> list[set[int]]:
    """Wait until each consumer holds its number of queues, and no queue has two holders."""
    held: list[set[int]] = []

    def balanced() -> bool:
        held[:] = [consumer.assigned(topic) for consumer in consumers]
        together = set[int]().union(*held)
        return sorted(map(len, held)) == sorted(sizes) and len(together) == sum(sizes)

    eventually(f"queues divided as {sizes} among {consumers}", balanced, timeout_s=timeout_s)
    return held


def java_argv(version: str, folder: Path, *properties: str) -> list[str]:
    """Command line of the Java driver with the client of `version`."""
    return [
        "java",
        "-Xmx384m",
        "-Xss512k",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
        f"-Duser.home={folder}",
        f"-Drocketmq.client.localOffsetStoreDir={folder}/offsets",
        "-Drocketmq.client.logLevel=WARN",
        *properties,
        "-cp",
        f"{HERE}/java/classes/{version}:{HERE}/java/lib/{version}/*",
        "Driver",
    ]


def start_driver(peer: str, folder: Path, *properties: str) -> Driver:
    """Start the driver of one of PEERS; `properties` are options of the Java machine."""
    if peer == GO:
        environ = {
            "HOME": str(folder),
            "ROCKETMQ_GO_LOG_LEVEL": "error",
            "GOGC": "200",
            "TZ": "UTC",
        }
        return Driver(peer, [str(HERE / "go" / "driver")], folder=folder, environ=environ)
    argv = java_argv(peer.removeprefix("java-"), folder, *properties)
    return Driver(peer, argv, folder=folder, environ={"TZ": "UTC"})

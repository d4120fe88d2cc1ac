"""Where topics are: asked from name servers, or from the one broker that is connected.

Both give the same `Route`. The one broker is asked for the topic's settings and once for its name,
because brokers answer no route
requests.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from shmq.client.address import Endpoint, parse_endpoint
from shmq.client.flow import together
from shmq.client.model import Queue
from shmq.client.pool import Pool
from shmq.errors import ClientError, Closed, ConfigError, NotConnected, Refused, TopicNotFound
from shmq.wire import jsonish
from shmq.wire.codes import Perm, RequestCode, ResponseCode
from shmq.wire.frame import Frame
from shmq.wire.route import (
    ClusterInfo,
    TopicConfig,
    TopicList,
    TopicRouteData,
    TopicTable,
    decode,
)

MASTER: Final = 0
LOOKUP_TIMEOUT: Final = 3.0
FALLBACK_TOPIC: Final = "TBW102"
FALLBACK_QUEUES_MAX: Final = 4
"""Queues of a topic that the broker makes by itself when it gets the first message."""


@dataclass(frozen=True)
class Route:
    """Queues of a topic and the brokers that they are on."""

    topic: str
    write_queues: tuple[Queue, ...]
    read_queues: tuple[Queue, ...]
    brokers: dict[str, dict[int, Endpoint]]
    """Addresses by broker name and broker id; id 0 is the master."""
    is_guess: bool = False
    """Whether the topic does not exist yet: the first message will make it."""
    taken_at: float = field(default_factory=time.monotonic, compare=False)

    def master(self, broker: str) -> Endpoint:
        """Address of the master of that name.

        Raises:
            NotConnected: there is none.
        """
        endpoint = self.brokers.get(broker, {}).get(MASTER)
        if endpoint is None:
            raise NotConnected("the broker has no master", broker=broker, topic=self.topic)
        return endpoint

    def reader(self, broker: str, broker_id: int) -> Endpoint:
        """Address to pull from: that id, or else whichever of that name there is.

        Raises:
            NotConnected: there is none.
        """
        known = self.brokers.get(broker)
        if not known:
            raise NotConnected("no such broker in the route", broker=broker, topic=self.topic)
        return known.get(broker_id) or known[min(known)]


class Directory(Protocol):
    """Who knows where topics are."""

    async def route(self, topic: str) -> Route:
        """Route of a topic.

        Raises:
            TopicNotFound: nobody knows it.
        """

    async def masters(self) -> dict[str, Endpoint]:
        """All masters by broker name."""

    async def topics(self) -> list[str]:
        """Names of all topics, those of the system too."""

    async def forget_topic(self, topic: str) -> None:
        """A topic was deleted on the brokers."""


def check(frame: Frame, what: str, **facts: object) -> Frame:
    """The frame if it says success.

    Raises:
        TopicNotFound, Refused: it does not.
    """
    code = frame.header.code
    if code == ResponseCode.SUCCESS:
        return frame
    remark = frame.header.remark or ""
    if code == ResponseCode.TOPIC_NOT_EXIST:
        raise TopicNotFound(what, remark=remark, **facts)
    raise Refused(what, code=code, remark=remark, **facts)


def fallback(topic: str, route: Route) -> Route:
    """Where to send the first message of `topic`, from the route of FALLBACK_TOPIC."""
    queues = tuple(
        Queue(topic, queue.broker, queue.queue_id)
        for queue in route.write_queues
        if queue.queue_id < FALLBACK_QUEUES_MAX
    )
    return Route(topic, queues, (), route.brokers, is_guess=True)


async def route_for_sending(directory: Directory, topic: str) -> Route:
    """Route of a topic that may not exist yet.

    Raises:
        TopicNotFound: it does not exist, and no broker makes topics by itself.
    """
    try:
        route = await directory.route(topic)
    except TopicNotFound as error:
        try:
            guess = fallback(topic, await directory.route(FALLBACK_TOPIC))
        except TopicNotFound:
            raise error from None
        route = guess
    if not route.write_queues:
        raise TopicNotFound("no broker takes messages of the topic", topic=topic)
    return route


class NameServers:
    """Asks name servers, one after the other until one answers."""

    def __init__(self, endpoints: tuple[Endpoint, ...], pool: Pool) -> None:
        self._endpoints = endpoints
        self._pool = pool
        self._last = 0  # The one that answered last.

    async def route(self, topic: str) -> Route:
        """Route of a topic, from whichever name server answers first."""
        ext = {"topic": topic, "acceptStandardJsonOnly": "true"}
        frame = await self._ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, ext)
        check(frame, "topic not found", topic=topic, name_servers=self._text)
        return route_of(topic, decode(frame.body, TopicRouteData))

    async def masters(self) -> dict[str, Endpoint]:
        """All masters by broker name."""
        frame = await self._ask(RequestCode.GET_BROKER_CLUSTER_INFO, {})
        check(frame, "cluster not told", name_servers=self._text)
        found = decode(frame.body, ClusterInfo).broker_addr_table
        return {
            name: parse_endpoint(broker.broker_addrs[MASTER])
            for name, broker in found.items()
            if MASTER in broker.broker_addrs
        }

    async def topics(self) -> list[str]:
        """Names of all topics."""
        frame = await self._ask(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER, {})
        check(frame, "topics not told", name_servers=self._text)
        return decode(frame.body, TopicList).topic_list

    async def forget_topic(self, topic: str) -> None:
        """Have all name servers drop it; those that do not answer learn it from the brokers."""
        works = [
            self._ask_one(endpoint, RequestCode.DELETE_TOPIC_IN_NAMESRV, {"topic": topic})
            for endpoint in self._endpoints
        ]
        for outcome in await together(works):
            if isinstance(outcome, Frame):
                check(outcome, "topic not deleted on a name server", topic=topic)

    @property
    def _text(self) -> str:
        return ";".join(map(str, self._endpoints))

    async def _ask(self, code: int, ext: dict[str, str]) -> Frame:
        causes = []
        count = len(self._endpoints)
        for number in range(count):
            index = (self._last + number) % count
            endpoint = self._endpoints[index]
            try:
                frame = await self._ask_one(endpoint, code, ext)
            except Closed:
                raise
            except ClientError as error:
                causes.append(f"{endpoint} ({error.facts.get('cause') or error.what})")
                continue
            self._last = index
            return frame
        raise NotConnected("no name server answers", tried=", ".join(causes))

    async def _ask_one(self, endpoint: Endpoint, code: int, ext: dict[str, str]) -> Frame:
        return await self._pool.get(endpoint).ask(code, ext, timeout=LOOKUP_TIMEOUT)


class OneBroker:
    """Asks the one broker that is connected directly."""

    def __init__(self, endpoint: Endpoint, pool: Pool) -> None:
        self._endpoint = endpoint
        self._pool = pool
        self._name = ""

    async def route(self, topic: str) -> Route:
        """Route of a topic, made from its settings on the broker."""
        name = await self._broker_name()
        frame = await self._ask(RequestCode.GET_TOPIC_CONFIG, {"topic": topic})
        if frame.header.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
            config = await self._old_config(topic)
        else:
            check(frame, "topic not found", topic=topic, broker=self._endpoint)
            config = decode(frame.body, TopicConfig)
        return Route(
            topic,
            _queues(topic, name, config.write_queue_nums, allowed=config.perm & Perm.WRITE),
            _queues(topic, name, config.read_queue_nums, allowed=config.perm & Perm.READ),
            {name: {MASTER: self._endpoint}},
        )

    async def masters(self) -> dict[str, Endpoint]:
        """The broker itself."""
        return {await self._broker_name(): self._endpoint}

    async def topics(self) -> list[str]:
        """Names of all topics."""
        return list((await self._table()).topic_config_table)

    async def forget_topic(self, topic: str) -> None:
        """Nothing: nobody else knows it."""

    async def _old_config(self, topic: str) -> TopicConfig:
        """Settings of a topic from a broker before 5.x, which tells only all of them at once."""
        config = (await self._table()).topic_config_table.get(topic)
        if config is None:
            raise TopicNotFound("topic not found", topic=topic, broker=self._endpoint)
        return config

    async def _table(self) -> TopicTable:
        frame = await self._ask(RequestCode.GET_ALL_TOPIC_CONFIG, {})
        check(frame, "topics not told", broker=self._endpoint)
        return decode(frame.body, TopicTable)

    async def _broker_name(self) -> str:
        if not self._name:
            frame = await self._ask(RequestCode.GET_BROKER_CONFIG, {})
            check(frame, "broker does not tell its name", broker=self._endpoint)
            for line in frame.body.decode(errors="replace").splitlines():
                key, equals, value = line.partition("=")
                if equals and key.strip() == "brokerName":
                    self._name = value.strip()
        return self._name or str(self._endpoint)

    async def _ask(self, code: int, ext: dict[str, str]) -> Frame:
        return await self._pool.get(self._endpoint).ask(code, ext, timeout=LOOKUP_TIMEOUT)


def route_of(topic: str, data: TopicRouteData) -> Route:
    """Route from a name server's answer; a producer needs a master, a consumer any broker."""
    brokers: dict[str, dict[int, Endpoint]] = {}
    for broker in data.broker_datas:
        addresses = brokers.setdefault(broker.broker_name, {})
        for number, text in broker.broker_addrs.items():
            try:
                addresses[number] = parse_endpoint(text)
            except ConfigError:
                continue  # A broker that was told a wrong address for itself.
    queues: tuple[list[Queue], list[Queue]] = ([], [])
    for one in data.queue_datas:
        addresses = brokers.get(one.broker_name, {})
        writable = one.perm & Perm.WRITE and MASTER in addresses
        readable = one.perm & Perm.READ and addresses
        queues[0].extend(_queues(topic, one.broker_name, one.write_queue_nums, allowed=writable))
        queues[1].extend(_queues(topic, one.broker_name, one.read_queue_nums, allowed=readable))
    return Route(topic, tuple(sorted(queues[0])), tuple(sorted(queues[1])), brokers)


def _queues(topic: str, broker: str, count: int, *, allowed: object) -> tuple[Queue, ...]:
    return tuple(Queue(topic, broker, number) for number in range(count if allowed else 0))


class Routes:
    """Routes that were asked for, kept until they are asked for anew."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._sending: dict[str, Route] = {}
        self._reading: dict[str, Route] = {}
        self._more: dict[str, dict[int, Endpoint]] = {}

    def cached_for_sending(self, topic: str) -> Route | None:
        """A route known already."""
        return self._sending.get(topic)

    async def for_sending(self, topic: str, *, fresh: bool = False) -> Route:
        """Route of a topic that may not exist yet."""
        route = None if fresh else self._sending.get(topic)
        if route is None:
            route = self._sending[topic] = await route_for_sending(self.directory, topic)
        return route

    async def for_reading(self, topic: str, *, fresh: bool = False) -> Route:
        """Route of a topic that exists.

        Raises:
            TopicNotFound: it does not.
        """
        route = None if fresh else self._reading.get(topic)
        if route is None:
            self._reading.pop(topic, None)
            route = self._reading[topic] = await self.directory.route(topic)
        return route

    async def refresh(self) -> None:
        """Ask for all of them anew; one that cannot be told now stays as it is."""
        works = [
            *(self.for_sending(topic, fresh=True) for topic in list(self._sending)),
            *(self._reread(topic) for topic in list(self._reading)),
        ]
        await together(works)

    async def _reread(self, topic: str) -> None:
        self._reading[topic] = await self.directory.route(topic)

    def forget(self, topic: str) -> None:
        """Ask anew when it is needed next."""
        self._sending.pop(topic, None)
        self._reading.pop(topic, None)

    def add_brokers(self, masters: dict[str, Endpoint]) -> None:
        """Have these counted as brokers of known routes, of which there may be none yet."""
        self._more.update({name: {MASTER: endpoint} for name, endpoint in masters.items()})

    def brokers(self) -> dict[str, dict[int, Endpoint]]:
        """Addresses of all brokers in the known routes, by name and id."""
        found: dict[str, dict[int, Endpoint]] = {
            name: dict(addresses) for name, addresses in self._more.items()
        }
        for route in itertools.chain(list(self._sending.values()), list(self._reading.values())):
            for name, addresses in route.brokers.items():
                found.setdefault(name, {}).update(addresses)
        return found


def endpoints(brokers: dict[str, dict[int, Endpoint]]) -> Iterator[Endpoint]:
    """All addresses."""
    for addresses in brokers.values():
        yield from addresses.values()


def text_list(data: bytes, key: str) -> list[str]:
    """A list of texts in a JSON body."""
    found = jsonish.loads(data) if data else {}
    listed = found.get(key) if isinstance(found, dict) else None
    return [str(item) for item in listed] if isinstance(listed, list) else []

"""What a client is made of in one process: connections, routes, groups, housekeeping.

Every ROUTE_INTERVAL the routes in use are asked for anew and every broker in them gets a heartbeat;
a connection that was just made gets one at once, so that a broker that was restarted knows its
groups before it is asked for their members. Everything is made lazily: no thread and no connection
before the first request.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from shmq.client.address import Address, Endpoint
from shmq.client.connection import Connection
from shmq.client.flow import Cancelled, run, start, together
from shmq.client.nativelink import NativeLink, NativeProducerPath
from shmq.client.pool import Pool
from shmq.client.prepare import Preparer
from shmq.client.publish import Publisher
from shmq.client.remoting import RemotingProducerPath
from shmq.client.route import (
    MASTER,
    Directory,
    NameServers,
    OneBroker,
    Routes,
    check,
    endpoints,
)
from shmq.client.timers import Timers
from shmq.client.transport import ProducerPath
from shmq.client.uniqueid import IdMaker, local_address
from shmq.errors import ClientError, Closed
from shmq.units import KiB, MiB
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import Frame
from shmq.wire.pull import RESET_NUMBER

if TYPE_CHECKING:
    from typing import Any

    from shmq.client.model import Queue

ROUTE_INTERVAL: Final = 30.0
CALL_TIMEOUT: Final = 3.0
CLOSE_TIMEOUT: Final = 3.0
COMPRESS_FROM: Final = 4 * KiB
BODY_SIZE_MAX: Final = 4 * MiB
DEFAULT_GROUP: Final = "PID_shmq"

_log: Final = logging.getLogger("shmq.client")
_client_numbers: Final = itertools.count(1)


class Options:
    """How a client behaves; the same for its whole life."""

    def __init__(
        self,
        address: Address,
        *,
        group: str,
        timeout: float,
        retries: int,
        patience: float,
        compress: int | None,
        body_size_max: int,
        spin: float = 0.0,
    ) -> None:
        self.spin = spin
        self.address = address
        self.group = group
        self.timeout = timeout
        self.retries = retries
        self.patience = patience
        self.compress = compress
        self.body_size_max = body_size_max


class Member(Protocol):
    """A consumer, as the core sees it."""

    group: str

    def heartbeat_data(self) -> dict[str, Any]:
        """Its part of a heartbeat."""

    def rebalance_soon(self) -> None:
        """The members of its group or its topics' queues may have changed."""

    def places(self, topic: str) -> list[tuple[Queue, int]]:
        """How far it has come with its queues of a topic: what it commits."""

    def reset(self, topic: str, offsets: dict[tuple[str, int], int], number: int) -> None:
        """An operator has set the group's offsets, by broker name and queue id.

        The number is the same when the same is said again; 0 if the broker gives none.
        """


class Core:
    """One client in one process."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pid = os.getpid()
        address = local_address()
        self.client_id = f"{address}@{self.pid}#{time.monotonic_ns()}{next(_client_numbers):03d}"
        self.timers = Timers()
        self.pool = Pool(self.timers, on_open=self._opened, on_request=self._requested)
        self.routes = Routes(self._new_directory())
        self.ids = IdMaker(address)
        self.preparer = Preparer(
            self.ids, body_size_max=options.body_size_max, compress_from=options.compress
        )
        path: ProducerPath = RemotingProducerPath(self.pool)
        self.link: NativeLink | None = None
        if options.address.is_local and not options.address.copy:
            assert options.address.broker is not None
            self.link = NativeLink(
                options.address.broker.path, path, id_head=self.ids.run_head, spin=options.spin
            )
            path = NativeProducerPath(self.link, path)
        self.publisher = Publisher(
            routes=self.routes,
            path=path,
            timers=self.timers,
            retries=options.retries,
            ever_open=lambda: self.pool.ever_open,
        )
        self.members: dict[str, Member] = {}
        """Consumers by group."""
        self.producer_groups: set[str] = set()
        self._lock = threading.Lock()
        self._keeping = False
        self.closed = False

    def _new_directory(self) -> Directory:
        address = self.options.address
        if address.broker is not None:
            return OneBroker(address.broker, self.pool)
        return NameServers(address.name_servers, self.pool)

    def keep_up(self) -> None:
        """Begin with the periodic work, if that was not done yet."""
        with self._lock:
            begun, self._keeping = self._keeping, True
        if begun:
            return
        self.timers.after(ROUTE_INTERVAL, self._keep)

    def _keep(self) -> None:
        start(self._upkeep(), self._kept)

    def _kept(self, outcome: Exception | None) -> None:
        if isinstance(outcome, Exception) and not isinstance(outcome, (Cancelled, Closed)):
            _log.info("routes not refreshed: %s", outcome)
        self.timers.after(ROUTE_INTERVAL, self._keep)

    async def _upkeep(self) -> None:
        await self.routes.refresh()
        await self.heartbeat()
        for member in list(self.members.values()):
            member.rebalance_soon()

    # Groups

    def add_producer_group(self, group: str) -> None:
        """Have the brokers know that this client produces for `group`."""
        if group not in self.producer_groups:
            self.producer_groups.add(group)
            self.keep_up()

    def add_member(self, member: Member) -> None:
        """A consumer joins its group."""
        with self._lock:
            assert member.group not in self.members, "one consumer of a group on a connection"
            self.members[member.group] = member
        self.keep_up()

    def remove_member(self, member: Member) -> None:
        """A consumer leaves."""
        with self._lock:
            if self.members.get(member.group) is member:
                del self.members[member.group]

    async def heartbeat(self) -> None:
        """Tell all brokers in the known routes about our groups; a failure is only logged."""
        targets = self._heartbeat_targets()
        await together([self._beat(endpoint) for endpoint in targets])

    def _heartbeat_targets(self) -> list[Endpoint]:
        """Masters, and slaves too when there are consumers."""
        with_slaves = bool(self.members)
        return [
            endpoint
            for addresses in self.routes.brokers().values()
            for number, endpoint in addresses.items()
            if number == MASTER or with_slaves
        ]

    async def _beat(self, endpoint: Endpoint) -> None:
        if not self.members and not self.producer_groups:
            return
        try:
            connection = self.pool.get(endpoint)
            frame = await connection.ask(
                RequestCode.HEART_BEAT, body=self.heartbeat_body(), timeout=CALL_TIMEOUT
            )
            check(frame, "heartbeat refused", address=endpoint)
        except (Cancelled, Closed):
            raise
        except ClientError as error:
            _log.info("heartbeat failed: %s", error)

    def heartbeat_body(self) -> bytes:
        """All groups of this client."""
        producers = sorted({*self.producer_groups, self.options.group})
        with self._lock:
            members = list(self.members.values())
        return jsonish.dumps(
            {
                "clientID": self.client_id,
                "consumerDataSet": [member.heartbeat_data() for member in members],
                "heartbeatFingerprint": 0,
                "producerDataSet": [{"groupName": group} for group in producers],
                "withoutSub": False,
            }
        )

    # What connections tell

    def _opened(self, connection: Connection) -> None:
        """A connection was made: a broker that knows our groups not yet hears of them first."""
        endpoint = connection.endpoint
        if self.members and endpoint in self._heartbeat_targets():
            start(self._greet(endpoint))

    async def _greet(self, endpoint: Endpoint) -> None:
        await self._beat(endpoint)
        for member in list(self.members.values()):
            member.rebalance_soon()

    def _requested(self, connection: Connection, frame: Frame) -> None:
        """A broker asks for something."""
        header = frame.header
        if header.code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
            member = self.members.get(header.ext.get("consumerGroup", ""))
            if member is not None:
                member.rebalance_soon()
        elif header.code == RequestCode.RESET_CONSUMER_CLIENT_OFFSET:
            self._reset(header.ext, frame.body)
        elif header.code == RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT:
            connection.answer(header, ResponseCode.SUCCESS, body=self._status(header.ext))
        elif header.code != RequestCode.CHECK_TRANSACTION_STATE:
            connection.answer(
                header,
                ResponseCode.REQUEST_CODE_NOT_SUPPORTED,
                f"this client does not serve requests of code {header.code}",
            )

    def _status(self, ext: dict[str, str]) -> bytes:
        member = self.members.get(ext.get("group", ""))
        places = [] if member is None else member.places(ext.get("topic", ""))
        table = jsonish.ObjectKeyed(
            [
                ({"brokerName": at.broker, "queueId": at.queue_id, "topic": at.topic}, offset)
                for at, offset in places
            ]
        )
        return jsonish.dumps({"messageQueueTable": table})

    def _reset(self, ext: dict[str, str], body: bytes) -> None:
        member = self.members.get(ext.get("group", ""))
        found = jsonish.loads(body) if body else {}
        table = found.get("offsetTable") if isinstance(found, dict) else None
        if member is None or not isinstance(table, jsonish.ObjectKeyed):
            return
        offsets = {
            (str(queue.get("brokerName")), int(queue.get("queueId", -1))): int(offset)
            for queue, offset in table
        }
        member.reset(ext.get("topic", ""), offsets, int(ext.get(RESET_NUMBER) or 0))

    # End

    async def leave(self, group: str, *, consumer: bool) -> None:
        """Tell all connected brokers that this client is of a group no more."""
        ext = {
            "clientID": self.client_id,
            "consumerGroup" if consumer else "producerGroup": group,
        }
        brokers = set(endpoints(self.routes.brokers()))
        works = [
            self._leave_one(connection, ext)
            for connection in self.pool.open_connections()
            if connection.endpoint in brokers
        ]
        await together(works)

    async def _leave_one(self, connection: Connection, ext: dict[str, str]) -> None:
        try:
            await connection.ask(RequestCode.UNREGISTER_CLIENT, ext, timeout=CLOSE_TIMEOUT)
        except ClientError as error:
            _log.info("good-bye failed: %s", error)

    def farewell(self) -> None:
        """Leave all producer groups; nothing is retried."""
        for group in sorted(self.producer_groups):
            run(self.leave(group, consumer=False), CLOSE_TIMEOUT + 1.0)

    def close(self) -> None:
        """End threads and connections."""
        self.closed = True
        if self.link is not None:
            self.link.close()
        self.pool.close()
        self.timers.close()

    def abandon(self) -> None:
        """In a forked child: nothing here may be used any more."""
        self.closed = True
        if self.link is not None:
            self.link.abandon()
        self.pool.abandon()

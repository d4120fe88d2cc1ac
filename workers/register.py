"""The register role: makes the broker known to every name server, and keeps it known.

    topics.json --(doorbell, or its look changed)--> TopicFile --> a new Registration
    each NameServerLink:   IDLE --(due, or new)--> BUSY --(answer)--> IDLE
                                   a thread that calls    failed: due again after a backoff

step() only looks and decides; the waiting is done by one thread for each name server, so that a
slow or dead one delays no other. The threads share nothing with step() but a queue of jobs and a
queue of results. A name server forgets a broker when its connection closes: so each thread keeps
one connection open, and draining says good-bye on it.

What the name servers say about the master of this broker is kept in `master`.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from shmq.errors import ProtocolError, ShmqError, Unavailable
from shmq.log import get_logger
from shmq.units import MINUTE_MS, SECOND_MS, MiB
from shmq.wire import route
from shmq.wire.codes import Perm, RequestCode, ResponseCode
from shmq.workers.base import monotonic_ms
from shmq.workers.context import Context
from shmq.workers.identity import Identity, host_port, identity_of
from shmq.workers.remoting_client import RemotingClient

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from shmq.config import Settings

PERIOD_MIN_MS: Final = 10 * SECOND_MS
PERIOD_MAX_MS: Final = 1 * MINUTE_MS
BACKOFF_MIN_MS: Final = 1 * SECOND_MS
BACKOFF_MAX_MS: Final = 10 * SECOND_MS
GOODBYE_MAX_MS: Final = 2 * SECOND_MS
DRAIN_MAX_MS: Final = 3 * SECOND_MS
LOOK_INTERVAL_MS: Final = 200
FIRST_LOOK_MS: Final = 10
FIRST_MAX_MS: Final = 10 * SECOND_MS
TOPICS_SIZE_MAX: Final = 15 * MiB
"""A registration is one frame of 16 MiB at most."""
CRC_MASK: Final = 0x7FFFFFFF
TOPICS_MIN: Final = 2


class Registration(NamedTuple):
    """One request 103, the same for all name servers."""

    version: route.DataVersion
    ext: dict[str, str]
    body: bytes


class Master(NamedTuple):
    """Where the master of this broker is; empty when it is the master or there is none."""

    address: str = ""
    ha_address: str = ""


class Bell(Protocol):
    """What this role needs of its doorbell."""

    def arm(self) -> None:
        """Say that this role is going to sleep."""

    def disarm(self) -> None:
        """Say that this role is awake."""

    def force(self) -> None:
        """Wake the sleeper whatever it said."""

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until rung."""


class TopicFile:
    """The topic table as the coordinator last wrote it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._look: tuple[int, int, int] | None = None

    def is_new(self) -> bool:
        """Whether changed() would have something to read."""
        try:
            return _look_of(self._path.stat()) != self._look
        except OSError:
            return False

    def changed(self) -> route.TopicTable | None:
        """The table when it is another one than at the last call; None when it is not.

        Raises:
            OSError: it is not there, or cannot be read.
            ProtocolError: it is too large for a registration, or not a topic table.
        """
        if _look_of(self._path.stat()) == self._look:
            return None
        with self._path.open("rb") as file:
            data = file.read(TOPICS_SIZE_MAX + 1)
        look = _look_of(self._path.stat())
        if len(data) > TOPICS_SIZE_MAX:
            raise ProtocolError(
                "topic table is too large to register",
                path=self._path,
                size_max=TOPICS_SIZE_MAX,
            )
        if not data:
            raise ProtocolError("topic table is empty", path=self._path)
        table = route.decode(data, route.TopicTable)
        self._look = look
        return table


def _look_of(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def registration_of(
    table: route.TopicTable,
    identity: Identity,
    *,
    permission: int,
    compressed: bool = False,
) -> Registration:
    """The request that registers `table`; no topic gets more permission than the broker."""
    lacking = (Perm.READ | Perm.WRITE) & ~permission
    topics = {
        name: msgspec.structs.replace(topic, topic_name=name, perm=topic.perm & ~lacking)
        for name, topic in table.topic_config_table.items()
    }
    for name in (identity.cluster, identity.name):
        if len(topics) < TOPICS_MIN:  # A stock name server refuses a first one with one topic.
            topics.setdefault(
                name, route.TopicConfig(topic_name=name, perm=Perm.INHERIT | permission)
            )
    shown = msgspec.structs.replace(table, topic_config_table=topics)
    body = route.RegisterBody(topic_config_serialize_wrapper=shown)
    data = route.encode_compressed_register_body(body) if compressed else route.encode(body)
    ext = {
        **identity.member_ext(),
        "haServerAddr": identity.ha_address,
        "enableActingMaster": "false",
        "compressed": "true" if compressed else "false",
        "bodyCrc32": str(zlib.crc32(data) & CRC_MASK),
    }
    return Registration(version=table.data_version, ext=ext, body=data)


class Result(NamedTuple):
    """What came of one job: the master as that name server knows it, or why it failed."""

    master: Master
    error: str = ""


Job = Callable[[RemotingClient], Master]


class Caller(threading.Thread):
    """One name server's thread: takes jobs, waits for answers, gives results."""

    def __init__(self, address: str, *, on_result: Callable[[], None]) -> None:
        super().__init__(name=f"namesrv {address}", daemon=True)
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.results: SimpleQueue[Result] = SimpleQueue()
        self._client = RemotingClient(address)
        self._on_result = on_result

    def run(self) -> None:
        """Do jobs until there comes None."""
        for job in iter(self.jobs.get, None):
            try:
                result = Result(job(self._client))
            except (ShmqError, OSError, ValueError) as error:
                result = Result(Master(), str(error))
            self.results.put(result)
            self._on_result()
        self._client.close()


class NameServerLink:
    """One name server as step() sees it."""

    def __init__(self, address: str, *, on_result: Callable[[], None], log: Any) -> None:
        self.address = address
        self.registered = False
        """Whether its last answer was a success."""
        self.pending = 0
        """Jobs that the thread has not finished."""
        self._log = log
        self._caller = Caller(address, on_result=on_result)
        self._sent: Registration | None = None
        self._due_ms = 0
        self._backoff_ms = BACKOFF_MIN_MS
        self._last_error: str | None = None
        self._caller.start()

    def register(self, registration: Registration, *, now_ms: int, timeout_ms: int) -> bool:
        """Begin a registration when it is due or new; whether one was begun."""
        is_new = registration is not self._sent and self._last_error is None
        if self.pending or (now_ms < self._due_ms and not is_new):
            return False
        self._sent = registration

        def job(client: RemotingClient) -> Master:
            frame = client.call(
                RequestCode.REGISTER_BROKER,
                registration.ext,
                registration.body,
                timeout_ms=timeout_ms,
            )
            if frame.header.code != ResponseCode.SUCCESS:
                raise Unavailable(
                    "name server refused the registration",
                    address=client.address,
                    code=frame.header.code,
                    remark=frame.header.remark,
                )
            ext = frame.header.ext
            return Master(ext.get("masterAddr", ""), ext.get("haServerAddr", ""))

        self._put(job)
        return True

    def take_result(self, *, now_ms: int, period_ms: int) -> Result | None:
        """What came of the job, if it is done."""
        if self._caller.results.empty():
            return None
        result = self._caller.results.get()
        self.pending -= 1
        self.registered = not result.error
        if result.error:
            self._due_ms = now_ms + self._backoff_ms
            self._backoff_ms = min(self._backoff_ms * 2, BACKOFF_MAX_MS)
            if self._last_error is None:
                self._log.warning(
                    "registration.failed",
                    namesrv=self.address,
                    error=result.error,
                    hint="clients that ask this name server do not find the broker; retrying",
                )
            self._last_error = result.error
            return result
        if self._last_error is not None or self._due_ms == 0:
            self._log.info("registration.succeeded", namesrv=self.address)
        self._due_ms = now_ms + period_ms
        self._backoff_ms = BACKOFF_MIN_MS
        self._last_error = None
        return result

    def say_goodbye(self, identity: Identity) -> None:
        """Begin to unregister; after a registration that is under way."""

        def job(client: RemotingClient) -> Master:
            client.call(
                RequestCode.UNREGISTER_BROKER,
                identity.member_ext(),
                timeout_ms=GOODBYE_MAX_MS,
            )
            return Master()

        self._put(job)

    def _put(self, job: Job) -> None:
        self.pending += 1
        self._caller.jobs.put(job)

    def stop(self) -> None:
        """Let the thread end; it closes the connection."""
        self._caller.jobs.put(None)


class RegisterRole:
    """Registers one broker at all name servers of a list."""

    def __init__(
        self,
        *,
        identity: Identity,
        namesrv_addresses: list[str],
        embedded: list[str] | None = None,
        topics: TopicFile,
        bell: Bell,
        permission: int = 6,
        period_ms: int = 30 * SECOND_MS,
        timeout_ms: int = 24 * SECOND_MS,
        compressed: bool = False,
        clock_ms: Callable[[], int] = monotonic_ms,
        log: Any = None,
    ) -> None:
        self.identity = identity
        self.master = Master()
        self._topics = topics
        self._bell = bell
        self._permission = permission
        self._period_ms = _clamped(period_ms)
        self._timeout_ms = timeout_ms
        self._compressed = compressed
        self._clock_ms = clock_ms
        self._log = get_logger() if log is None else log
        self._registration: Registration | None = None
        self._table: route.TopicTable | None = None
        self._next_look_ms = 0
        self._look_error: str | None = None
        self._leaving: list[NameServerLink] | None = None
        self._drain_end_ms = 0
        self.links: dict[str, NameServerLink] = {}
        self._embedded = embedded or []
        self._set_addresses(namesrv_addresses)

    def step(self, now_ms: int) -> int:
        """Look at the topic table, take results, begin what is due."""
        now_ms = self._clock_ms()  # The time of day, which step() gets, may jump.
        done = 0
        if now_ms >= self._next_look_ms:
            self._next_look_ms = now_ms + LOOK_INTERVAL_MS
            done += self._look()
        for link in self.links.values():
            result = link.take_result(now_ms=now_ms, period_ms=self._period_ms)
            if result is not None:
                done += 1
                self._note_master(result)
            if self._registration is not None:
                done += link.register(
                    self._registration, now_ms=now_ms, timeout_ms=self._timeout_ms
                )
        return done

    def await_embedded(self, timeout_ms: int) -> bool:
        """Step until the embedded name servers know this broker; False when the time is over.

        So that whoever saw the ready line finds the broker by its name server.
        """
        end_ms = self._clock_ms() + timeout_ms
        while not all(self.links[address].registered for address in self._embedded):
            if self._clock_ms() >= end_ms:
                return False
            if self._registration is None:
                self._next_look_ms = 0
            self.step(0)
            self.wait(FIRST_LOOK_MS)
        return True

    def wait(self, timeout_ms: int) -> None:
        """Sleep until the topic table changed, an answer came, or the time is over."""
        self._bell.arm()
        # SYNC POINT: who changed the table before arm() did not ring; so look once more.
        news = self._look_error is None and self._topics.is_new()
        if news or self._bell.wait(timeout_ms):
            self._next_look_ms = 0
        self._bell.disarm()

    def wake(self) -> None:
        """End the present or next wait()."""
        self._bell.force()

    def drain(self, now_ms: int) -> bool:
        """Say good-bye to every name server that knows us; True when each answered, or is late.

        Whoever is not told learns it from the closed connection.
        """
        now_ms = self._clock_ms()
        if self._leaving is None:
            self._leaving = [link for link in self.links.values() if link.registered]
            self._drain_end_ms = now_ms + DRAIN_MAX_MS
            for link in self._leaving:
                link.say_goodbye(self.identity)
        for link in self._leaving:
            link.take_result(now_ms=now_ms, period_ms=self._period_ms)
        return now_ms >= self._drain_end_ms or not any(link.pending for link in self._leaving)

    def close(self) -> None:
        """Let the threads end; they do when their present call does."""
        for link in self.links.values():
            link.stop()

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change: name servers, period, timeout, permission."""
        self._period_ms = _clamped(settings.register_name_server_period)
        self._timeout_ms = settings.register_broker_timeout_mills
        self._permission = settings.broker_permission
        self._compressed = settings.compressed_register
        self._set_addresses(settings.namesrv_addresses)
        if self._table is not None:
            self._renew(self._table)

    def _set_addresses(self, addresses: list[str]) -> None:
        wanted = dict.fromkeys([*self._embedded, *addresses])
        for address in [known for known in self.links if known not in wanted]:
            link = self.links.pop(address)
            if link.registered:
                link.say_goodbye(self.identity)
            link.stop()
        for address in wanted:
            if address not in self.links:
                self.links[address] = NameServerLink(
                    address, on_result=self._bell.force, log=self._log
                )

    def _look(self) -> int:
        """Renew the registration when the topic table changed; the number of changes."""
        try:
            table = self._topics.changed()
        except (OSError, ProtocolError) as error:
            if self._look_error is None:
                self._log.warning(
                    "topics.not_read",
                    error=str(error),
                    hint="name servers keep the last table that could be read",
                )
            self._look_error = str(error)
            return 0
        self._look_error = None
        if table is None:
            return 0
        self._table = table
        self._renew(table)
        return 1

    def _renew(self, table: route.TopicTable) -> None:
        self._registration = registration_of(
            table, self.identity, permission=self._permission, compressed=self._compressed
        )

    def _note_master(self, result: Result) -> None:
        if result.error or not result.master.address or result.master == self.master:
            return
        self.master = result.master
        self._log.info(
            "master.found", address=self.master.address, ha_address=self.master.ha_address
        )


def make(context: Context, index: int = 0) -> RegisterRole:
    """The role as the supervisor starts it."""
    assert index == 0, "one role registers"
    settings = context.settings
    role = RegisterRole(
        identity=identity_of(context),
        namesrv_addresses=settings.namesrv_addresses,
        embedded=[embedded_address(context)] if context.embedded_namesrv else [],
        topics=TopicFile(context.store_dir / "config" / "topics.json"),
        bell=context.arena.bells["register"],
        permission=settings.broker_permission,
        period_ms=settings.register_name_server_period,
        timeout_ms=settings.register_broker_timeout_mills,
        compressed=settings.compressed_register,
    )
    if not role.await_embedded(FIRST_MAX_MS):
        get_logger().warning(
            "registration.late", hint="the broker serves, but its own name server does not know it"
        )
    return role


def embedded_address(context: Context) -> str:
    """Where the name server of this process family is reached from here."""
    host, port = context.bound["namesrv"]
    nearby = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not bound
    return host_port(nearby.get(host, host), port)


def _clamped(period_ms: int) -> int:
    return min(max(period_ms, PERIOD_MIN_MS), PERIOD_MAX_MS)

"""The connections of a client, one to each endpoint, and how soon a lost one is tried again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from shmq.client.address import Endpoint
from shmq.client.connection import NEVER, Connection
from shmq.client.timers import Timer, Timers
from shmq.errors import ClientError, Closed
from shmq.wire.frame import Frame

RETRY_FIRST: Final = 0.02
RETRY_MAX: Final = 1.0


class _Failing:
    """An endpoint that could not be connected to, and when it may be tried again."""

    __slots__ = ("count", "error", "not_before")

    def __init__(self) -> None:
        self.count = 0
        self.not_before = 0.0
        self.error: ClientError | None = None


class Pool:
    """Connections by endpoint. Not to be used across a fork: the child makes another."""

    def __init__(
        self,
        timers: Timers,
        *,
        on_open: Callable[[Connection], None],
        on_request: Callable[[Connection, Frame], None],
    ) -> None:
        self._timers = timers
        self._on_open = on_open
        self._on_request = on_request
        self._lock = threading.Lock()
        self._connections: dict[Endpoint, Connection] = {}
        self._failing: dict[Endpoint, _Failing] = {}
        self._watches: dict[Connection, Timer] = {}
        self._closed = False
        self.ever_open = False
        """Whether any connection has ever been made: then a failing one is worth waiting for."""

    def get(self, endpoint: Endpoint) -> Connection:
        """The connection to an endpoint, perhaps not open yet.

        Raises:
            NotConnected: the last attempt failed, and it is too soon for another.
            Closed: the client is.
        """
        connection = self._connections.get(endpoint)
        if connection is not None and connection.error is None:
            return connection
        with self._lock:
            if self._closed:
                raise Closed("client closed", address=str(endpoint))
            connection = self._connections.get(endpoint)
            if connection is not None and connection.error is None:
                return connection
            failing = self._failing.get(endpoint)
            if (
                failing is not None
                and failing.error is not None
                and time.monotonic() < failing.not_before
            ):
                raise failing.error
            connection = Connection(endpoint, self)
            connection.start()
            self._connections[endpoint] = connection
            return connection

    def open_connections(self) -> list[Connection]:
        """Those that are open now."""
        with self._lock:
            return [one for one in self._connections.values() if one.is_open]

    def drop(self, wanted: Iterable[Endpoint]) -> None:
        """Close the connections to all but the wanted endpoints."""
        keep = set(wanted)
        with self._lock:
            gone = [one for endpoint, one in self._connections.items() if endpoint not in keep]
        for connection in gone:
            connection.close(wait=False)

    def close(self) -> None:
        """Close all, for good."""
        with self._lock:
            self._closed = True
            connections = list(self._connections.values())
        for connection in connections:
            connection.close()

    def abandon(self) -> None:
        """In a forked child: close what was inherited; locks may be held by threads now gone."""
        for connection in self._connections.values():
            connection.abandon()

    # What connections tell

    def opened(self, connection: Connection) -> None:
        """A connection was made."""
        with self._lock:
            self.ever_open = True
            self._failing.pop(connection.endpoint, None)
        self._on_open(connection)

    def ended(self, connection: Connection) -> None:
        """A connection is closed, or could not be made."""
        with self._lock:
            if self._connections.get(connection.endpoint) is connection:
                del self._connections[connection.endpoint]
            watch = self._watches.pop(connection, None)
            if not isinstance(connection.error, Closed):  # else we closed it ourselves
                failing = self._failing.setdefault(connection.endpoint, _Failing())
                delay = min(RETRY_MAX, RETRY_FIRST * 2**failing.count)
                failing.count = min(failing.count + 1, 16)
                failing.not_before = time.monotonic() + delay
                failing.error = connection.error
        if watch is not None:
            watch.cancel()

    def requested(self, connection: Connection, frame: Frame) -> None:
        """The peer asks for something."""
        self._on_request(connection, frame)

    def deadline_due(self, connection: Connection, delay: float) -> None:
        """Look for calls of this connection that waited too long, in so many seconds."""
        timer = self._timers.after(delay, lambda: self._expire(connection))
        with self._lock:
            before = self._watches.get(connection)
            if connection.error is None:
                self._watches[connection] = timer
        if before is not None:
            before.cancel()

    def _expire(self, connection: Connection) -> None:
        now = time.monotonic()
        due = connection.expire(now)
        if due < NEVER:
            self.deadline_due(connection, max(0.001, due - now))

"""A whole broker in one process: real roles and sockets, stepped by the test, with its clock."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from shmq.layout.control import Word
from shmq.layout.javahash import hash_code
from shmq.units import KiB
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.properties import encode_properties
from shmq.workers import coordinator
from shmq.workers.context import control_path_of
from shmq.workers.coordinator import CoordinatorRole
from shmq.workers.serve import ServeRole
from tests.unit.workers.house import House, encode, small_settings

DEADLINE_S = 10.0
START_MS = 1_000_000
RECEIVE_SIZE = 1 << 20
TOPIC = "T"
GROUP = "G"


class Clock:
    """Time of the broker's processes; moves when a test says so."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        """Now, ms."""
        return self.now_ms


def listening(family: socket.AddressFamily, where: Any) -> socket.socket:
    """A non-blocking listener."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind(where)
    sock.listen(64)
    sock.setblocking(False)
    return sock


class Client:
    """One connection to the broker, as a client has it; never waits."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self._decoder = FrameDecoder(frame_size_max=1 << 28)
        self.got: list[Frame] = []
        self.closed = False
        """Whether the broker closed it."""
        self.unsent = b""

    def send(self, data: bytes) -> None:
        """Send as much as the kernel takes; the rest with the next look()."""
        self.unsent += data
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]

    def look(self) -> list[Frame]:
        """Read what came; all frames so far that were not taken."""
        with contextlib.suppress(OSError):
            self.send(b"")
        while not self.closed:
            try:
                data = self.sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            self.closed = not data
            self._decoder.feed(data)
        while (frame := self._decoder.next_frame()) is not None:
            self.got.append(frame)
        return self.got

    def take(self) -> list[Frame]:
        """Frames that came since the last call."""
        self.look()
        got, self.got = self.got, []
        return got

    def reset(self) -> None:
        """Close with RST, as a machine that went away."""
        if self.sock.family != socket.AF_UNIX:
            linger = struct.pack("ii", 1, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


class Broker:
    """Serve, writer, flush, dispatch and coordinator over one store."""

    def __init__(
        self,
        store_dir: Path,
        *,
        serve_count: int = 1,
        pool_size: int = 512 * KiB,
        hot_entries: int = 16,
        native: bool = False,
        **settings: Any,
    ) -> None:
        values = {"broker_ip1": "127.0.0.1", "broker_cluster_name": "C", "broker_name": "B"}
        self.settings = small_settings(store_dir, **(values | settings))
        self.house = House(
            store_dir,
            settings=self.settings,
            serve_count=serve_count + 1,
            pool_size=pool_size,
            hot_entries=hot_entries,
            queues_max=2048,
            native=native,
        )
        self.arena = self.house.arena
        self.producer = self.house.producers[-1]
        """A ring of no serve process, to store messages without one."""
        self.clock = Clock()
        self.context = self.house.context
        self._sockets: list[socket.socket] = []
        self.coordinator: CoordinatorRole | None = None
        self.serves: list[ServeRole] = []
        self.stands: set[str] = set()
        """Roles that are not stepped: writer, flush, dispatch, coordinator."""
        self.writer = self.house.writer()
        self.flush = self.house.flush()
        self.dispatch = self.house.dispatch()
        try:
            self._listen()
            self.new_coordinator()
            self.serves += [self.new_serve(index) for index in range(serve_count)]
            self.serve = self.serves[0]
            self.until(lambda: all(serve.views.complete for serve in self.serves))
            self.turn()
        except BaseException:
            self.close()
            raise

    def _listen(self) -> None:
        context = self.context
        main = listening(socket.AF_INET, ("127.0.0.1", 0))
        context.listeners = {
            "main": [main],
            "vip": [listening(socket.AF_INET, ("127.0.0.1", 0))],
            "unix": [listening(socket.AF_UNIX, str(context.run_dir / "c.sock"))],
            "control": [listening(socket.AF_UNIX, str(control_path_of(context)))],
        }
        context.bound["main"] = main.getsockname()
        self._sockets += [one for sockets in context.listeners.values() for one in sockets]

    def new_serve(self, index: int = 0) -> ServeRole:
        """One more serve process on what is published."""
        return ServeRole(self.context, index, clock_ms=self.clock)

    def new_coordinator(self) -> CoordinatorRole:
        """A successor of the coordinator, which is closed as the kernel would close it."""
        if self.coordinator is not None:
            self.coordinator.close()
        self.coordinator = coordinator.make(self.context, clock_ms=self.clock)
        return self.coordinator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets and files."""
        for serve in self.serves:
            serve.uplink.close()
            serve.close()
        if self.coordinator is not None:
            self.coordinator.close()
        self.flush.close()
        self.dispatch.close()
        for sock in self._sockets:
            sock.close()
        self.house.close()

    # Time

    def turn(self) -> int:
        """One step of every role."""
        now_ms = self.clock.now_ms
        done = 0
        for name in ("writer", "flush", "dispatch"):
            if name not in self.stands:
                done += getattr(self, name).step(now_ms)
        for serve in self.serves:
            done += serve.step(now_ms)
        if self.coordinator is not None and "coordinator" not in self.stands:
            done += self.coordinator.step(now_ms)
        return done

    def until(self, true: Callable[[], object]) -> None:
        """Step until it is true."""
        end = time.monotonic() + DEADLINE_S
        while not true():
            self.turn()
            assert time.monotonic() < end, "it did not become true"

    def settle(self, turns: int = 8) -> None:
        """Steps after which nothing more is to be expected."""
        for _ in range(turns):
            self.turn()

    def put(
        self, body: bytes = b"b", *, queue_id: int = 0, tag: str = "", now_ms: int = START_MS
    ) -> None:
        """Store a message of topic T and make it visible, without a step of serve."""
        slot = self.arena.queues.slot(TOPIC, queue_id)
        assert slot is not None
        text = encode_properties({"TAGS": tag} if tag else {})
        before = self.arena.queues.max_offset(slot)
        self.producer.submit(
            slot,
            encode(TOPIC, body, queue_id=queue_id, properties=text),
            code=hash_code(tag) if tag else 0,
        )
        self.writer.step(now_ms)
        self.flush.step(now_ms)
        self.dispatch.step(now_ms)
        assert self.arena.queues.max_offset(slot) == before + 1

    # Clients

    def connect(self, kind: str = "main", *, receive_buffer: int = 0) -> Client:
        """A client that was accepted."""
        listener = self.context.listeners[kind][0]
        sock = socket.socket(listener.family, socket.SOCK_STREAM)
        self._sockets.append(sock)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        before = sum(len(serve.door.connections) for serve in self.serves)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(listener.getsockname())
        self.until(lambda: sum(len(s.door.connections) for s in self.serves) > before)
        return Client(sock)

    def ask(self, client: Client, frame: bytes, count: int = 1) -> list[Frame]:
        """Send a frame and step until so many frames came back."""
        client.send(frame)
        self.until(lambda: len(client.look()) >= count or client.closed)
        return client.take()

    def word(self, word: Word) -> int:
        """A shared word's value."""
        return self.house.word(word)


@contextlib.contextmanager
def unclosed(*clients: Client) -> Iterator[None]:
    """Nothing in this block closes these clients."""
    yield
    for client in clients:
        client.look()
        assert not client.closed

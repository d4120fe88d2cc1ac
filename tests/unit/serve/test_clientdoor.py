"""The door alone, over real sockets; an owner that answers every frame with its own body."""

from __future__ import annotations

import errno
import itertools
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq.config import Settings
from shmq.errors import ProtocolError
from shmq.kernels.frames import split
from shmq.layout.counters import SEGMENT_SIZE, Counter
from shmq.shm.counters import CounterRow, totals
from shmq.units import KiB, MiB
from shmq.wire.header import Header, answer, decode_header, encode_frame
from shmq.workers import clientdoor
from shmq.workers.clientconn import COPY_SIZE_MAX, ClientConnection
from shmq.workers.clientdoor import (
    ACCEPT_PAUSE_MS,
    OUTPUT_SIZE_HIGH,
    READ_SIZE,
    SCAN_INTERVAL_MS,
    WRITE_STALL_MAX_MS,
    ClientDoor,
)
from tests.unit.serve.broker import DEADLINE_S, START_MS, Client, listening
from tests.unit.serve.frames import opaques

FRAME_SIZE_MAX = 4 * MiB


class Echo:
    """Answers each frame with its body, `repeat` times over."""

    def __init__(self) -> None:
        self.door: ClientDoor | None = None
        self.repeat = 1
        self.blocks = False
        """Whether frames wait, as sends do for room in the ring."""
        self.forgotten: list[int] = []
        self.taken: list[int] = []

    def take(self, connection: ClientConnection, buffer: bytearray, end: int) -> int:
        """See clientdoor.Owner."""
        assert self.door is not None
        connection.unfinished = False
        connection.blocked_ms = 0
        at = 0
        for start, size in split(buffer, 0, end, FRAME_SIZE_MAX).tolist():
            if self.blocks:
                connection.blocked_ms = START_MS
                break
            header_end = start + 8 + int.from_bytes(buffer[start + 5 : start + 8], "big")
            header = decode_header(bytes(buffer[start + 8 : header_end]), buffer[start + 4])
            self.taken.append(header.opaque)
            body = bytes(buffer[header_end : start + size])
            connection.put(answer(header, 0), body * self.repeat)
            at = start + size
            if connection.output_size >= OUTPUT_SIZE_HIGH:
                connection.unfinished = True
                break
        connection.needed = 0
        self.door.write(connection)
        return at

    def forget(self, connection: ClientConnection) -> None:
        """See clientdoor.Owner."""
        self.forgotten.append(connection.number)


class World:
    """A door, its owner and clients on the other end of socketpairs."""

    def __init__(self, **more: Any) -> None:
        self.owner = Echo()
        self.counters = memoryview(bytearray(SEGMENT_SIZE))
        self.door = ClientDoor(
            settings=Settings(**more), owner=self.owner, counters=CounterRow(self.counters, 0)
        )
        self.owner.door = self.door
        self.now_ms = START_MS
        self._socks: list[socket.socket] = []

    def count(self, counter: Counter) -> int:
        """A counter's value."""
        return totals(self.counters)[counter]

    def client(self, *, buffer_size: int = 0) -> Client:
        """A connection, with kernel buffers of about this size."""
        ours, theirs = socket.socketpair()
        self._socks += [ours, theirs]
        if buffer_size:
            for sock in (ours, theirs):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_size)
        self.door._add(ours, self.now_ms)
        return Client(theirs)

    def connection(self) -> ClientConnection:
        """The newest one."""
        return list(self.door.connections.values())[-1]

    def until(self, true: Callable[[], object]) -> None:
        """Step until it is true."""
        end = time.monotonic() + DEADLINE_S
        while not true():
            self.door.step(self.now_ms)
            assert time.monotonic() < end, "it did not become true"

    def settle(self) -> None:
        """Step until nothing is ready."""
        self.until(lambda: self.door.step(self.now_ms) == 0)

    def close(self) -> None:
        """Close all."""
        self.door.close()
        for sock in self._socks:
            sock.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(**more: Any) -> World:
        worlds.append(World(**more))
        return worlds[-1]

    yield make
    for one in worlds:
        one.close()


def frame(body: bytes = b"", opaque: int = 0) -> bytes:
    return encode_frame(Header(1, opaque), body)


# Frames

SENT_AT_ONCE = 32 * 1024
"""Less than a socket takes while nobody reads."""


@settings(max_examples=40)
@given(
    st.lists(st.binary(max_size=300) | st.just(b"b" * 40_000), min_size=1, max_size=6),
    st.lists(st.integers(1, 5000), min_size=1, max_size=40),
    st.integers(0, 400),
)
def test_frames_survive_any_split(bodies: list[bytes], cuts: list[int], tail: int) -> None:
    world = World()
    try:
        client = world.client()
        stream = b"".join(frame(body, number) for number, body in enumerate(bodies))
        part = frame(b"never whole" * 50)[:tail]
        at = 0
        for size in itertools.chain(cuts, itertools.repeat(SENT_AT_ONCE)):
            client.sock.sendall(stream[at : at + size])
            at += size
            world.settle()
            if at >= len(stream):
                break
        client.sock.sendall(part)
        world.until(lambda: len(client.look()) == len(bodies))
        world.settle()
        got = client.take()
        assert opaques(got) == list(range(len(bodies)))
        assert [one.body for one in got] == bodies
        assert bytes(world.connection().pending) == part
        assert world.door._input_size == len(part)
        assert world.count(Counter.BYTES_IN) == len(stream) + len(part)
        client.sock.close()
        world.settle()
        assert (world.door._input_size, world.owner.forgotten) == (0, [1])
    finally:
        world.close()


@pytest.mark.parametrize("size", [READ_SIZE - 1, READ_SIZE, READ_SIZE + 1, 3 * READ_SIZE + 7])
def test_frame_longer_than_one_read(world: World, size: int) -> None:
    client = world.client()
    body = bytes(range(256)) * (size // 256 + 1)
    whole = frame(body[: size - len(frame())])
    assert len(whole) == size
    client.send(whole + frame(b"next", 1))
    world.until(lambda: len(client.look()) == 2)
    got = client.take()
    assert got[0].body == body[: size - len(frame())]
    assert got[1].body == b"next"
    assert world.door._input_size == 0


@pytest.mark.parametrize(
    "size", [0, 1, COPY_SIZE_MAX - 1, COPY_SIZE_MAX, COPY_SIZE_MAX + 1, 3 * MiB]
)
@pytest.mark.parametrize("buffer_size", [4 * KiB, MiB])
def test_answers_of_any_size(world: World, size: int, buffer_size: int) -> None:
    """Above the kernel's buffer the rest waits for EPOLLOUT."""
    client = world.client(buffer_size=buffer_size)
    body = bytes(number % 251 for number in range(size))
    client.send(frame(body, 3))
    world.until(client.look)
    (got,) = client.take()
    assert (got.header.opaque, got.body) == (3, body)
    connection = world.connection()
    assert (connection.output_size, len(connection.output)) == (0, 0)
    assert connection.events == select.EPOLLIN


def test_more_answers_than_one_writev_takes(world: World) -> None:
    client = world.client(buffer_size=4 * KiB)
    count = 1000
    client.send(b"".join(frame(b"x" * 100, number) for number in range(count)))
    world.until(lambda: len(client.look()) == count)
    assert opaques(client.take()) == list(range(count))


def test_frames_left_because_of_output_are_served(world: World) -> None:
    """The kernel takes all output at once: nothing but the frames themselves asks for a turn."""
    client = world.client(buffer_size=8 * MiB)
    world.owner.repeat = 400
    client.send(b"".join(frame(b"y" * 1000, number) for number in range(20)))
    world.until(lambda: len(client.look()) == 20)
    assert opaques(client.take()) == list(range(20))
    world.settle()
    assert world.connection().events == select.EPOLLIN


def test_frames_left_are_not_served_while_answers_are_not_read(world: World) -> None:
    client = world.client(buffer_size=4 * KiB)
    world.owner.repeat = 400
    client.send(b"".join(frame(b"y" * 1000, number) for number in range(20)))
    world.settle()
    assert world.owner.taken == [0, 1, 2]
    assert world.connection().events == select.EPOLLOUT
    client.sock.recv(KiB)
    world.settle()
    assert world.owner.taken == [0, 1, 2]


# Limits


def test_output_limit(make_world: Callable[..., World]) -> None:
    world = make_world(connection_buffer_max=128 * KiB)
    client = world.client(buffer_size=4 * KiB)
    world.owner.repeat = 150
    client.send(frame(b"z" * KiB))
    world.until(lambda: world.owner.forgotten == [1])
    client.look()
    assert client.closed
    assert world.count(Counter.DROPPED) == 1


@pytest.mark.parametrize(("over", "dropped"), [(-1, 0), (0, 0), (1, 1)])
def test_output_limit_exactly(make_world: Callable[..., World], over: int, dropped: int) -> None:
    world = make_world(connection_buffer_max=128 * KiB)
    world.client(buffer_size=4 * KiB)
    connection = world.connection()
    connection.append(bytes(10 * KiB))
    assert connection.write()  # The kernel is full now.
    connection.append(bytes(128 * KiB + over - connection.output_size))
    world.door.write(connection)
    assert world.count(Counter.DROPPED) == dropped


@pytest.mark.parametrize(("over", "dropped"), [(0, 0), (1, 1)])
def test_input_limit(
    world: World, monkeypatch: pytest.MonkeyPatch, over: int, dropped: int
) -> None:
    """Of all clients together; whoever sends on is closed, the others stay."""
    monkeypatch.setattr(clientdoor, "INPUT_SIZE_MAX", 1000)
    clients = [world.client() for _ in range(2)]
    whole = frame(b"i" * 2000)
    clients[0].send(whole[:600])
    world.settle()
    clients[1].send(whole[: 400 + over])
    world.settle()
    assert world.count(Counter.DROPPED) == dropped
    for client in clients:
        client.look()
    assert [client.closed for client in clients] == [False, bool(dropped)]
    clients[0].send(frame(b"i" * 2000)[600:])
    world.until(clients[0].look)
    assert world.door._input_size == (0 if dropped else 400)


def test_accept_limit(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world(connections_max=2)
    listener = listening(socket.AF_UNIX, str(tmp_path / "s"))
    world._socks.append(listener)
    world.door.open([listener])
    clients = [Client(socket.socket(socket.AF_UNIX)) for _ in range(3)]
    world._socks += [client.sock for client in clients]
    for client in clients:
        client.sock.connect(str(tmp_path / "s"))
    world.until(lambda: clients[2].look() or clients[2].closed)
    for client in clients[:2]:
        client.send(frame(b"served"))
    world.until(lambda: clients[0].look() and clients[1].look())
    clients[0].sock.close()
    world.until(lambda: len(world.door.connections) == 1)
    again = Client(socket.socket(socket.AF_UNIX))
    world._socks.append(again.sock)
    again.sock.connect(str(tmp_path / "s"))
    again.send(frame(b"room again"))
    world.until(again.look)
    assert world.count(Counter.ACCEPTED) == 3
    assert world.count(Counter.CONNECTIONS) == 2


class FullListener(socket.socket):
    """A listener of a process that has no file descriptor left."""

    is_full = True

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket."""
        if self.is_full:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_no_file_descriptor_left(world: World, tmp_path: Path) -> None:
    """Accepting pauses for a second, so that the broker does not spin; it goes on by itself."""
    listener = FullListener(socket.AF_UNIX)
    world._socks.append(listener)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    world.door.open([listener])
    client = Client(socket.socket(socket.AF_UNIX))
    world._socks.append(client.sock)
    client.sock.connect(str(tmp_path / "s"))
    client.send(frame(b"late"))
    world.until(lambda: not world.door._accepting)
    world.now_ms += ACCEPT_PAUSE_MS - 1
    world.settle()
    assert not world.door._accepting
    listener.is_full = False
    world.now_ms += SCAN_INTERVAL_MS
    world.until(client.look)


# Ends


@pytest.mark.parametrize(("silent_ms", "closed"), [(1999, False), (2000, True)])
def test_idle(make_world: Callable[..., World], silent_ms: int, *, closed: bool) -> None:
    world = make_world(server_channel_max_idle_time_seconds=2)
    client = world.client()
    world.settle()
    world.now_ms += silent_ms
    world.door._scan(world.now_ms)
    client.look()
    assert client.closed == closed
    assert world.count(Counter.DROPPED) == closed


def test_a_byte_is_a_sign_of_life(make_world: Callable[..., World]) -> None:
    world = make_world(server_channel_max_idle_time_seconds=2)
    client = world.client()
    for byte in frame(b"slow"):
        world.now_ms += 1500
        client.send(bytes((byte,)))
        world.settle()
    world.until(client.look)
    assert not client.closed


def test_a_blocked_connection_is_not_idle(make_world: Callable[..., World]) -> None:
    world = make_world(server_channel_max_idle_time_seconds=2)
    client = world.client()
    world.owner.blocks = True
    client.send(frame(b"waits"))
    world.settle()
    world.now_ms += 5000
    world.settle()
    client.look()
    assert not client.closed
    assert world.connection().events == 0
    world.owner.blocks = False
    world.door.resume(world.connection())
    world.until(client.look)


@pytest.mark.parametrize(("stalled_ms", "closed"), [(-1, False), (0, True)])
def test_answers_that_are_not_read(world: World, stalled_ms: int, *, closed: bool) -> None:
    client = world.client(buffer_size=4 * KiB)
    world.owner.repeat = 300
    client.send(frame(b"z" * KiB))
    world.until(lambda: world.owner.taken)
    world.settle()
    world.door._scan(world.now_ms + WRITE_STALL_MAX_MS + stalled_ms)
    assert (not world.door.connections) == closed


def test_half_closed_connection_is_closed(world: World) -> None:
    """As netty does it: what was sent before counts, answers that were not given yet do not."""
    client, other = world.client(), world.client()
    client.send(frame(b"last"))
    client.sock.shutdown(socket.SHUT_WR)
    world.until(lambda: world.owner.forgotten == [1])
    assert world.owner.taken == [0]
    client.look()
    assert client.closed
    other.send(frame(b"here"))
    world.until(other.look)


def test_half_closed_within_a_frame(world: World) -> None:
    client = world.client()
    client.send(frame(b"cut off")[:-1])
    client.sock.shutdown(socket.SHUT_WR)
    world.until(lambda: world.owner.forgotten == [1])
    assert world.owner.taken == []
    assert world.door._input_size == 0


def test_owner_may_refuse(world: World) -> None:
    """A frame above the limit: the length alone says so, nothing is kept of it."""
    client = world.client()
    client.send((FRAME_SIZE_MAX + 1).to_bytes(4, "big") + bytes(4))
    with pytest.raises(ProtocolError):
        world.until(lambda: client.closed)


def test_stop(world: World) -> None:
    """Nothing more is read; what was to be written still is."""
    client = world.client(buffer_size=4 * KiB)
    world.owner.repeat = 300
    client.send(frame(b"z" * KiB))
    world.until(lambda: world.owner.taken)
    world.door.stop()
    client.send(frame(b"too late", 1))
    assert world.door.output_waits
    world.until(lambda: client.look() and not world.door.output_waits)
    world.settle()
    assert opaques(client.take()) == [0]
    assert world.owner.taken == [0]


def test_close_when_all_was_written(world: World) -> None:
    client = world.client(buffer_size=4 * KiB)
    world.owner.repeat = 300
    connection = world.connection()
    client.send(frame(b"z" * KiB))
    world.until(lambda: world.owner.taken)
    connection.closing = True
    world.until(lambda: client.look() and client.closed)
    assert client.take()[0].body == b"z" * 300 * KiB


def test_old_event_is_not_for_a_new_connection_of_its_number(world: World, tmp_path: Path) -> None:
    """One turn: a connection is dropped, its number is given to a new one, its HUP is next."""
    listener = listening(socket.AF_UNIX, str(tmp_path / "s"))
    world._socks.append(listener)
    world.door.open([listener])
    world.client()
    fd = world.connection().fd
    world.door.poll(0)
    late = Client(socket.socket(socket.AF_UNIX))
    world._socks.append(late.sock)
    late.sock.connect(str(tmp_path / "s"))
    world.door.drop(world.connection(), None)
    world.door._ready = [(listener.fileno(), select.EPOLLIN), (fd, select.EPOLLHUP)]
    world.door.step(world.now_ms)
    assert world.connection().fd == fd
    late.send(frame(b"is served"))
    world.until(late.look)


def test_others_are_watched(world: World) -> None:
    ours, theirs = socket.socketpair()
    world._socks += [ours, theirs]
    seen: list[int] = []
    world.door.watch(ours.fileno(), seen.append)
    theirs.send(b"x")
    world.door.step(world.now_ms)
    assert seen == [select.EPOLLIN]
    world.door.watch(ours.fileno(), seen.append, select.EPOLLOUT)
    world.door.step(world.now_ms)
    assert seen == [select.EPOLLIN, select.EPOLLOUT]
    world.door.unwatch(ours.fileno())
    world.door.unwatch(ours.fileno())
    assert world.door.step(world.now_ms) == 0
    assert len(seen) == 2

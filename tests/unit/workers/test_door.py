"""Doors with little traffic: slow, half-closed, flooding and hostile peers harm nobody else."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmq.errors import RequestRefused
from shmq.units import KiB, MiB
from shmq.wire.frame import FrameDecoder
from shmq.wire.header import BINARY, FLAG_ONEWAY, FLAG_RESPONSE, Header, answer, encode_frame
from shmq.workers.door import CLOSE_MAX_MS, FRAMES_PER_STEP, Connection, FrameServer, Limits
from shmq.workers.listeners import Place, listen_tcp

ECHO, REFUSE, FAIL, SILENT, LARGE = 1, 2, 3, 4, 5
STEPS_MAX = 3000


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep a line."""
        self.lines.append((event, fields))

    warning = error = exception = info

    def reasons(self) -> list[str]:
        """Why connections were closed."""
        return [fields["reason"] for event, fields in self.lines if "reason" in fields]


def handle(header: Header, body: bytes, connection: Connection) -> tuple[Header, bytes] | None:
    if header.code == REFUSE:
        raise RequestRefused(17, "no such thing", found="名")
    if header.code == FAIL:
        raise RuntimeError("a fault of ours \ud800")
    if header.code == SILENT:
        return None
    return answer(header, 0), bytes(300 * KiB) if header.code == LARGE else body


class Room:
    """A server on a loopback port, stepped by the test; its clock is the test's."""

    def __init__(self, **limits: int) -> None:
        self.log = Log()
        self.now_ms = 0
        self.closed: list[int] = []
        self.listeners = listen_tcp(
            Place(socket.AF_INET, "127.0.0.1", 0), 1, setting="x", backlog=64
        )
        self.address = self.listeners[0].getsockname()
        self.server = FrameServer(
            listeners=self.listeners,
            handler=handle,
            log=self.log,
            limits=Limits(**limits),
            on_close=lambda connection: self.closed.append(connection.number),
        )
        self.peers: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """A peer that was taken in."""
        count = len(self.server.connections) + len(self.closed)
        peer = socket.create_connection(self.address, timeout=5)
        self.peers.append(peer)
        peer.setblocking(False)
        self.until(lambda: len(self.server.connections) + len(self.closed) > count)
        return peer

    def until(self, done: Callable[[], bool]) -> None:
        """Step the server until `done()`."""
        for _ in range(STEPS_MAX):
            if done():
                return
            self.server.step(self.now_ms)
            self.server.wait(5)
        raise AssertionError("it never happened", self.log.lines)

    def read(self, peer: socket.socket, count: int) -> list[Header]:
        """So many answers."""
        decoder, found = FrameDecoder(), []

        def take() -> bool:
            try:
                decoder.feed(peer.recv(1 << 16))
            except BlockingIOError:
                return False
            while (frame := decoder.next_frame()) is not None:
                found.append(frame.header)
            return len(found) >= count

        self.until(take)
        return found

    def is_closed(self, peer: socket.socket) -> bool:
        """Whether the server has closed its side."""
        try:
            while peer.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        return True

    def close(self) -> None:
        """Close all sockets."""
        self.server.close()
        for sock in (*self.listeners, *self.peers):
            sock.close()


@pytest.fixture
def make_room() -> Iterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def make(**limits: int) -> Room:
        rooms.append(Room(**limits))
        return rooms[-1]

    yield make
    for room in rooms:
        room.close()


@pytest.fixture
def room(make_room: Callable[..., Room]) -> Room:
    return make_room()


def ask(code: int, opaque: int = 1, body: bytes = b"", *, flag: int = 0) -> bytes:
    return encode_frame(Header(code, opaque, flag), body)


def test_answers(room: Room) -> None:
    peer = room.connect()
    peer.send(ask(ECHO, 1) + ask(REFUSE, 2) + ask(FAIL, 3) + ask(SILENT, 4) + ask(ECHO, 5))
    found = room.read(peer, 4)
    assert [(one.opaque, one.code) for one in found] == [(1, 0), (2, 17), (3, 1), (5, 0)]
    assert found[1].remark == "no such thing: found=名"
    assert "a fault of ours" in str(found[2].remark)
    assert [event for event, _ in room.log.lines] == ["request.failed"]


def test_oneway_requests_and_answers_are_not_answered(room: Room) -> None:
    peer = room.connect()
    for code in (ECHO, REFUSE, FAIL):
        peer.send(ask(code, flag=FLAG_ONEWAY) + ask(code, flag=FLAG_RESPONSE))
    peer.send(ask(ECHO, 99))
    assert [one.opaque for one in room.read(peer, 1)] == [99]


def test_answers_come_in_the_serialization_of_the_request(room: Room) -> None:
    peer = room.connect()
    peer.send(encode_frame(Header(ECHO, 7), b"", BINARY))
    data = b""

    def take() -> bool:
        nonlocal data
        try:
            data += peer.recv(100)
        except BlockingIOError:
            return False
        return len(data) > 8

    room.until(take)
    assert data[4] == BINARY


def test_a_request_that_comes_byte_by_byte(room: Room) -> None:
    peer, other = room.connect(), room.connect()
    for byte in ask(ECHO, 3):
        peer.send(bytes([byte]))
        other.send(ask(ECHO, 4))
        assert room.read(other, 1)[0].opaque == 4, "others do not wait for it"
    assert room.read(peer, 1)[0].opaque == 3


def test_a_peer_that_closes_its_side_gets_its_answers(room: Room) -> None:
    peer = room.connect()
    peer.send(b"".join(ask(ECHO, opaque) for opaque in range(2 * FRAMES_PER_STEP)))
    peer.shutdown(socket.SHUT_WR)
    assert len(room.read(peer, 2 * FRAMES_PER_STEP)) == 2 * FRAMES_PER_STEP
    room.until(lambda: room.closed == [1])


def test_a_peer_that_resets_is_forgotten(room: Room) -> None:
    peer = room.connect()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    room.until(lambda: room.closed == [1])
    assert room.server.connections == []


def test_a_peer_that_does_not_read_is_not_read_from(make_room: Callable[..., Room]) -> None:
    """Its output is bounded by the limit and one answer, and others are served."""
    room = make_room(output_size_high=1 * MiB)
    flood, other = room.connect(), room.connect()
    sender = threading.Thread(target=flood_with, args=(flood, ask(LARGE) * 500), daemon=True)
    sender.start()
    for number in range(200):
        other.send(ask(ECHO, number))
        room.read(other, 1)
        for connection in room.server.connections:
            assert connection.output_size <= 1 * MiB + 301 * KiB
    flood.setblocking(True)
    room.now_ms += 40_000
    room.until(lambda: len(room.server.connections) == 1)
    assert "it does not read" in room.log.reasons()
    flood.close()
    sender.join(10)
    assert not sender.is_alive()


def flood_with(peer: socket.socket, data: bytes) -> None:
    peer.setblocking(True)
    try:
        peer.sendall(data)
    except OSError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff" + bytes(100),
        struct.pack(">iI", 32 * MiB, 10),
        struct.pack(">iI", 10, 20),
        struct.pack(">iI", 8, 9 << 24 | 4) + b"{}  ",
        struct.pack(">iI", 6, 2) + b"[]",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(64),
    ],
)
def test_broken_frames_close_only_their_connection(room: Room, data: bytes) -> None:
    peer, other = room.connect(), room.connect()
    peer.send(ask(ECHO) + data)
    room.until(lambda: room.closed == [1])
    assert "connection.broke_protocol" in [event for event, _ in room.log.lines]
    other.send(ask(ECHO, 8))
    assert room.read(other, 1)[0].opaque == 8


def test_too_many_connections_are_closed_at_once(make_room: Callable[..., Room]) -> None:
    room = make_room(connections_max=2)
    first, second = room.connect(), room.connect()
    third = socket.create_connection(room.address, timeout=5)
    room.peers.append(third)
    third.setblocking(False)
    room.until(lambda: room.is_closed(third))
    assert [event for event, _ in room.log.lines] == ["connections.limit_reached"]
    first.close()
    room.until(lambda: room.closed == [1])
    fourth = room.connect()
    fourth.send(ask(ECHO, 4))
    assert room.read(fourth, 1)[0].opaque == 4
    second.send(ask(ECHO, 2))
    assert room.read(second, 1)[0].opaque == 2


def test_unfinished_frames_of_all_peers_are_bounded(make_room: Callable[..., Room]) -> None:
    room = make_room(input_size_max=1 * MiB)
    peers = [room.connect() for _ in range(4)]
    head = struct.pack(">iI", 8 * MiB, 10)
    for peer in peers:
        peer.setblocking(True)
        threading.Thread(
            target=flood_with, args=(peer, head + bytes(400 * KiB)), daemon=True
        ).start()
    room.until(lambda: len(room.closed) >= 1)
    assert any("too much memory" in reason for reason in room.log.reasons())
    assert sum(one.decoder.buffered_size for one in room.server.connections) <= 1 * MiB


def test_silent_connections_are_closed(make_room: Callable[..., Room]) -> None:
    room = make_room(idle_max_ms=10_000)
    quiet, busy = room.connect(), room.connect()
    room.now_ms = 9_000
    busy.send(ask(ECHO))
    room.read(busy, 1)
    room.now_ms = 10_500
    room.until(lambda: room.closed == [1])
    assert room.log.reasons() == ["idle"]
    room.until(lambda: room.is_closed(quiet))


def test_frames_of_our_own(room: Room) -> None:
    peer = room.connect()
    (connection,) = room.server.connections
    assert room.server.send(connection.number, Header(40, ext={"a": "b"}))
    assert room.read(peer, 1)[0].ext == {"a": "b"}
    assert not room.server.send(99, Header(40))
    room.server.close_connection(connection.number, "enough")
    room.until(lambda: room.is_closed(peer))
    assert not room.server.send(connection.number, Header(40))


def test_a_frame_to_an_address(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        host, port = listener.getsockname()
        assert room.server.send_to(host, port, Header(40)) > 0
        peer, _ = listener.accept()
        room.peers.append(peer)
        peer.setblocking(False)
        assert room.read(peer, 1)[0].code == 40
        room.until(lambda: len(room.closed) == 1)
    for host in ("localhost", "1.2.3"):
        with pytest.raises(OSError, match="illegal IP address"):
            room.server.send_to(host, 5, Header(40))
    assert room.server.send_to(host="127.0.0.1", port=port, header=Header(40)) > 0
    room.until(lambda: len(room.closed) == 2)


def test_a_peer_that_never_takes_its_last_answer(make_room: Callable[..., Room]) -> None:
    room = make_room(output_size_high=32 * MiB, output_size_max=64 * MiB)
    peer = room.connect()
    peer.send(ask(LARGE) * 30)
    peer.shutdown(socket.SHUT_WR)
    room.until(lambda: any(one.closing for one in room.server.connections))
    room.now_ms += CLOSE_MAX_MS + 1001
    room.until(lambda: room.closed == [1])
    assert room.log.reasons() == ["it did not take what was left"]


def test_draining_finishes_what_was_asked_and_takes_in_nobody(room: Room) -> None:
    peer = room.connect()
    count = 3 * FRAMES_PER_STEP
    peer.send(b"".join(ask(ECHO, opaque) for opaque in range(count)))
    room.until(lambda: room.server._unfinished != {})
    late = socket.create_connection(room.address, timeout=5)
    room.peers.append(late)
    room.until(lambda: room.server.drain(room.now_ms))
    assert len(room.read(peer, count)) == count
    assert len(room.server.connections) == 1


def test_bells_wake_it(room: Room) -> None:
    reading, writing = socket.socketpair()
    with reading, writing:
        room.server.watch(reading.fileno())
        writing.send(b"x")
        room.server.wait(60_000)
        assert room.server.step(0) == 0

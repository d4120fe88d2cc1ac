"""One connection, against a server of the test's that answers, keeps silent, or leaves."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmq.client.address import Endpoint
from shmq.client.connection import OUTPUT_SIZE_HIGH, Connection
from shmq.client.flow import Waiter
from shmq.client.pool import Pool
from shmq.client.timers import Timers
from shmq.errors import Closed, NotConnected, Timeout
from shmq.units import MiB
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.header import FLAG_ONEWAY, Header, answer, encode_frame

Answerer = Callable[[socket.socket, Frame], None]


def echo(peer: socket.socket, frame: Frame) -> None:
    """Answer with the body that came."""
    if not frame.header.is_oneway:
        peer.sendall(encode_frame(answer(frame.header, 0), frame.body))


class Server:
    """Gives each frame to `answerer`, one connection after the other."""

    def __init__(self, answerer: Answerer = echo) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(30)
        self.endpoint = Endpoint("127.0.0.1", self._socket.getsockname()[1])
        self.answerer = answerer
        self.peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self.peer, _ = self._socket.accept()
            except OSError:
                return
            with self.peer as peer:
                decoder = FrameDecoder()
                try:
                    while data := peer.recv(65536):
                        decoder.feed(data)
                        while (frame := decoder.next_frame()) is not None:
                            self.answerer(peer, frame)
                except OSError:
                    pass  # The client or the test has ended the connection.

    def close(self) -> None:
        """End it."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self.peer is not None:
            with contextlib.suppress(OSError):  # It has ended already.
                self.peer.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)


class Client:
    """A pool of connections and what it was told."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.requests: list[Frame] = []
        self.asked = threading.Event()
        self.pool = Pool(self.timers, on_open=lambda _: None, on_request=self._requested)

    def _requested(self, _connection: Connection, frame: Frame) -> None:
        self.requests.append(frame)
        self.asked.set()

    def begin(self, endpoint: Endpoint, body: bytes = b"", timeout: float = 30.0) -> Waiter[Frame]:
        """Ask for an echo."""
        waiter: Waiter[Frame] = Waiter()
        self.pool.get(endpoint).begin(1, {}, body, timeout=timeout, done=waiter)
        return waiter

    def ask(self, endpoint: Endpoint, body: bytes = b"", timeout: float = 30.0) -> bytes:
        """An echo."""
        return self.begin(endpoint, body, timeout).result(30).body


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.pool.close()
    made.timers.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_requests_and_answers(client: Client, server: Server) -> None:
    waiters = [client.begin(server.endpoint, b"%d" % number) for number in range(200)]
    assert [waiter.result(30).body for waiter in waiters] == [b"%d" % n for n in range(200)]


def test_large_frames_both_ways(client: Client, server: Server) -> None:
    """More than socket buffers hold, from several threads: no frame is cut or mixed."""
    bodies = [bytes([65 + number]) * (3 * MiB + number) for number in range(6)]
    waiters: list[Waiter[Frame]] = []

    def send(body: bytes) -> None:
        waiters.append(client.begin(server.endpoint, body))

    threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(waiter.result(30).body for waiter in waiters) == sorted(bodies)


def test_answers_in_another_order(client: Client, server: Server) -> None:
    kept: list[Frame] = []

    def backwards(peer: socket.socket, frame: Frame) -> None:
        kept.append(frame)
        if len(kept) == 10:
            for one in reversed(kept):
                echo(peer, one)

    server.answerer = backwards
    waiters = [client.begin(server.endpoint, b"%d" % number) for number in range(10)]
    assert [waiter.result(30).body for waiter in waiters] == [b"%d" % n for n in range(10)]


def test_no_answer(client: Client, server: Server) -> None:
    """Each call has its own time; a late answer goes to nobody."""
    held: list[tuple[socket.socket, Frame]] = []
    server.answerer = lambda peer, frame: held.append((peer, frame))
    long = client.begin(server.endpoint, b"long", timeout=30.0)
    begin = time.monotonic()
    for timeout in (0.2, 0.1):
        with pytest.raises(Timeout) as caught:
            client.ask(server.endpoint, b"short", timeout=timeout)
        assert str(server.endpoint) in str(caught.value)
    assert 0.3 <= time.monotonic() - begin < 15
    for peer, frame in held:
        echo(peer, frame)
    assert long.result(30).body == b"long"


def test_a_peer_that_leaves(client: Client, server: Server) -> None:
    """What waits fails, and the next call opens another connection."""

    def leave(peer: socket.socket, frame: Frame) -> None:
        if frame.body == b"leave":
            peer.shutdown(socket.SHUT_RDWR)
        elif frame.body != b"hold":
            echo(peer, frame)

    server.answerer = leave
    held = client.begin(server.endpoint, b"hold")
    with pytest.raises(NotConnected, match="connection lost"):
        client.ask(server.endpoint, b"leave")
    with pytest.raises(NotConnected):
        held.result(30)
    for _ in range(100):
        try:
            assert client.ask(server.endpoint, b"back") == b"back"
        except NotConnected:  # Too soon after the failure.
            threading.Event().wait(0.02)
        else:
            return
    raise AssertionError("no new connection")


def test_nobody_listens(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = Endpoint("127.0.0.1", closed.getsockname()[1])
    for _ in range(3):
        with pytest.raises(NotConnected, match="Connection refused") as caught:
            client.ask(endpoint)
        assert str(endpoint) in str(caught.value)
    assert not client.pool.ever_open


def test_oneway(client: Client, server: Server) -> None:
    got: list[Frame] = []
    came = threading.Event()

    def take(_peer: socket.socket, frame: Frame) -> None:
        got.append(frame)
        came.set()

    server.answerer = take
    assert client.pool.get(server.endpoint).tell(15, {"a": "b"})
    assert came.wait(30)
    assert got[0].header.flag == FLAG_ONEWAY
    assert got[0].header.ext == {"a": "b"}


def test_requests_of_the_peer(client: Client, server: Server) -> None:
    def tell_first(peer: socket.socket, frame: Frame) -> None:
        if not frame.header.is_response:
            peer.sendall(encode_frame(Header(40, 5, FLAG_ONEWAY, ext={"consumerGroup": "G"})))
            echo(peer, frame)

    server.answerer = tell_first
    client.ask(server.endpoint)
    assert client.asked.wait(30)
    assert client.requests[0].header.code == 40
    assert client.requests[0].header.ext == {"consumerGroup": "G"}


def test_a_peer_that_does_not_read(client: Client, server: Server) -> None:
    """What it does not take, nor the buffers between, is kept, and who may wait does."""
    reading = threading.Event()

    def slow(peer: socket.socket, frame: Frame) -> None:
        reading.wait(30)
        echo(peer, frame)

    server.answerer = slow
    connection = client.pool.get(server.endpoint)
    body = b"x" * MiB
    waiters = [client.begin(server.endpoint, body) for _ in range(OUTPUT_SIZE_HIGH // MiB + 40)]
    assert connection.is_full
    begin = time.monotonic()
    connection.await_room(0.1)
    assert time.monotonic() - begin >= 0.1
    reading.set()
    connection.await_room(30)
    full: bool = connection.is_full
    assert not full
    assert all(waiter.result(30).body == body for waiter in waiters)


def test_closing(client: Client, server: Server) -> None:
    server.answerer = lambda _peer, _frame: None
    waiting = client.begin(server.endpoint)
    client.pool.close()
    with pytest.raises(Closed):
        waiting.result(30)
    with pytest.raises(Closed):
        client.ask(server.endpoint)


def test_a_flow_that_is_cancelled_forgets_its_call(client: Client, server: Server) -> None:
    from shmq.client.flow import Flow  # noqa: PLC0415  beside its only use

    server.answerer = lambda _peer, _frame: None
    outcomes: list[Any] = []

    async def work() -> None:
        await client.pool.get(server.endpoint).ask(1, timeout=30.0)

    flow = Flow(work(), outcomes.append)
    flow.start()
    flow.cancel()
    assert len(outcomes) == 1
    server.answerer = echo
    assert client.ask(server.endpoint, b"x") == b"x"

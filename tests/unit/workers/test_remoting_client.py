"""The small blocking client: deadlines, stale connections, answers that are none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shmq.errors import ProtocolError, Unavailable
from shmq.wire.frame import FrameDecoder
from shmq.wire.header import FLAG_ONEWAY, Header, answer, encode_frame
from shmq.workers.remoting_client import RemotingClient, parse_address

Serve = Callable[[socket.socket], None]


class Peer:
    """A listener; each connection is served by the next function of a list, in a thread."""

    def __init__(self, *serves: Serve) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.seen: list[Header] = []
        self._serves = list(serves)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for serve in self._serves:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(10)
                serve(sock)

    def close(self) -> None:
        """Take no more."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(15)


@pytest.fixture
def make_peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(*serves: Serve) -> Peer:
        peers.append(Peer(*serves))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


def requests(sock: socket.socket) -> Iterator[Header]:
    decoder = FrameDecoder()
    while data := sock.recv(1 << 16):
        decoder.feed(data)
        while (frame := decoder.next_frame()) is not None:
            yield frame.header


def echo(count: int) -> Serve:
    """Answer so many requests, then close."""

    def serve(sock: socket.socket) -> None:
        left = count
        for header in requests(sock):
            if header.flag & FLAG_ONEWAY:
                continue
            sock.sendall(encode_frame(answer(header, 0, ext=header.ext)))
            left -= 1
            if left == 0:
                return

    return serve


def test_calls_share_a_connection(make_peer: Callable[..., Peer]) -> None:
    client = RemotingClient(make_peer(echo(3)).address)
    client.send_oneway(7)
    for number in range(3):
        frame = client.call(5, {"n": str(number)})
        assert frame.header.ext == {"n": str(number)}
    assert client.local_host == "127.0.0.1"
    client.close()


def test_a_closed_connection_is_opened_anew_once(make_peer: Callable[..., Peer]) -> None:
    client = RemotingClient(make_peer(echo(1), echo(1), lambda _: None, lambda _: None).address)
    client.call(5)
    assert client.call(5).header.code == 0
    with pytest.raises(Unavailable):
        client.call(5)
    client.close()


def test_other_frames_are_passed_over(make_peer: Callable[..., Peer]) -> None:
    def serve(sock: socket.socket) -> None:
        for header in requests(sock):
            sock.sendall(encode_frame(Header(40)))
            sock.sendall(encode_frame(answer(Header(5, header.opaque + 1), 9)))
            sock.sendall(encode_frame(answer(header, 3)))

    client = RemotingClient(make_peer(serve).address)
    assert client.call(5).header.code == 3
    client.close()


def test_a_silent_peer_is_waited_for_no_longer_than_said(make_peer: Callable[..., Peer]) -> None:
    client = RemotingClient(make_peer(lambda sock: list(requests(sock)) and None).address)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="no answer in time"):
        client.call(5, timeout_ms=200)
    assert 0.15 < time.monotonic() - start < 5
    with pytest.raises(Unavailable, match="timed out"):
        client.call(5, timeout_ms=0)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    client = RemotingClient(address)
    with pytest.raises(Unavailable, match="refused") as raised:
        client.call(5)
    assert raised.value.facts["address"] == address
    with pytest.raises(Unavailable):
        client.send_oneway(5)


def test_what_is_no_frame_is_refused(make_peer: Callable[..., Peer]) -> None:
    client = RemotingClient(make_peer(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad")).address)
    with pytest.raises(ProtocolError):
        client.call(5)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a:1", ("a", 1)),
        ("[::1]:65535", ("::1", 65535)),
        (" 10.0.0.1:9876 ", ("10.0.0.1", 9876)),
        ("::1:5", ("::1", 5)),
    ],
)
def test_addresses(text: str, wanted: tuple[str, int]) -> None:
    assert parse_address(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "a", ":1", "a:", "a:0", "a:65536", "a:x", "a:-1", "a:1" + "0" * 50]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_address(text)

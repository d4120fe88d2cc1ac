"""A small blocking client of the remoting protocol: one address, one socket, one call at a time.

For roles and commands that may wait: the register role's threads, `shmq status`. The connection is
opened by the first call and kept; a call that finds it closed by the peer opens it anew, once.
Everything waits until the call's deadline and no longer, but for looking up a host name, which the
system does in its own time.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Final

from shmq.errors import ProtocolError, Unavailable
from shmq.units import SECOND_MS
from shmq.wire.frame import FRAME_SIZE_MAX, Frame, FrameDecoder
from shmq.wire.header import FLAG_ONEWAY, Header, encode_frame

CONNECT_MAX_MS: Final = 3 * SECOND_MS
CALL_MAX_MS: Final = 3 * SECOND_MS
RECEIVE_SIZE: Final = 64 * 1024
PORT_MAX: Final = 65535
OPAQUE_MAX: Final = 2**31 - 1


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6 host]:port".

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = address.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f"address must be host:port, found {address!r}")
    if not 0 < int(port[:6]) <= PORT_MAX:
        raise ValueError(f"port must be 1 to {PORT_MAX}, found {port[:20]}")
    return host, int(port)


class _Stale(Exception):
    """The kept connection had been closed by the peer before it took the request."""


class RemotingClient:
    """Calls one server. Not for several threads at once."""

    def __init__(
        self,
        address: str,
        *,
        connect_max_ms: int = CONNECT_MAX_MS,
        frame_size_max: int = FRAME_SIZE_MAX,
    ) -> None:
        self.address = address
        self._host, self._port = parse_address(address)
        self._connect_max_ms = connect_max_ms
        self._frame_size_max = frame_size_max
        self._socket: socket.socket | None = None
        self._decoder = FrameDecoder(frame_size_max=frame_size_max)
        self._opaque = 0
        self.local_host = ""
        """Our own address on the connection; empty before the first."""

    def call(
        self,
        code: int,
        ext: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout_ms: int = CALL_MAX_MS,
    ) -> Frame:
        """The answer to one request, whatever its code is.

        Raises:
            Unavailable: no connection, or no answer in time; the next call connects anew.
            ProtocolError: what came is no answer in this protocol.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        header = self._request(code, ext, flag=0)
        kept = self._socket is not None
        try:
            return self._exchange(header, body, deadline)
        except _Stale as error:
            self.close()
            if not kept:
                raise self._unavailable(str(error)) from None
        try:
            return self._exchange(header, body, deadline)
        except _Stale as error:
            self.close()
            raise self._unavailable(str(error)) from None

    def send_oneway(
        self,
        code: int,
        ext: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout_ms: int = CALL_MAX_MS,
    ) -> None:
        """Send a request that is not answered.

        Raises:
            Unavailable: no connection, or it took nothing in time.
        """
        deadline = time.monotonic() + timeout_ms / 1000
        header = self._request(code, ext, flag=FLAG_ONEWAY)
        try:
            self._send(encode_frame(header, body), deadline)
        except _Stale as error:
            self.close()
            raise self._unavailable(str(error)) from None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._decoder = FrameDecoder(frame_size_max=self._frame_size_max)

    def _request(self, code: int, ext: dict[str, str] | None, *, flag: int) -> Header:
        self._opaque = self._opaque + 1 if self._opaque < OPAQUE_MAX else 0
        return Header(code=code, opaque=self._opaque, flag=flag, ext=ext or {})

    def _exchange(self, header: Header, body: bytes, deadline: float) -> Frame:
        self._send(encode_frame(header, body), deadline)
        while True:
            try:
                frame = self._decoder.next_frame()
            except ProtocolError:
                self.close()
                raise
            if frame is None:
                self._receive(deadline)
            elif frame.header.is_response and frame.header.opaque == header.opaque:
                return frame
            # Everything else is a request of the server, or the answer to a call given up.

    def _connect(self, deadline: float) -> socket.socket:
        left = min(deadline - time.monotonic(), self._connect_max_ms / 1000)
        if left <= 0:
            raise self._unavailable("timed out")
        try:
            sock = socket.create_connection((self._host, self._port), timeout=left)
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local_host = sock.getsockname()[0]
        return sock

    def _send(self, data: bytes, deadline: float) -> None:
        if self._socket is not None and self._peer_closed(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect(deadline)
        self._socket.settimeout(self._left(deadline))
        try:
            self._socket.sendall(data)
        except TimeoutError:
            self.close()
            raise self._unavailable("timed out while sending") from None
        except OSError as error:
            raise _Stale(error.strerror or "closed") from None

    def _receive(self, deadline: float) -> None:
        assert self._socket is not None, "only after _send"
        self._socket.settimeout(self._left(deadline))
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except TimeoutError:
            self.close()
            raise self._unavailable("no answer in time") from None
        except OSError as error:
            raise _Stale(error.strerror or "closed") from None
        if not data:
            raise _Stale("the peer closed the connection without an answer")
        self._decoder.feed(data)

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            self.close()
            raise self._unavailable("timed out")
        return left

    @staticmethod
    def _peer_closed(sock: socket.socket) -> bool:
        """Whether the peer has closed a connection on which nothing is awaited."""
        poller = select.poll()
        poller.register(sock, select.POLLIN | select.POLLRDHUP)
        return any(
            events & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)
            for _, events in poller.poll(0)
        )

    def _unavailable(self, cause: str) -> Unavailable:
        return Unavailable("server does not answer", address=self.address, cause=cause)

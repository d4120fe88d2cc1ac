"""One client's connection of a serve process: its bytes in and out, bounded, and what it is.

Nothing here waits. Input that is not yet a whole frame stays in `pending`; output that the peer
does not take stays in `output`, and a peer that lets too much of it pile up is closed.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Final

from shmq.wire.header import JSON, Header, encode_frame, encode_header
from shmq.wire.messageid import host_bytes

if TYPE_CHECKING:
    from shmq.broker.resetwatch import Told
    from shmq.wire.internal import Ask

IOVECS_MAX: Final = 64
LOCAL_HOST: Final = bytes((127, 0, 0, 1))
V4_MAPPED: Final = bytes(10) + b"\xff\xff"
COPY_SIZE_MAX: Final = 16 * 1024
"""Bodies up to this size are copied behind their header; larger ones are sent as they are."""


class ClientConnection:
    """A peer, and what this process remembers of it."""

    __slots__ = (
        "active_ms",
        "asked",
        "blocked_ms",
        "born_host",
        "born_port",
        "closing",
        "events",
        "fd",
        "gone",
        "has_ring",
        "heartbeat",
        "held",
        "needed",
        "number",
        "output",
        "output_size",
        "peer",
        "pending",
        "serialization",
        "sock",
        "told",
        "unfinished",
    )

    def __init__(self, sock: socket.socket, *, number: int, now_ms: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.number = number
        """Never used twice in one process."""
        self.peer, self.born_host, self.born_port = _peer_of(sock)
        self.has_ring = False
        """Whether it is the tie of a native client, whose work is not seen on the socket."""
        self.pending = bytearray()
        """Input from the start of the first frame that was not taken yet."""
        self.needed = 0
        """Size of that frame, as soon as it is known."""
        self.unfinished = False
        """Whether whole frames may be left in `pending` because there was too much output."""
        self.output: deque[memoryview] = deque()
        self.output_size = 0
        self.active_ms = now_ms
        """Last time that bytes went in or out."""
        self.blocked_ms = 0
        """Since when its input waits for room in the ring; 0: it does not."""
        self.events = 0
        self.serialization = JSON
        self.held: set[int] = set()
        """Numbers of its pulls that wait for a message."""
        self.asked = False
        """Whether the coordinator knows of it."""
        self.heartbeat: Ask | None = None
        """Its last whole heartbeat, for a coordinator that was started anew."""
        self.told: Told = {}
        """Resets of offsets that it has heard of."""
        self.closing = False
        """Whether it is to be closed when all output has left."""
        self.gone = False

    def put(
        self, header: Header, body: bytes | bytearray = b"", serialization: int | None = None
    ) -> None:
        """Append a frame to the output; the owner writes it."""
        if serialization is None:
            serialization = self.serialization
        if len(body) <= COPY_SIZE_MAX:
            self.append(encode_frame(header, bytes(body), serialization))
            return
        head = encode_header(header, serialization)
        self.append(
            b"%b%b%b"
            % (
                (4 + len(head) + len(body)).to_bytes(4, "big"),
                (serialization << 24 | len(head)).to_bytes(4, "big"),
                head,
            )
        )
        self.append(body)

    def append(self, data: bytes | bytearray) -> None:
        """Append bytes to the output."""
        self.output.append(memoryview(data))
        self.output_size += len(data)

    def write(self) -> bool:
        """Write what the peer takes now; False when the connection is broken."""
        output = self.output
        while output:
            if len(output) == 1:
                pieces = [output[0]]
            else:
                pieces = [output[at] for at in range(min(len(output), IOVECS_MAX))]
            try:
                sent = self.sock.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False
            self.output_size -= sent
            while sent:
                first = output[0]
                if sent < len(first):
                    output[0] = first[sent:]
                    break
                sent -= len(first)
                output.popleft()
        return True


def _peer_of(sock: socket.socket) -> tuple[str, bytes, int]:
    """Peer as text, and its address and port as records hold them."""
    if sock.family == socket.AF_UNIX:
        return "127.0.0.1:0", LOCAL_HOST, 0
    try:
        host, port = sock.getpeername()[:2]
    except OSError:  # It is gone already; the first read will tell.
        return "0.0.0.0:0", bytes(4), 0
    packed = host_bytes(host)
    if packed.startswith(V4_MAPPED):
        packed = packed[len(V4_MAPPED) :]
        host = ".".join(map(str, packed))
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"), packed, port

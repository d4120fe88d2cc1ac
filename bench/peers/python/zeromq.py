"""ZeroMQ: a PUSH socket that connects and a PULL socket that binds."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq  # type: ignore[import-not-found, unused-ignore]

from bench.peers.python.agent import Body, Options, main

WAIT_MS = 100
BATCH_MAX = 256
COPY_SIZE_MAX = 32768


class Sender:
    """One message a call; the library lays them together."""

    def __init__(self, options: Options) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.connect(options.address)
        self._copy = options.size <= COPY_SIZE_MAX

    def send_pool(self, bodies: list[bytes]) -> None:
        """A batch."""
        send, copy = self._socket.send, self._copy
        for body in bodies:
            send(body, copy=copy)

    def send_one(self, body: bytes) -> None:
        """One message."""
        self._socket.send(body, copy=self._copy)

    def flush(self) -> None:
        """Nothing to wait for: no side acknowledges."""

    def close(self) -> None:
        """Send what is queued, then close."""
        self._socket.close(linger=-1)
        self._context.term()


class Receiver:
    """What has come, after waiting for the first."""

    def __init__(self, options: Options) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        self._socket.bind(options.address)
        self._copy = options.size <= COPY_SIZE_MAX
        self._spin = options.spin

    def receive(self) -> Sequence[Body]:
        """Up to BATCH_MAX messages."""
        receive = self._socket.recv if self._copy else self._frame
        bodies: list[Body] = []
        end = time.monotonic() + WAIT_MS / 1000
        while len(bodies) < BATCH_MAX:
            try:
                flags = zmq.NOBLOCK if bodies or self._spin else 0
                bodies.append(receive(flags))
            except zmq.Again:
                if bodies or time.monotonic() > end:
                    break
        return bodies

    def _frame(self, flags: int) -> memoryview:
        frame: memoryview = self._socket.recv(flags, copy=False).buffer
        return frame

    def close(self) -> None:
        """Close, nothing is awaited."""
        self._context.destroy(linger=0)


if __name__ == "__main__":
    main(Sender, Receiver)

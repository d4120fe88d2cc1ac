"""A blocking peer of a broker or name server: asks and reads frames, each with a deadline."""

from __future__ import annotations

import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from shmq.wire.codes import RequestCode
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.header import FLAG_ONEWAY, JSON, Header, encode_frame
from tests.compat import processes

Address: TypeAlias = tuple[str, int] | Path
"""Host and port, or the path of a Unix socket."""
Fields: TypeAlias = Mapping[str, object]

PATIENCE: Final = float(os.environ.get("CRASH_PATIENCE", "1"))
"""Factor on every time limit, for machines that do much else meanwhile."""
ANSWER_TIMEOUT_S: Final = 10.0 * PATIENCE
RECEIVE_SIZE: Final = 256 * 1024
DEFAULT_TOPIC: Final = "TBW102"


def eventually(what: str, condition: Callable[[], bool], *, timeout_s: float) -> None:
    """Ask `condition` until it is true; for what no event tells."""
    processes.eventually(what, condition, timeout_s=timeout_s * PATIENCE)


def connect(address: Address, *, timeout_s: float = ANSWER_TIMEOUT_S) -> socket.socket:
    """A connected socket."""
    if isinstance(address, Path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(address))
        except OSError:
            sock.close()
            raise
        return sock
    sock = socket.create_connection(address, timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request_frame(
    code: int,
    ext: Fields | None = None,
    body: bytes = b"",
    *,
    opaque: int = 0,
    oneway: bool = False,
    serialization: int = JSON,
) -> bytes:
    """Bytes of a request as a Java client sends it."""
    header = Header(
        code,
        opaque,
        FLAG_ONEWAY if oneway else 0,
        language="JAVA",
        ext={key: _text(value) for key, value in (ext or {}).items()},
    )
    return encode_frame(header, body, serialization)


def send_fields(topic: str, queue_id: int, *, group: str = "crash-producer") -> dict[str, object]:
    """Header fields of SEND_MESSAGE_V2."""
    return {
        "a": group,
        "b": topic,
        "c": DEFAULT_TOPIC,
        "d": 4,
        "e": queue_id,
        "f": 0,
        "g": time.time_ns() // 1_000_000,
        "h": 0,
        "i": "",
        "j": 0,
        "k": False,
        "m": False,
    }


def pull_fields(
    topic: str, queue_id: int, offset: int, *, group: str, hold_ms: int = 0, count: int = 32
) -> dict[str, object]:
    """Header fields of PULL_MESSAGE, with its subscription along; it waits `hold_ms` at most."""
    return {
        "consumerGroup": group,
        "topic": topic,
        "queueId": queue_id,
        "queueOffset": offset,
        "maxMsgNums": count,
        "sysFlag": 1 | 4 | (2 if hold_ms else 0),  # commit, subscription, suspend
        "commitOffset": offset,
        "suspendTimeoutMillis": hold_ms,
        "subVersion": 0,
        "subscription": "*",
        "expressionType": "TAG",
    }


class Peer:
    """One connection; one request at a time, or several by hand."""

    def __init__(self, address: Address, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.sock = connect(address, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._decoder = FrameDecoder(frame_size_max=64 * 1024 * 1024)
        self._opaques = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def send(
        self,
        code: int,
        ext: Fields | None = None,
        body: bytes = b"",
        *,
        oneway: bool = False,
        serialization: int = JSON,
    ) -> int:
        """Send a request; its opaque."""
        opaque = next(self._opaques)
        frame = request_frame(
            code, ext, body, opaque=opaque, oneway=oneway, serialization=serialization
        )
        self.sock.sendall(frame)
        return opaque

    def receive(self, *, timeout_s: float | None = None) -> Frame | None:
        """The next frame, None when none came in time.

        Raises:
            ConnectionError: the broker closed the connection.
        """
        end = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while (frame := self._decoder.next_frame()) is None:
            left_s = end - time.monotonic()
            if not select.select([self.sock], [], [], max(left_s, 0))[0]:
                return None
            data = self.sock.recv(RECEIVE_SIZE)
            if not data:
                raise ConnectionError(f"closed, {self._decoder.buffered_size} bytes of a frame")
            self._decoder.feed(data)
        return frame

    def ask(
        self,
        code: int,
        ext: Fields | None = None,
        body: bytes = b"",
        *,
        serialization: int = JSON,
    ) -> Frame:
        """Send a request and give its answer; what comes unasked in between is left out."""
        opaque = self.send(code, ext, body, serialization=serialization)
        end = time.monotonic() + self._timeout_s
        while True:
            frame = self.receive(timeout_s=end - time.monotonic())
            if frame is None:
                raise TimeoutError(f"request {code} was not answered in {self._timeout_s} s")
            if frame.header.is_response and frame.header.opaque == opaque:
                return frame

    def ask_ok(self, code: int, ext: Fields | None = None, body: bytes = b"") -> Frame:
        """The same, and the answer's code must be 0."""
        frame = self.ask(code, ext, body)
        assert frame.header.code == 0, (code, ext, frame.header)
        return frame

    def create_topic(self, topic: str, queue_count: int) -> None:
        """Have a topic made, and wait until every serve process may know it."""
        self.ask_ok(
            RequestCode.UPDATE_AND_CREATE_TOPIC,
            {
                "topic": topic,
                "defaultTopic": DEFAULT_TOPIC,
                "readQueueNums": queue_count,
                "writeQueueNums": queue_count,
                "perm": 6,
                "topicFilterType": "SINGLE_TAG",
                "topicSysFlag": 0,
                "order": False,
            },
        )

    def max_offset(self, topic: str, queue_id: int) -> int:
        """End of a queue."""
        ext = {"topic": topic, "queueId": queue_id}
        return int(self.ask_ok(RequestCode.GET_MAX_OFFSET, ext).header.ext["offset"])


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

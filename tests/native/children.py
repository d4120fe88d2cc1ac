"""Native clients in processes of their own, to be killed, stopped, or to behave badly."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shmq.client.nativesession import NativeSession
from shmq.errors import ShmqError
from tests.native.engine import NativeEngine

COUNT: Final = 64
READY_TIMEOUT_S: Final = 20.0
ROOT: Final = Path(__file__).parents[2]


class Child:
    """One client process."""

    def __init__(self, work: str, socket_path: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.native.children", work, str(socket_path), *arguments],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.pid = self._process.pid

    def await_ready(self) -> None:
        """Wait until it is at work."""
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        end = time.monotonic() + READY_TIMEOUT_S
        while not self._process.stdout.read(1):
            assert self._process.poll() is None, f"it ended with {self._process.returncode}"
            assert time.monotonic() < end, "it does not begin"
            time.sleep(0.005)

    def send(self, how: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, how)

    def wait(self, timeout_s: float) -> int:
        """Its exit status."""
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """Kill it, if it still lives."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


def produce(path: str, topic: str) -> None:
    """Send without end, waiting for results now and then."""
    engine = NativeEngine(NativeSession(path))
    spec = engine.spec(topic, 0, tags="child")
    chance = random.Random(os.getpid())  # noqa: S311  load, no secret
    tell()
    while True:
        sizes = [chance.randrange(1, 2000) for _ in range(COUNT)]
        ends = array("q", sizes)
        starts = array("q", [0] * COUNT)
        ticket = engine.put_many(spec, bytes(2000), starts, sizes, ends)
        for _ in range(chance.randrange(8)):
            engine.put(spec, b"one")
        if chance.random() < 0.2:
            ticket.result(30)


def scribble(path: str, topic: str, seconds: str) -> None:
    """Write noise into all that can be mapped, ring all bells, ask for nonsense."""
    chance = random.Random(7)  # noqa: S311  load, no secret
    end = time.monotonic() + float(seconds)
    told = False
    while time.monotonic() < end:
        try:
            session = NativeSession(path)
            session.topic(topic)
        except (ShmqError, OSError):
            time.sleep(0.01)
            continue
        for part in (session._control, session.pool, *session._queue_views):
            assert part.readonly
        for fd in session._fds[4:]:
            with contextlib.suppress(PermissionError):
                mmap.mmap(fd, 4096, prot=mmap.PROT_WRITE)
                os._exit(3)
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                os._exit(4)
            with contextlib.suppress(OSError):
                os.pwrite(fd, b"x" * 4096, 0)
                os._exit(5)
        with contextlib.suppress(OSError):
            os.ftruncate(session._fds[0], 0)
            os._exit(6)
        if not told:
            told = True
            tell()
        _scribble(session, chance, min(end, time.monotonic() + chance.random() * 2))
        session.close()
    os._exit(0)


def _scribble(session: NativeSession, chance: random.Random, end: float) -> None:
    memory, ring = session._own, session.ring
    submitted = 0
    while time.monotonic() < end:
        kind = chance.randrange(5)
        if kind == 0:  # anywhere
            size = chance.randrange(1, 4096)
            at = chance.randrange(len(memory) - size)
            memory[at : at + size] = chance.randbytes(size)
        elif kind == 1:  # entries that look better than they are
            for _ in range(16):
                place = chance.randrange(ring.entry_count) * 64
                entry = array(
                    "i", [chance.choice((0, 1, -1, 91, 4096, 2**31 - 1)) for _ in range(8)]
                )
                ring.entries[place : place + 32] = entry.tobytes()
        elif kind == 2:  # heads
            at = chance.randrange(0, 8192, 8)
            memory[at : at + 8] = chance.randbytes(8)
        else:
            submitted += chance.randrange(ring.entry_count)
            ring.submitted._cell[0] = submitted if kind == 3 else chance.randrange(-(2**63), 2**63)
        with contextlib.suppress(OSError):
            for bell in session._ends:
                bell.setblocking(bool(chance.randrange(2)))
                bell.send(b"x" * 64, 0x40)  # MSG_DONTWAIT


def hold(path: str, topic: str) -> None:
    """Open, submit one message, and do nothing more."""
    engine = NativeEngine(NativeSession(path))
    engine.put(engine.spec(topic, 0), b"held").result(30)
    tell()
    signal.pause()


def tell() -> None:
    """Say that the work has begun."""
    os.write(1, b".")


if __name__ == "__main__":
    works: dict[str, Callable[..., None]] = {
        "produce": produce,
        "scribble": scribble,
        "hold": hold,
    }
    works[sys.argv[1]](*sys.argv[2:])

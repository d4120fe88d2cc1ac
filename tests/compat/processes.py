"""Processes that the interop tests start, and the ports that they get."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

# Below the range from which the kernel takes the ports of outgoing connections.
PORTS: Final = range(20_000, 32_000)
POLL_S: Final = 0.05


def eventually(what: str, condition: Callable[[], bool], *, timeout_s: float = 30.0) -> float:
    """Ask `condition` until it is true; the seconds that it took.

    For what no event tells. Fails with `what` when the time is over.
    """
    begin = time.monotonic()
    pause = threading.Event()
    while not condition():
        if time.monotonic() - begin > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        pause.wait(POLL_S)
    return time.monotonic() - begin


def free_port(host: str = "127.0.0.1", *, beside: tuple[int, ...] = (0,)) -> int:
    """A port p of `host` with p + d free for each d of `beside`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    starts = random.sample(PORTS, 200)
    for port in starts:
        with contextlib.ExitStack() as stack:
            try:
                for distance in beside:
                    probe = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                    probe.bind((host, port + distance))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port among {len(starts)} tries in {PORTS}")


class Process:
    """One started program: its output lines, and an end by its own pid.

    Its error output goes to a file, which is named in each failure. If this process dies, the
    kernel sends the program `orphan_signal`.
    """

    def __init__(
        self,
        argv: list[str],
        *,
        folder: Path,
        name: str,
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
        orphan_signal: str = "KILL",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.errors = folder / f"{name}.err"
        self._news = threading.Condition()
        self._lines: list[str] = []
        self._over = False
        self._on_line = on_line or self._keep
        with self.errors.open("ab") as errors:
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", orphan_signal, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env={**os.environ, **(environ or {})},
            )
        self.pid = self._popen.pid
        self._reader = threading.Thread(target=self._read, name=f"read-{name}", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return f"{self.name} (pid {self.pid}, errors in {self.errors})"

    def write(self, data: bytes) -> None:
        """Write to the program's input."""
        _opened(self._popen.stdin).write(data)
        _opened(self._popen.stdin).flush()

    def await_line(self, wanted: Callable[[str], bool], *, timeout_s: float = 60.0) -> str:
        """The first output line that is `wanted`."""
        with self._news:
            self._news.wait_for(lambda: self._over or any(map(wanted, self._lines)), timeout_s)
            for line in self._lines:
                if wanted(line):
                    return line
            said = "".join(self._lines[-20:])
        raise AssertionError(f"{self!r} ended or was silent; it said:\n{said}\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of the error output, for a failure's message."""
        return "\n".join(self.errors.read_text(errors="replace").splitlines()[-40:])

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def end_input(self) -> None:
        """Close its input, which is how a driver is asked to end."""
        with contextlib.suppress(BrokenPipeError):
            _opened(self._popen.stdin).close()

    def stop(self, *, how: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send it the signal `how` and wait for its end; its exit status, -n for signal n."""
        if self.running:
            self._popen.send_signal(how)
        return self.wait(timeout_s=timeout_s)

    def kill(self) -> int:
        """End it with SIGKILL, as a crash would."""
        return self.stop(how=signal.SIGKILL)

    def wait(self, *, timeout_s: float = 30.0) -> int:
        """Wait for its end; past `timeout_s` it is killed and the test fails."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(timeout_s)
            raise AssertionError(f"{self!r} did not end within {timeout_s} s") from None
        finally:
            self.end_input()
            self._reader.join(timeout_s)
            _opened(self._popen.stdout).close()

    def _read(self) -> None:
        for line in _opened(self._popen.stdout):
            self._on_line(line.decode(errors="replace"))
        with self._news:
            self._over = True
            self._news.notify_all()

    def _keep(self, line: str) -> None:
        with self._news:
            self._lines.append(line)
            self._news.notify_all()


def _opened(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def numbered(prefix: str) -> Iterator[str]:
    """Names that nobody else has: prefix-1, prefix-2 and so on."""
    return (f"{prefix}-{number}" for number in itertools.count(1))

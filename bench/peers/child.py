"""Child processes of a run: servers and agents, each ended by its pid, whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bench.host.brokers import end_tree, tree_of

STOP_TIMEOUT_S = 20.0
LINES_MAX = 400
POLL_S = 0.01
TIMER_SLACK_NS = 1000
_PR_SET_TIMERSLACK = 29
_ERROR = re.compile(r"exception|error|panicked|failed", re.IGNORECASE)


class PeerError(Exception):
    """A peer did not do what it must; the cell that it happened in has no figure."""


def sleep_exactly() -> None:
    """Let sleeps of this thread and of the processes it starts end within 1 us, not 50."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0)


def wait_until(what: str, done: Callable[[], bool], timeout_s: float) -> None:
    """Ask again and again, with a deadline: the other side offers nothing to wait on."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            msg = f"{what}: not within {timeout_s:.0f} s"
            raise PeerError(msg)
        time.sleep(POLL_S)


class Child:
    """A process in a session of its own, whose lines are kept; it dies when the harness does."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        folder: Path,
        env: dict[str, str] | None = None,
        orphan_signal: str = "KILL",
    ) -> None:
        self.name = name
        self._news = threading.Condition()
        self._lines: list[str] = []
        self._ended = False
        self._child = subprocess.Popen(
            ["setpriv", "--pdeathsig", orphan_signal, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(os.environ) | (env or {}),
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pid = self._child.pid
        self._reader = threading.Thread(target=self._read, name=f"{name}-lines", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            with self._news:
                self._lines.append(line.rstrip("\n"))
                del self._lines[:-LINES_MAX]
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_line(self, what: str, wanted: Callable[[str], bool], timeout_s: float) -> str:
        """The first line that fits; an error with the last lines when it ends or time is up."""

        def found() -> str | None:
            return next((line for line in self._lines if wanted(line)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._ended, timeout_s)
            line = found()
            if line is not None:
                return line
            why = "it ended" if self._ended else f"not within {timeout_s:.0f} s"
            raise PeerError(f"{self.name}: no {what}: {why}: {self.tail()}")

    def tail(self) -> str:
        """What it said last: errors by name first, without stack traces."""
        lines = [line.strip() for line in self._lines if line.strip()]
        lines = [line for line in lines if not line.startswith(("at ", '{"event"'))]
        named = [line for line in lines if _ERROR.search(line)]
        return " | ".join((named or lines)[-3:])[-500:]

    def say(self, line: str) -> None:
        """One line on its standard input."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()

    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.poll() is None

    def check(self) -> None:
        """An error when it has ended."""
        if not self.alive():
            raise PeerError(f"{self.name}: ended with {self._child.returncode}: {self.tail()}")

    def tree(self) -> list[psutil.Process]:
        """It and everything below it that is alive."""
        return tree_of(self.pid)

    def finish(self, timeout_s: float) -> int:
        """Wait for its own end; returns the exit status."""
        try:
            status = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"{self.name}: did not end within {timeout_s:.0f} s") from error
        self._reader.join(timeout_s)
        return status

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, a deadline, then SIGKILL to each process of the tree by its pid."""
        end_tree(self._child, timeout_s, stragglers_s=1.0)
        self._reader.join(10.0)
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Agent:
    """One role of a process that speaks the agents' protocol (see python/agent.py).

    `who` is empty where the process has one role, else the role's name: the process then puts it
    in its events and takes it in front of each word.
    """

    def __init__(self, child: Child, who: str = "") -> None:
        self.child = child
        self._who = who

    def wait(self, what: str, timeout_s: float, event: str = "") -> dict[str, Any]:
        """The facts of an event; `what` says in an error what did not come, by itself the event."""
        event = event or what
        start = f'{{"event": "{event}"'

        def wanted(line: str) -> bool:
            return line.startswith(start) and (not self._who or f'"{self._who}"' in line)

        facts: dict[str, Any] = json.loads(self.child.wait_line(what, wanted, timeout_s))
        return facts

    def say(self, word: str) -> None:
        """`go` or `exit`."""
        self.child.say(f"{self._who} {word}".strip())

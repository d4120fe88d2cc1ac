"""Roles that do nothing but what a file tells them to: `<role>.<order>` in the store folder."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

from shmq.config import Settings
from shmq.errors import ConfigError
from shmq.workers.context import Context

HANG_S = 60


class TinyRole:
    """Notes what happens to it in the file `events`, a line each."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._note("made")
        if self._ordered("slow"):
            time.sleep(HANG_S)
        if self._ordered("refuse"):
            raise ConfigError("this role is of no use", role=name)

    def step(self, now_ms: int) -> int:
        """Do as ordered."""
        if self._ordered("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._ordered("fail"):
            raise RuntimeError("as ordered")
        if self._ordered("end"):
            os._exit(0)
        if self._ordered("hang"):
            time.sleep(HANG_S)
        if self._ordered("wrong"):
            raise ConfigError("cannot go on", role=self._name)
        return 0

    def wait(self, timeout_ms: int) -> None:
        """Sleep, but not long: orders come without a bell."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        if poller.poll(min(timeout_ms, 10)):
            os.eventfd_read(self._wake_fd)

    def wake(self) -> None:
        """End the present wait()."""
        os.eventfd_write(self._wake_fd, 1)

    def drain(self, now_ms: int) -> bool:
        """Nothing is left, unless ordered."""
        if self._ordered("die-draining"):
            os.kill(os.getpid(), signal.SIGKILL)
        if (self._folder / f"{self._name}.never").exists():
            return False
        self._note("drained")
        return True

    def close(self) -> None:
        """Note it."""
        self._note("closed")

    def reload(self, settings: Settings) -> None:
        """Note it."""
        self._note(f"reloaded {settings.broker_name}")

    def _ordered(self, order: str) -> bool:
        """Take an order: it is carried out once, or always when the file is not empty."""
        path = self._folder / f"{self._name}.{order}"
        try:
            if path.read_bytes() == b"":
                path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _note(self, what: str) -> None:
        with (self._folder / "events").open("a") as file:
            file.write(f"{self._name} {what}\n")


def make_first(context: Context, index: int) -> TinyRole:
    """A role of the first rank."""
    return TinyRole("first", context.store_dir)


def make_second(context: Context, index: int) -> TinyRole:
    """A role of the second rank, of which there are two."""
    return TinyRole(f"second{index}", context.store_dir)

"""Doorbells: "look, something changed". They wake, they never guard.

A role that is going to sleep says so in its SLEEPING word, looks once more for work, and waits with
a timeout. Others ring only while the word says that it sleeps. A lost ring costs at most the
timeout, never a hang. Semaphores for roles that wait for nothing else; eventfds for roles that wait
on sockets too. Both are made by the supervisor before it forks, so a restarted role has the same
bell, and their names are gone at once, so nothing can be left behind.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import Protocol

import posix_ipc

from shmq.kernels.fence import fence
from shmq.shm.segment import segment_name
from shmq.shm.words import OwnedCell


class Doorbell(Protocol):
    """What ringers and the sleeper know of a bell."""

    def ring(self) -> None:
        """Wake the sleeper if it said that it sleeps."""

    def force(self) -> None:
        """Wake the sleeper whatever it said."""

    def arm(self) -> None:
        """Say that this role is going to sleep; look for work once more after it."""

    def disarm(self) -> None:
        """Say that this role is awake, and forget the rings so far."""

    def hush(self) -> None:
        """Say that this role is awake; what rang so far still rings."""

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until rung (True) or until the time is over (False)."""

    def fileno(self) -> int:
        """What epoll can wait for, or -1."""

    def close(self) -> None:
        """Give its descriptor or mapping back, of this process only."""


class SemaphoreBell:
    """A bell on an unnamed-after-creation POSIX semaphore."""

    def __init__(self, instance: str, role: str, sleeping: OwnedCell) -> None:
        name = segment_name(instance, f"bell-{role}-{os.getpid()}")
        # A process that had this id may have been killed between making and unlinking.
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_semaphore(name)
        self._semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600)
        self._semaphore.unlink()
        self._sleeping = sleeping

    def ring(self) -> None:
        """Wake the sleeper if it said that it sleeps."""
        fence()  # SYNC POINT: what is rung for is seen before the word is read; pairs with arm().
        if self._sleeping.load():
            self._semaphore.release()

    def force(self) -> None:
        """Wake the sleeper whatever it said."""
        self._semaphore.release()

    def arm(self) -> None:
        """Say that this role is going to sleep; look for work once more after it."""
        self._sleeping.publish(1)
        fence()  # SYNC POINT: the word is seen before work is looked for; pairs with ring().

    def hush(self) -> None:
        """Say that this role is awake; what rang so far still rings."""
        self._sleeping.publish(0)

    def disarm(self) -> None:
        """Say that this role is awake, and forget the rings so far."""
        self._sleeping.publish(0)
        while True:
            try:
                self._semaphore.acquire(0)
            except posix_ipc.BusyError:
                return

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until rung (True), or until the time is over or a signal came (False)."""
        try:
            self._semaphore.acquire(timeout_ms / 1000)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        return True

    def close(self) -> None:
        """Give the semaphore back, of this process only."""
        self._semaphore.close()

    def fileno(self) -> int:
        """A semaphore cannot be waited for with epoll."""
        return -1


class EventBell:
    """A bell on an eventfd, for roles that wait on sockets too."""

    def __init__(self, sleeping: OwnedCell) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._sleeping = sleeping

    def ring(self) -> None:
        """Wake the sleeper if it said that it sleeps."""
        fence()  # SYNC POINT: as in SemaphoreBell.ring().
        if self._sleeping.load():
            self.force()

    def force(self) -> None:
        """Wake the sleeper whatever it said."""
        try:
            os.eventfd_write(self._fd, 1)
        except BlockingIOError:  # The counter is full: it will wake anyway.
            return

    def arm(self) -> None:
        """Say that this role is going to sleep; look for work once more after it."""
        self._sleeping.publish(1)
        fence()  # SYNC POINT: the word is seen before work is looked for; pairs with ring().

    def hush(self) -> None:
        """Say that this role is awake; what rang so far still rings."""
        self._sleeping.publish(0)

    def disarm(self) -> None:
        """Say that this role is awake, and forget the rings so far."""
        self._sleeping.publish(0)
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until rung (True) or until the time is over (False)."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return bool(poller.poll(timeout_ms))

    def fileno(self) -> int:
        """The eventfd; readable while it was rung."""
        return self._fd

    def close(self) -> None:
        """Give the eventfd back, of this process only."""
        os.close(self._fd)

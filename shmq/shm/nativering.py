"""Rings of native clients: sealed memory without a name, made by serve, mapped by all who use it.

    serve makes it, and three bells         memfd, sealed against resizing; eventfds
    the client gets all of them             over its Unix socket (SCM_RIGHTS)
    writer and dispatch get all of them     over a socket pair that the supervisor made (links.py)

What the client may write is its ring and nothing else, so whatever it writes there harms only
itself: writer and dispatch take numbers from it once, and check them before they use them.

    bell   rung by   when                            sleeping word
    work   client    the writer sleeps               SLEEPING of the writer (control segment)
    done   writer    the client waits for answers    DONE_SLEEPING in the ring
    news   dispatch  the client waits for messages   NEWS_SLEEPING in the ring
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

from shmq.errors import LayoutError
from shmq.layout import ring as layout
from shmq.shm.ring import Ring
from shmq.shm.words import Cell, OwnedCell

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class NativeRing:
    """One ring with its bells, as one process has it mapped."""

    def __init__(self, fds: list[int], *, index: int, epoch: int) -> None:
        """Takes the four descriptors over: memory, work, done, news.

        Raises:
            LayoutError: the memory may change its size, or is no ring.
        """
        self.fds = fds
        self.index = index
        self.epoch = epoch
        memory, self.work_fd, self.done_fd, self.news_fd = fds
        if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise LayoutError("the memory of a native ring is not sealed", index=index)
        self._mapping = mmap.mmap(memory, os.fstat(memory).st_size)
        view = memoryview(self._mapping)
        self.ring = Ring(view)
        # The client may have written anything there: it is no reason to stop.
        self.ring.completed = OwnedCell(view, layout.COMPLETED_AT, free=True)
        self._done_sleeping = Cell(view, layout.DONE_SLEEPING_AT)
        self._news_sleeping = Cell(view, layout.NEWS_SLEEPING_AT)

    @classmethod
    def create(cls, *, index: int, epoch: int, entry_count: int, data_size: int) -> NativeRing:
        """A new ring and its bells."""
        fds: list[int] = []
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            fds.append(os.memfd_create(f"shmq-native-{index}", flags))
            size = layout.segment_size(entry_count, data_size)
            os.ftruncate(fds[0], size)
            fcntl.fcntl(fds[0], fcntl.F_ADD_SEALS, SEALS)
            with mmap.mmap(fds[0], size) as mapping, memoryview(mapping) as view:
                Ring.format(view, entry_count=entry_count, data_size=data_size)
            fds += [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3)]
            return cls(fds, index=index, epoch=epoch)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def ring_done(self) -> None:
        """Tell the client that submissions were completed, if it waits for that."""
        if self._done_sleeping.load():
            _ring(self.done_fd)

    def ring_news(self) -> None:
        """Tell the client that queues have grown, if it waits for that."""
        if self._news_sleeping.load():
            _ring(self.news_fd)

    @property
    def waits_for_news(self) -> bool:
        """Whether the client waits for messages."""
        return bool(self._news_sleeping.load())

    def close(self) -> None:
        """Give the descriptors back; the mapping goes with the last view of it."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def _ring(fd: int) -> None:
    try:
        os.eventfd_write(fd, 1)
    except BlockingIOError:  # Its counter is full: it is rung already.
        return

"""Rings of native clients: sealed memory without a name, made by serve, mapped by all who use it.

    serve makes it, and three bells         memfd, sealed against resizing; socket pairs
    the client gets its ends of them        over its Unix socket (SCM_RIGHTS)
    writer and dispatch get the others      over a socket pair that the supervisor made (links.py)

What the client may write is its ring and nothing else, so whatever it writes there harms only
itself: writer and dispatch take numbers from it once, and check them before they use them.

    bell   rung by   when                            sleeping word
    work   client    the writer sleeps               SLEEPING of the writer (control segment)
    done   writer    the client waits for answers    DONE_SLEEPING in the ring
    news   dispatch  the client waits for messages   NEWS_SLEEPING in the ring
           writer    the same: some come in a moment

A bell is a pair of stream sockets, not an eventfd: whether a call may wait is said with each call
there, while an eventfd has one flag for all who hold it, which a client could clear to stop us.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from typing import Final

from shmq.errors import LayoutError
from shmq.kernels.fence import fence
from shmq.layout import ring as layout
from shmq.shm.bellpair import hush_bell, make_bell, ring_bell
from shmq.shm.ring import Ring
from shmq.shm.words import Cell, OwnedCell

BELL_COUNT: Final = 3
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class NativeRing:
    """One ring with its bells, as one process has it mapped."""

    def __init__(self, fds: list[int], *, index: int, epoch: int) -> None:
        """Takes the four descriptors over: memory, and the broker's ends of work, done, news.

        Raises:
            LayoutError: the memory may change its size, or is no ring.
        """
        self.index = index
        self.epoch = epoch
        memory = fds[0]
        if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise LayoutError("the memory of a native ring is not sealed", index=index)
        self._mapping = mmap.mmap(memory, os.fstat(memory).st_size)
        view = memoryview(self._mapping)
        self.ring = Ring(view)
        # The client may have written anything there: it is no reason to stop.
        self.ring.completed = OwnedCell(view, layout.COMPLETED_AT, free=True)
        self._done_sleeping = Cell(view, layout.DONE_SLEEPING_AT)
        self._news_sleeping = Cell(view, layout.NEWS_SLEEPING_AT)
        self._producer_core = Cell(view, layout.PRODUCER_CORE_AT)
        self._memory = memory
        self._bells = [socket.socket(fileno=fd) for fd in fds[1:]]
        self._work, self._done, self._news = self._bells

    @classmethod
    def create(
        cls, *, index: int, epoch: int, entry_count: int, data_size: int
    ) -> tuple[NativeRing, list[int]]:
        """A new ring with its bells, and the client's ends of these, for the caller to close."""
        fds: list[int] = []
        theirs: list[int] = []
        try:
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            fds.append(os.memfd_create(f"shmq-native-{index}", flags))
            size = layout.segment_size(entry_count, data_size)
            os.ftruncate(fds[0], size)
            fcntl.fcntl(fds[0], fcntl.F_ADD_SEALS, SEALS)
            with mmap.mmap(fds[0], size) as mapping, memoryview(mapping) as view:
                Ring.format(view, entry_count=entry_count, data_size=data_size)
            for _ in range(BELL_COUNT):
                ours, their = make_bell()
                fds.append(ours)
                theirs.append(their)
            return cls(fds, index=index, epoch=epoch), theirs
        except BaseException:
            for fd in fds + theirs:
                os.close(fd)
            raise

    @property
    def fds(self) -> list[int]:
        """Memory and the broker's ends of the bells, as the constructor takes them."""
        return [self._memory, *(bell.fileno() for bell in self._bells)]

    @property
    def work_fd(self) -> int:
        """What becomes readable when the client rings."""
        return self._work.fileno()

    def hush_work(self) -> bool:
        """Take what was rung; False when nobody can ring any more."""
        return hush_bell(self._work)

    def ring_done(self) -> None:
        """Tell the client that submissions were completed, if it waits for that."""
        fence()  # SYNC POINT: completions are seen before the word is read.
        if self._done_sleeping.load():
            ring_bell(self._done)

    def ring_news(self) -> None:
        """Tell the client that queues have grown, if it waits for that."""
        fence()  # SYNC POINT: the queues' ends are seen before the word is read.
        if self._news_sleeping.load():
            ring_bell(self._news)

    def producer_core(self) -> int:
        """The core that the client says it last ran on; any number, -1 if it says none."""
        return self._producer_core.load() - 1

    @property
    def waits_for_news(self) -> bool:
        """Whether the client waits for messages."""
        return bool(self._news_sleeping.load())

    def close(self) -> None:
        """Give the descriptors back; the mapping goes with the last view of it."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        for bell in self._bells:
            bell.close()

"""Lanes: the submission rings as the writer works on them, those of the broker and of strangers.

A lane remembers by itself how far its ring was completed. What a native client writes into its
ring is taken as a claim: a number of submissions that cannot be breaks the lane, and only that.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Final

from shmq.layout.control import NATIVE_MAX, SERVES_MAX
from shmq.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.kernels.append import Appender
    from shmq.shm.arena import Arena
    from shmq.shm.nativering import NativeRing
    from shmq.shm.ring import Ring

FIRST_NATIVE: Final = SERVES_MAX
"""Ring index of native client 0, as descriptors name it."""
assert FIRST_NATIVE + NATIVE_MAX <= 192  # noqa: PLR2004  RINGS_MAX of kernels/append.py


class Lane:
    """One ring."""

    def __init__(
        self,
        index: int,
        ring: Ring,
        *,
        ring_bell: Callable[[], None],
        producer_core: Callable[[], int] | None = None,
    ) -> None:
        self.producer_core = producer_core
        """Which core its producer runs on, where that is known."""
        self.index = index
        self.ring = ring
        self.ring_bell = ring_bell
        self._submitted = ring.submitted
        self.completed = ring.completed.load()
        self.broken = False

    def waiting(self) -> int:
        """Entries that were submitted and not completed; 0 for a broken lane."""
        count = self._submitted.load() - self.completed
        if not 0 <= count <= self.ring.entry_count:
            self.broken = True
        return 0 if self.broken else count

    def publish(self, completed: int) -> None:
        """Show the producer how far its entries are completed, and wake it if it waits for that."""
        self.completed = completed
        self.ring.completed.publish(completed)
        self.ring_bell()


class Lanes:
    """All lanes, by the index of their ring, and what wakes the writer for them."""

    def __init__(self, *, arena: Arena) -> None:
        self._arena = arena
        self._log = get_logger()
        self._receiver = arena.link_receiver("writer")
        self._work_fds: dict[int, NativeRing] = {}
        self._epoll = select.epoll()
        self._epoll.register(arena.bells["writer"].fileno(), select.EPOLLIN)
        self.own = [
            Lane(index, ring, ring_bell=arena.bells[f"serve{index}"].ring)
            for index, ring in enumerate(arena.rings)
        ]
        self.all = list(self.own)

    def refresh(self, appender: Appender, on_attach: Callable[[Lane, int], None]) -> None:
        """Take over rings that serve processes have handed over since the last call."""
        if not self._receiver.changes_wait():
            return
        gone, came = self._receiver.receive()
        for native in gone:
            self._drop(native, appender)
        for native in came:
            index = FIRST_NATIVE + native.index
            ring = native.ring
            appender.set_ring(
                index,
                ring.entries,
                ring.completions,
                ring.data,
                epoch=native.epoch,
                grants=self._arena.granted(native.index),
            )
            lane = Lane(index, ring, ring_bell=native.ring_done, producer_core=native.producer_core)
            on_attach(lane, native.epoch)
            self.all.append(lane)
            self._work_fds[native.work_fd] = native
            self._epoll.register(native.work_fd, select.EPOLLIN)

    def _drop(self, native: NativeRing, appender: Appender) -> None:
        index = FIRST_NATIVE + native.index
        for lane in self.all:
            if lane.index == index and lane.broken:
                self._log.warning(
                    "native_ring.broken", ring=index, hint="its client wrote nonsense"
                )
        self.all = [lane for lane in self.all if lane.index != index]
        appender.drop_ring(index)
        if self._work_fds.pop(native.work_fd, None) is not None:
            self._epoll.unregister(native.work_fd)
        native.close()

    def ring_news(self) -> None:
        """Tell native clients that wait for messages that some may come in a moment."""
        for native in self._work_fds.values():
            native.ring_news()

    def poll(self, timeout_ms: int) -> bool:
        """Sleep until the broker's own bell or that of a native client is rung; whether it was."""
        ready = self._epoll.poll(timeout_ms / 1000)
        for fd, _events in ready:
            native = self._work_fds.get(fd)
            if native is None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif not native.hush_work():
                # Nobody can ring it again: it would wake us for ever.
                self._epoll.unregister(fd)
                del self._work_fds[fd]
        return bool(ready)

    def close(self) -> None:
        """Let go of the rings of native clients."""
        self._epoll.close()
        self._receiver.close()

    def work_waits(self) -> bool:
        """Whether a lane has an entry, or a ring is to be taken over."""
        for lane in self.all:  # No any(): this is looked at several times for each record.
            if lane.waiting():
                return True
        return self._receiver.changes_wait()

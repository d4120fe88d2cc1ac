"""How serve processes hand rings of native clients to writer and dispatch: as descriptors.

One socket pair for each serve process and each receiver, made before the fork, so that they outlive
the processes at both ends. A message is a MESSAGE with the four descriptors of a ring:

    ATTACH   this ring is the one of this index from now on
    DETACH   the ring of this index is gone
    RESET    no ring of this serve process is known to you: forget what its predecessor said

A receiver that was started anew has nothing: its number of starts (WRITER_STARTS, DISPATCH_STARTS)
grows, and the serve processes say everything again. LINKED[serve] counts the messages, so that a
receiver looks at the socket only when there is something in it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.errors import LayoutError
from shmq.shm.nativering import NativeRing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmq.shm.words import Cell, OwnedCell

ATTACH: Final = 1
DETACH: Final = 2
RESET: Final = 3
MESSAGE: Final = struct.Struct("=BxxxIQ")
FDS_COUNT: Final = 4
RECEIVERS: Final = ("writer", "dispatch")


class Link(NamedTuple):
    """A pair: what serve writes to, and what the receiver reads."""

    sender: socket.socket
    receiver: socket.socket


def make_link() -> Link:
    """A new pair, non-blocking, that keeps the limits of messages."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setblocking(False)
    receiver.setblocking(False)
    return Link(sender, receiver)


class LinkSender:
    """Serve's end: keeps one receiver's knowledge equal to the rings that there are."""

    def __init__(
        self,
        link: Link,
        *,
        linked: OwnedCell,
        starts: Cell,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`wake` rings the receiver, which may sleep."""
        self._wake = wake
        self._sock = link.sender
        self._linked = linked
        self._starts = starts
        self._known_starts = -1
        self._told: dict[int, int] = {}

    def settle(self, rings: Mapping[int, NativeRing]) -> bool:
        """Say what the receiver does not know yet; False when its socket is full for now."""
        starts = self._starts.load()
        if starts != self._known_starts:
            if not self._send(RESET, 0, 0, []):
                return False
            self._told.clear()
            self._known_starts = starts
        for index in [index for index in self._told if index not in rings]:
            if not self._send(DETACH, index, self._told[index], []):
                return False
            del self._told[index]
        for index, ring in rings.items():
            if self._told.get(index) != ring.epoch:
                if not self._send(ATTACH, index, ring.epoch, ring.fds):
                    return False
                self._told[index] = ring.epoch
        return True

    def is_settled(self, rings: Mapping[int, NativeRing]) -> bool:
        """Whether the receiver was told of these rings and no others."""
        return self._starts.load() == self._known_starts and self._told == {
            index: ring.epoch for index, ring in rings.items()
        }

    def _send(self, kind: int, index: int, epoch: int, fds: list[int]) -> bool:
        try:
            socket.send_fds(self._sock, [MESSAGE.pack(kind, index, epoch)], fds)
        except (BlockingIOError, InterruptedError):
            return False
        self._linked.publish(self._linked.load() + 1)
        self._wake()
        return True


class LinkReceiver:
    """Writer's or dispatch's end of all links: the rings that native clients have."""

    def __init__(self, links: list[Link], *, linked: list[Cell], serve_count: int) -> None:
        self._links = links
        self._linked = linked[: len(links)]
        self._seen = [-1] * len(links)
        self._serve_count = serve_count
        self.rings: dict[int, NativeRing] = {}

    def changes_wait(self) -> bool:
        """Whether there may be something to receive."""
        return [cell.load() for cell in self._linked] != self._seen

    def receive(self) -> tuple[list[NativeRing], list[NativeRing]]:
        """What has changed since the last call: rings that are gone, and rings that came."""
        gone: list[NativeRing] = []
        came: list[NativeRing] = []
        for serve, link in enumerate(self._links):
            self._seen[serve] = self._linked[serve].load()
            while True:
                try:
                    data, fds, _flags, _address = socket.recv_fds(
                        link.receiver, MESSAGE.size, FDS_COUNT
                    )
                except (BlockingIOError, InterruptedError):
                    break
                if not data:
                    break
                self._take(serve, data, fds, gone, came)
        for ring in [ring for ring in came if self.rings.get(ring.index) is not ring]:
            # It came and went in one call: the caller never has it.
            came.remove(ring)
            gone.remove(ring)
            ring.close()
        return gone, came

    def close(self) -> None:
        """Let go of all rings; the links belong to the arena."""
        for ring in self.rings.values():
            ring.close()
        self.rings.clear()

    def _take(
        self,
        serve: int,
        data: bytes,
        fds: list[int],
        gone: list[NativeRing],
        came: list[NativeRing],
    ) -> None:
        kind, index, epoch = MESSAGE.unpack(data)
        if kind == RESET:
            known = [known for known in self.rings if known % self._serve_count == serve]
            gone.extend(self.rings.pop(index) for index in known)
        elif kind == DETACH:
            self._drop(index, gone)
        elif kind == ATTACH and len(fds) == FDS_COUNT:
            self._drop(index, gone)
            with contextlib.suppress(LayoutError):
                self.rings[index] = NativeRing(fds, index=index, epoch=epoch)
                came.append(self.rings[index])
                return
            for fd in fds:
                os.close(fd)

    def _drop(self, index: int, gone: list[NativeRing]) -> None:
        ring = self.rings.pop(index, None)
        if ring is not None:
            gone.append(ring)

"""Links: writer and dispatch know the rings that serve processes have, whoever starts anew."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterator

import pytest

from shmq.layout import ring as layout
from shmq.shm.links import ATTACH, MESSAGE, Link, LinkReceiver, LinkSender, make_link
from shmq.shm.nativering import NativeRing
from shmq.shm.words import OwnedCell
from tests.unit.fds import open_fds

SERVES = 2


class Wired:
    """Two serve processes and a receiver of theirs."""

    def __init__(self) -> None:
        words = memoryview(bytearray(64))
        self.starts = OwnedCell(words, 0, free=True)
        self.starts.publish(1)
        self.linked = [OwnedCell(words, 8 + 8 * serve, free=True) for serve in range(SERVES)]
        self.links: list[Link] = [make_link() for _ in range(SERVES)]
        self.senders = [self.new_sender(serve) for serve in range(SERVES)]
        self.receiver = self.new_receiver()
        self.rings: list[dict[int, NativeRing]] = [{}, {}]
        self.taken: list[NativeRing] = []
        """All that the receivers ever got."""

    def new_sender(self, serve: int) -> LinkSender:
        """Of a serve process that was started anew."""
        return LinkSender(self.links[serve], linked=self.linked[serve], starts=self.starts)

    def new_receiver(self) -> LinkReceiver:
        """One that was started anew and has published that."""
        return LinkReceiver(self.links, linked=list(self.linked), serve_count=SERVES)

    def add(self, index: int, epoch: int) -> NativeRing:
        """A serve process gives a ring to a client."""
        ring, ends = NativeRing.create(index=index, epoch=epoch, entry_count=16, data_size=65536)
        for fd in ends:
            os.close(fd)
        self.rings[index % SERVES][index] = ring
        return ring

    def settle(self) -> None:
        """Serve processes say what is new."""
        for sender, rings in zip(self.senders, self.rings, strict=True):
            assert sender.settle(rings)
            assert sender.is_settled(rings)

    def receive(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Rings that are gone, and that came: (index, epoch)."""
        gone, came = self.receiver.receive()
        self.taken += came
        for ring in gone:
            ring.close()
        if gone:
            self.taken = [ring for ring in self.taken if ring not in gone]
        return [(one.index, one.epoch) for one in gone], [(one.index, one.epoch) for one in came]

    def close(self) -> None:
        """Close all that is open."""
        for ring in [*self.rings[0].values(), *self.rings[1].values(), *self.taken]:
            ring.close()
        for kept in self.rings:
            kept.clear()  # A mapping goes with the last view of it.
        self.taken.clear()
        self.receiver.rings.clear()
        for link in self.links:
            link.sender.close()
            link.receiver.close()


@pytest.fixture
def wired() -> Iterator[Wired]:
    """Closed after the test, with nothing left open."""
    before = open_fds()
    made = Wired()
    yield made
    made.close()
    assert open_fds() <= before


def test_rings_come_and_go(wired: Wired) -> None:
    wired.settle()
    assert wired.receive() == ([], [])
    ring = wired.add(4, 11)
    wired.add(5, 12)
    wired.settle()
    assert wired.receiver.changes_wait()
    assert wired.receive() == ([], [(4, 11), (5, 12)])
    assert not wired.receiver.changes_wait()
    ring.ring.submitted.publish(3)
    assert wired.receiver.rings[4].ring.submitted.load() == 3
    wired.rings[0].pop(4).close()
    wired.settle()
    assert wired.receive() == ([(4, 11)], [])
    assert set(wired.receiver.rings) == {5}
    wired.settle()
    assert not wired.receiver.changes_wait(), "nothing is said twice"


def test_the_index_of_a_ring_that_is_gone_is_used_again(wired: Wired) -> None:
    wired.add(2, 1)
    wired.settle()
    wired.receive()
    wired.rings[0].pop(2).close()
    wired.add(2, 2)
    wired.settle()
    assert wired.receive() == ([(2, 1)], [(2, 2)])


def test_a_ring_that_came_and_went_at_once(wired: Wired) -> None:
    wired.add(2, 1)
    wired.settle()
    wired.rings[0].pop(2).close()
    wired.settle()
    assert wired.receive() == ([], [])
    assert not wired.receiver.rings


def test_a_receiver_that_starts_anew_is_told_everything(wired: Wired) -> None:
    wired.add(0, 1)
    wired.add(1, 2)
    wired.settle()
    wired.receive()
    wired.receiver = wired.new_receiver()
    assert wired.receiver.changes_wait(), "it cannot know yet"
    assert wired.receive() == ([], [])
    wired.starts.publish(2)
    assert not wired.senders[0].is_settled(wired.rings[0])
    wired.settle()
    assert wired.receive() == ([], [(0, 1), (1, 2)])


def test_messages_to_a_dead_receiver_are_read_by_its_successor(wired: Wired) -> None:
    wired.add(0, 1)
    wired.settle()
    wired.receiver = wired.new_receiver()
    wired.starts.publish(2)
    wired.settle()
    assert wired.receive() == ([], [(0, 1)]), "that of the first message is of no use"
    assert set(wired.receiver.rings) == {0}


def test_a_serve_process_that_starts_anew_has_no_rings(wired: Wired) -> None:
    wired.add(0, 1)
    wired.add(1, 2)
    wired.settle()
    wired.receive()
    wired.rings[0].pop(0).close()
    wired.senders[0] = wired.new_sender(0)
    wired.settle()
    assert wired.receive() == ([(0, 1)], [])
    assert set(wired.receiver.rings) == {1}, "that of the other serve process stays"


def test_a_full_link_is_gone_on_with(wired: Wired) -> None:
    """A receiver that is stopped costs serve nothing but the telling."""
    for number in range(SERVES * 64):
        wired.add(number, number + 1)
    link = wired.links[0]
    link.sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sender, rings = wired.senders[0], wired.rings[0]
    assert not sender.settle(rings)
    assert not sender.is_settled(rings)
    came: list[tuple[int, int]] = []
    for _ in range(1000):
        came += wired.receive()[1]
        if sender.settle(rings):
            break
    came += wired.receive()[1]
    assert came == [(index, index + 1) for index in range(0, 128, SERVES)]


def test_a_ring_that_its_client_has_broken_already_is_not_taken(wired: Wired) -> None:
    ring = wired.add(0, 1)
    with mmap.mmap(ring.fds[0], 0) as theirs:
        theirs[layout.MAGIC_AT] ^= 1
    wired.settle()
    before = open_fds()
    assert wired.receive() == ([], [])
    assert open_fds() <= before
    assert not wired.receiver.rings


def test_a_message_without_its_descriptors(wired: Wired) -> None:
    wired.links[0].sender.send(MESSAGE.pack(ATTACH, 0, 1))
    assert wired.receive() == ([], [])

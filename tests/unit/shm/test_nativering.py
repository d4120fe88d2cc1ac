"""Rings of native clients: what a client can do to the memory and to the bells, and what not."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
from collections.abc import Iterator

import pytest

from shmq.errors import LayoutError
from shmq.layout import ring as layout
from shmq.shm.nativering import SEALS, NativeRing
from shmq.shm.ring import Ring
from tests.unit.fds import open_fds

ENTRIES, SIZE = 16, 64 * 1024


class Made:
    """A ring and the client's ends of its bells."""

    def __init__(self) -> None:
        self.ring, ends = NativeRing.create(index=3, epoch=7, entry_count=ENTRIES, data_size=SIZE)
        self.work, self.done, self.news = (socket.socket(fileno=fd) for fd in ends)
        self.memory = self.ring.fds[0]

    def close(self) -> None:
        """As both would."""
        self.ring.close()
        for end in (self.work, self.done, self.news):
            end.close()


@pytest.fixture
def made() -> Iterator[Made]:
    """One that is closed after the test, with nothing left open."""
    before = open_fds()
    one = Made()
    yield one
    one.close()
    one.ring.close()  # may be repeated
    del one.ring
    assert open_fds() <= before


def test_a_client_can_write_but_not_resize(made: Made) -> None:
    size = os.fstat(made.memory).st_size
    assert size == layout.segment_size(ENTRIES, SIZE)
    for wanted in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(made.memory, wanted)
    with pytest.raises(PermissionError):
        fcntl.fcntl(made.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    with mmap.mmap(made.memory, size) as theirs:
        theirs[layout.SUBMITTED_AT] = 5
    assert made.ring.ring.submitted.load() == 5


def test_another_process_maps_the_same(made: Made) -> None:
    again = NativeRing([os.dup(fd) for fd in made.ring.fds], index=3, epoch=7)
    made.ring.ring.submitted.publish(9)
    assert again.ring.submitted.load() == 9
    assert (again.ring.entry_count, again.ring.data_size) == (ENTRIES, SIZE)
    again.close()


def test_what_a_client_wrote_into_the_answers_stops_nobody(made: Made) -> None:
    with mmap.mmap(made.memory, 0) as theirs:
        theirs[layout.COMPLETED_AT : layout.COMPLETED_AT + 8] = b"\xff" * 8
        made.ring.ring.completed.publish(4)
        theirs[layout.COMPLETED_AT : layout.COMPLETED_AT + 8] = b"\xff" * 7 + b"\x7f"
        made.ring.ring.completed.publish(5)
    assert made.ring.ring.completed.load() == 5


def memory(*, size: int, seals: int, formatted: bool = True) -> int:
    """Memory that looks like a ring's, sealed as said."""
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if formatted:
        with mmap.mmap(fd, size) as mapping, memoryview(mapping) as view:
            Ring.format(view, entry_count=ENTRIES, data_size=SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL])
def test_memory_that_could_be_resized_is_refused(missing: int) -> None:
    fd = memory(size=layout.segment_size(ENTRIES, SIZE), seals=SEALS & ~missing)
    with pytest.raises(LayoutError, match="not sealed"):
        NativeRing([fd, -1, -1, -1], index=0, epoch=1)
    os.close(fd)


def test_what_is_no_ring_is_refused() -> None:
    size = layout.segment_size(ENTRIES, SIZE)
    for fd in (
        memory(size=size, seals=SEALS, formatted=False),
        memory(size=size - 4096, seals=SEALS),
    ):
        with pytest.raises(LayoutError):
            NativeRing([fd, -1, -1, -1], index=0, epoch=1)
        os.close(fd)


def test_bells_ring_only_sleepers(made: Made) -> None:
    with mmap.mmap(made.memory, 0) as theirs:
        for at, ring, end in (
            (layout.DONE_SLEEPING_AT, made.ring.ring_done, made.done),
            (layout.NEWS_SLEEPING_AT, made.ring.ring_news, made.news),
        ):
            end.setblocking(False)
            ring()
            with pytest.raises(BlockingIOError):
                end.recv(1)
            theirs[at] = 1
            assert made.ring.waits_for_news == (at == layout.NEWS_SLEEPING_AT)
            ring()
            ring()
            assert len(end.recv(10)) == 2
            theirs[at] = 0


def test_a_client_that_never_hears_its_bell_holds_nobody_up(made: Made) -> None:
    """Nor one that makes its ends wait: the flag is that end's own."""
    made.done.setblocking(True)
    made.work.setblocking(True)
    with mmap.mmap(made.memory, 0) as theirs:
        theirs[layout.DONE_SLEEPING_AT] = 1
        for _ in range(20_000):
            made.ring.ring_done()
    assert made.ring.hush_work()  # nothing was rung
    made.work.send(b"12")
    assert made.ring.hush_work()


def test_bells_whose_other_end_is_closed(made: Made) -> None:
    for end in (made.work, made.done, made.news):
        end.close()
    with mmap.mmap(made.memory, 0) as theirs:
        theirs[layout.DONE_SLEEPING_AT] = theirs[layout.NEWS_SLEEPING_AT] = 1
        made.ring.ring_done()
        made.ring.ring_news()
    assert not made.ring.hush_work()


def test_descriptors_in_a_bell_are_thrown_away(made: Made) -> None:
    before = open_fds()
    socket.send_fds(made.work, [b"x"], [made.memory] * 5)
    assert made.ring.hush_work()
    assert open_fds() <= before


def test_a_ring_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_fds()

    def refuse() -> tuple[int, int]:
        raise OSError(24, "too many open files")

    monkeypatch.setattr("shmq.shm.nativering.make_bell", refuse)
    with pytest.raises(OSError, match="too many"):
        NativeRing.create(index=0, epoch=1, entry_count=ENTRIES, data_size=SIZE)
    assert open_fds() <= before

"""The images that a power cut may leave, from the record of what was written between barriers.

A disk keeps what it was given before a barrier. Of what came after it any set may be there, and of
a write any of its sectors. A cut anywhere between two barriers leaves what a cut just before the
second may leave too, when fewer promises bind: so only the latter are made, with all promises up to
there.
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.powercut.recorder import Recorder, Write

SECTOR_SIZES: Final = (512, 4096)
BLOCK_SIZE: Final = 4096
SUPERBLOCK_END: Final = 2048
"""Before it nothing is torn: ext4 does not mount when half of its superblock is new."""
TRIES_MAX: Final = 4
"""So many cuts are drawn for one that is new."""


class Tear(NamedTuple):
    """A write that reached the disk in some of its sectors only."""

    write: int
    sector_size: int
    choice: int
    """Seed of which sectors those are."""


class Cut(NamedTuple):
    """One power cut: what of the writes after the last barrier is on the disk."""

    position: int
    """Events that had happened."""
    barrier: int
    """All writes before this event are there."""
    there: tuple[int, ...]
    """The writes after it that are there, by their events' numbers."""
    torn: tuple[Tear, ...]
    """Of those, the ones that are there in part."""
    how: str

    def __str__(self) -> str:
        return f"after event {self.position}, barrier at {self.barrier}, {self.how}"


def cuts(recorder: Recorder, *, end: int, count: int, seed: int) -> Iterator[Cut]:
    """At most about `count` different cuts, spread over all barriers up to event `end`, in order.

    Where few writes are in doubt there are fewer, and the others get more.
    """
    rng = random.Random(seed)
    windows = list(_windows(recorder, end))
    left = count
    for number, (barrier, position) in enumerate(windows):
        wanted = int(left / (len(windows) - number) + rng.random())
        found: set[tuple[object, object]] = set()
        for cut in islice(_cuts_between(recorder, barrier, position, rng), wanted * TRIES_MAX):
            key = (cut.there, cut.torn)
            if len(found) < wanted and key not in found:
                found.add(key)
                yield cut
        left -= len(found)


def _windows(recorder: Recorder, end: int) -> Iterator[tuple[int, int]]:
    """From after one barrier to before the next."""
    barrier = 0
    for number in range(end):
        if recorder[number] is None:
            yield barrier, number
            barrier = number + 1
    yield barrier, end


def _cuts_between(
    recorder: Recorder, barrier: int, position: int, rng: random.Random
) -> Iterator[Cut]:
    """By turns a plain one (none, all, one lacks, one alone, the first ones), a torn one, any."""
    doubted = tuple(range(barrier, position))

    def cut(there: Sequence[int], how: str, *torn: Tear) -> Cut:
        return Cut(position, barrier, tuple(there), torn, how)

    plain = []
    for index, one in enumerate(doubted):
        plain.append(cut(doubted[:index] + doubted[index + 1 :], f"all but write {one}"))
        plain.append(cut((one,), f"write {one} alone"))
        plain.append(cut(doubted[:index], f"writes before {one}"))
    rng.shuffle(plain)
    plain.append(cut(doubted, f"all of {len(doubted)} writes in doubt"))
    plain.insert(rng.randrange(len(plain)), cut((), "nothing in doubt"))
    tearable = list(_tearable(recorder, doubted))
    yield plain.pop()
    while doubted:
        if plain:
            yield plain.pop()
        if tearable:
            one, sector_size = rng.choice(tearable)
            tear = Tear(one, sector_size, rng.randrange(1 << 16))
            rest = [other for other in doubted if other == one or rng.random() < 0.5]
            yield cut(rest, f"{tear} in writes {rest}", tear)
        some = [one for one in doubted if rng.random() < 0.5]
        yield cut(some, f"writes {some}")


def _tearable(recorder: Recorder, doubted: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Writes, and the sectors that they are longer than."""
    for one in doubted:
        write = recorder[one]
        assert write is not None
        if write.at >= SUPERBLOCK_END:
            yield from ((one, size) for size in SECTOR_SIZES if len(write.data) > size)


class Replay:
    """Makes images in the order of the cuts."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._base = np.frombuffer(bytearray(recorder.first), dtype=np.uint8)
        self._used = np.asarray(self._base.reshape(-1, BLOCK_SIZE).any(axis=1))
        """Blocks that are not all zeros, or were written."""
        self._done = 0

    @contextmanager
    def image(self, cut: Cut) -> Iterator[int]:
        """What the cut leaves, in a file without a name."""
        self._advance(cut.barrier)
        image_fd = os.memfd_create("powercut")
        try:
            os.ftruncate(image_fd, len(self._base))
            with mmap.mmap(image_fd, 0) as memory:
                self._fill(np.frombuffer(memory, dtype=np.uint8), cut)
            yield image_fd
        finally:
            os.close(image_fd)

    def _advance(self, barrier: int) -> None:
        assert barrier >= self._done, "cuts are replayed in their order"
        for number in range(self._done, barrier):
            write = self._recorder[number]
            if write is not None:
                _apply(self._base, write)
                end = write.at + len(write.data)
                self._used[write.at // BLOCK_SIZE : -(-end // BLOCK_SIZE)] = True
        self._done = barrier

    def _fill(self, image: NDArray[np.uint8], cut: Cut) -> None:
        blocks = image.reshape(-1, BLOCK_SIZE)
        blocks[self._used] = self._base.reshape(-1, BLOCK_SIZE)[self._used]
        torn = {tear.write: tear for tear in cut.torn}
        for number in cut.there:
            write = self._recorder[number]
            assert write is not None
            for part in _sectors(write, torn[number]) if number in torn else [write]:
                _apply(image, part)


def _sectors(write: Write, tear: Tear) -> Iterator[Write]:
    """Some of a write's sectors; not all, and at least one."""
    starts = range(0, len(write.data), tear.sector_size)
    rng = random.Random(tear.choice)
    for start in rng.sample(starts, rng.randrange(1, len(starts))):
        yield Write(write.at + start, write.data[start : start + tear.sector_size])


def _apply(image: NDArray[np.uint8], write: Write) -> None:
    image[write.at : write.at + len(write.data)] = np.frombuffer(write.data, dtype=np.uint8)

"""The loads: what is sent, how it is checked, and the cells of one run.

A stream of a throughput cell holds pool bodies, the WARM marker, pool bodies, the END marker. The
pool has `pool_count(size)` bodies of pseudo-random words, the same in every language; one batch is
the whole pool. The sum of all 64-bit words of all bodies, modulo 2^64, is the checksum: every agent
that consumes reports it, and the harness knows it from the counts alone.

In a latency cell, the first word of a body is its intended send time (CLOCK_MONOTONIC, ns), the
second its number, the third the counterpart of both: the checksum does not depend on the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORD: Final = np.dtype("<u8")
MASK: Final = (1 << 64) - 1
# The first word of the two marker bodies; their other words are zero.
WARM: Final = 0xA11C0DE5A11C0DE5
END: Final = 0xE4DC0DE5E4DC0DE5

SIZES: Final = (128, 1024, 65536)
RATES: Final = (1000, 10_000)
LOADS: Final = ("produce", "consume", "both", "latency")

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB


def pool_count(size: int) -> int:
    """Bodies in the pool, which is also the batch: 256, or 16 of those above 4 KiB."""
    return 256 if size <= 4096 else 16


def pool(size: int) -> NDArray[np.uint8]:
    """The pool as bytes, shape (pool_count(size), size).

    Word number n (from 1) is splitmix64 of the seed `size`: each agent makes the same.
    """
    if size < 24 or size % 8:
        msg = f"a body needs three words and whole ones: size={size}"
        raise ValueError(msg)
    count = pool_count(size)
    words = np.arange(1, count * size // 8 + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    words += np.uint64(size)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MIX_1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MIX_2)
    words ^= words >> np.uint64(31)
    return words.astype(WORD).view(np.uint8).reshape(count, size)


def word_sum(data: NDArray[np.uint8] | bytes | memoryview) -> int:
    """The sum of the 64-bit words of a body, or of bodies behind each other, modulo 2^64."""
    return int(np.frombuffer(data, dtype=WORD).sum(dtype=np.uint64))


def flood_sum(size: int, count: int) -> int:
    """The checksum of a throughput cell: `count` bodies (whole pools) and both markers."""
    batches, rest = divmod(count, pool_count(size))
    if rest:
        msg = f"a count of whole pools is needed: count={count} pool={pool_count(size)}"
        raise ValueError(msg)
    return (batches * word_sum(pool(size).reshape(-1)) + WARM + END) & MASK


def paced_sum(size: int, count: int) -> int:
    """The checksum of the paced messages of a latency cell: the three first words add up to 0."""
    rest = word_sum(pool(size)[0][24:]) if size > 24 else 0
    return (count * rest) & MASK


@dataclass(frozen=True)
class Timing:
    """How long the parts of a cell last and how much they may store."""

    warmup_s: float = 0.4
    seconds: float = 0.8
    latency_s: float = 1.0
    bytes_max: int = 1 << 30
    deadline_s: float = 30.0


@dataclass(frozen=True)
class Cell:
    """One measurement of one peer. `rate` and `spin` are of latency cells."""

    load: str
    size: int
    rate: int = 0
    spin: bool = False

    def label(self) -> str:
        """For people."""
        text = f"{self.load} {size_text(self.size)}"
        if self.load == "latency":
            text += f" {self.rate}/s {'spinning' if self.spin else 'waiting'}"
        return text


def size_text(size: int) -> str:
    """128 B, 1 KiB, 64 KiB."""
    return f"{size // 1024} KiB" if size >= 1024 and size % 1024 == 0 else f"{size} B"


def cells(
    *, loads: tuple[str, ...], sizes: tuple[int, ...], rates: tuple[int, ...], spinning: bool
) -> list[Cell]:
    """All cells of a peer, in the order in which they run; spinning is measured for 1 KiB alone.

    `consume` reads what `produce` of the same size has left, and stands behind it.
    """
    result = []
    for size in sizes:
        result += [Cell(load, size) for load in LOADS[:3] if load in loads]
    if "latency" in loads:
        for size in sizes:
            result += [Cell("latency", size, rate) for rate in rates]
            if spinning and size == 1024:
                result += [Cell("latency", size, rate, spin=True) for rate in rates]
    return result

"""What the benchmarks of parts share: frames, rings, records, and how a result is noted.

Run by `python -m pytest bench/bench_*.py --benchmark-enable`; without the switch each of them runs
once, as a test. Every benchmark asserts its result, says its unit and load in its first line, and
stands beside its plain twin where there is one, in the same group.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from shmq.kernels.sends import SendParser
from shmq.layout import record
from shmq.layout.record import Record
from shmq.layout.ring import COMPLETION, ENTRY
from shmq.units import KiB, MiB
from shmq.wire.codes import RequestCode
from shmq.wire.header import Header, encode_frame
from shmq.wire.properties import encode_properties
from shmq.wire.send import SendHeader, encode_send

BATCH: Final = 256
SIZES: Final = (128, 1 * KiB)
DATA_SIZE: Final = 4 * MiB
STORE_HOST: Final = bytes((127, 0, 0, 1))
STORE_PORT: Final = 10_911
PROPERTIES: Final = {"UNIQ_KEY": "7F000001" * 4, "WAIT": "true", "TAGS": "TagA"}
T = TypeVar("T")


class Benchmark(Protocol):
    """The fixture of pytest-benchmark, as far as it is used here."""

    extra_info: dict[str, Any]

    def __call__(self, work: Callable[[], T]) -> T:
        """Time `work`; its last result."""

    def pedantic(
        self,
        target: Callable[..., T],
        *,
        setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        rounds: int,
        iterations: int = 1,
    ) -> T:
        """Time `target` with what `setup` gives, anew in every round."""


def note(benchmark: Benchmark, *, unit: str, count: int) -> None:
    """Say what one timed round holds: so many of that unit."""
    benchmark.extra_info |= {"unit": unit, "count_per_round": count}


def send_frames(count: int, body_size: int, serialization: int) -> bytes:
    """Sends of one client to the four queues of topic T, back to back."""
    frames = []
    for number in range(count):
        sent = SendHeader(
            producer_group="P",
            topic="T",
            default_topic="TBW102",
            default_topic_queue_count=4,
            queue_id=number % 4,
            sys_flag=0,
            born_timestamp=1_700_000_000_000,
            flag=0,
            properties=encode_properties(PROPERTIES).decode(),
        )
        ext = encode_send(sent, RequestCode.SEND_MESSAGE_V2)
        header = Header(RequestCode.SEND_MESSAGE_V2, number, language="JAVA", ext=ext)
        frames.append(encode_frame(header, bytes(body_size), serialization))
    return b"".join(frames)


def one_record(body_size: int, *, queue_id: int = 0, queue_offset: int = 0) -> bytes:
    """A record of topic T as the submitting side encodes it."""
    return record.encode(
        Record(
            topic="T",
            body=bytes(body_size),
            properties=encode_properties(PROPERTIES),
            queue_id=queue_id,
            queue_offset=queue_offset,
            born_timestamp=1_700_000_000_000,
            store_port=STORE_PORT,
        )
    )


class Ring:
    """A submission ring in memory that this process has touched already."""

    def __init__(self, entry_count: int = BATCH) -> None:
        self.entry_count = entry_count
        self.entries = np.zeros(entry_count, dtype=ENTRY)
        self.completions = np.zeros(entry_count, dtype=COMPLETION)
        self.data: NDArray[np.uint8] = np.ones(DATA_SIZE, dtype=np.uint8)

    def parser(self, module: ModuleType) -> SendParser:
        """Its producer's side, of the kernel or of its twin."""
        made: SendParser = module.SendParser(
            entries=self.entries.view(np.uint8),
            data=self.data,
            entry_count=self.entry_count,
            data_size=DATA_SIZE,
            store_host=STORE_HOST,
            store_port=STORE_PORT,
            cluster=b"DefaultCluster",
            trace_on=True,
            message_size_max=4 * MiB,
            frame_size_max=16 * MiB,
        )
        made.put_topic(b"T", [0, 1, 2, 3], 4)
        return made

    def fill(self, stored: list[bytes]) -> None:
        """Submit these records, one an entry, by hand."""
        at = 0
        for number, data in enumerate(stored):
            self.data[at : at + len(data)] = np.frombuffer(data, dtype=np.uint8)
            entry = self.entries[number]
            entry["data_position"], entry["data_size"] = at, len(data)
            entry["record_count"], entry["slot"] = 1, number % 4
            at += (len(data) + 7) // 8 * 8


def feed(parser: SendParser, frames: bytes) -> int:
    """Give a parser the bytes of one connection; why it stopped."""
    return parser.feed(
        frames,
        0,
        len(frames),
        connection=5,
        connection_id=9,
        born_host=STORE_HOST,
        born_port=40_000,
    )

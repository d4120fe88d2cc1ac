# Interface of the compiled kernel append.py; see there.

from mmap import mmap
from typing import Any, TypeAlias

from numpy.typing import NDArray

Memory: TypeAlias = bytes | bytearray | memoryview | mmap | NDArray[Any]

class Appender:
    append_offset: int
    descriptor_count: int
    blocked_on: int
    def __init__(
        self,
        *,
        pool: Memory,
        descriptors: Memory,
        next_offsets: Memory,
        rows: Memory,
        file_size: int,
        record_size_max: int,
        append_offset: int,
        descriptor_count: int,
        store_place: bytes = ...,
    ) -> None: ...
    def set_ring(
        self,
        index: int,
        entries: Memory,
        completions: Memory,
        data: Memory,
        *,
        epoch: int = ...,
        grants: Memory | None = ...,
    ) -> None: ...
    def drop_ring(self, index: int) -> None: ...
    def append(
        self,
        ring: int,
        first: int,
        end: int,
        limit_offset: int,
        descriptor_limit: int,
        slot_count: int,
        store_timestamp: int,
    ) -> int: ...

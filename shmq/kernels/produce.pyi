# Interface of the compiled kernel produce.py; see there.

from mmap import mmap
from typing import Any, TypeAlias

from numpy.typing import NDArray
from typing_extensions import Buffer

Memory: TypeAlias = bytearray | memoryview | mmap | NDArray[Any]

class Target:
    @property
    def overhead(self) -> int: ...
    def __init__(
        self,
        *,
        head: bytes,
        tail_before: bytes,
        tail_after: bytes,
        slot: int,
        queue_id: int,
        tags_code: int,
    ) -> None: ...

class RecordWriter:
    @property
    def submitted(self) -> int: ...
    @property
    def reaped(self) -> int: ...
    def __init__(
        self, *, entries: Memory, data: Memory, entry_count: int, data_size: int
    ) -> None: ...
    def reap(self, sequence: int) -> None: ...
    def put(
        self,
        target: Target,
        bodies: Buffer,
        starts: Buffer,
        sizes: Buffer,
        first: int,
        end: int,
        *,
        born_ms: int,
        stamp: bytes,
        counter: int,
        group: int,
    ) -> int: ...
    def put_one(
        self, target: Target, body: Buffer, *, born_ms: int, stamp: bytes, counter: int
    ) -> int: ...
    def loan(self, target: Target, body_size: int) -> int | None: ...
    def take_back(self) -> None: ...
    def commit(self, *, born_ms: int, stamp: bytes, counter: int) -> int: ...
    def put_made(
        self, data: bytes, *, count: int, slot: int, queue_id: int, tags_code: int
    ) -> int: ...

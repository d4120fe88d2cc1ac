# Interface of the compiled kernel dispatch.py; see there.

from mmap import mmap
from typing import Any, TypeAlias

from numpy.typing import NDArray

Memory: TypeAlias = bytes | bytearray | memoryview | mmap | NDArray[Any]

class Dispatcher:
    full_slot: int
    gaps: int
    last_offset: int
    def __init__(
        self,
        *,
        descriptors: Memory,
        max_offsets: Memory,
        hot_starts: Memory,
        hot: Memory,
        hot_entries: int,
        filed: Memory,
        marks: Memory,
    ) -> None: ...
    def dispatch(self, first: int, end: int, limit_offset: int) -> int: ...

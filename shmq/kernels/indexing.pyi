# Interface of the compiled kernel indexing.py; see there.

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

STOP_END: int
STOP_FULL: int
STOP_BAD: int
ROWS_MIN: int

def keys_of(
    data: Buffer,
    base: int,
    start: int,
    limit: int,
    file_size: int,
    out: NDArray[np.int64],
) -> tuple[int, int, int, int]: ...
def put(
    file: Buffer,
    slot_count: int,
    entry_count_max: int,
    rows: NDArray[np.int64],
    first: int,
    end: int,
) -> int: ...
def relink(file: Buffer, slot_count: int, entry_count_max: int, end_offset: int) -> int: ...
def find(
    file: Buffer,
    slot_count: int,
    entry_count_max: int,
    key_hash: int,
    begin_timestamp: int,
    end_timestamp: int,
    start: int,
    steps_max: int,
    out: NDArray[np.int64],
) -> tuple[int, int, int]: ...

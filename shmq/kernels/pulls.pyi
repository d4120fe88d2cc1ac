# Interface of the compiled kernel pulls.py; see there.

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

class PullReader:
    def __init__(self) -> None: ...
    @property
    def opaque(self) -> int: ...
    @property
    def queue_id(self) -> int: ...
    @property
    def queue_offset(self) -> int: ...
    @property
    def count_max(self) -> int: ...
    @property
    def sys_flag(self) -> int: ...
    @property
    def commit_offset(self) -> int: ...
    @property
    def suspend_timeout_ms(self) -> int: ...
    @property
    def size_max(self) -> int: ...
    @property
    def binary(self) -> bool: ...
    @property
    def key(self) -> bytes: ...
    def read(self, frame: Buffer) -> bool: ...

def choose(
    entries: NDArray[np.void],
    count_max: int,
    size_max: int,
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> tuple[int, int]: ...
def found_frame(
    body_size: int,
    *,
    binary: bool,
    opaque: int,
    next_offset: int,
    min_offset: int,
    max_offset: int,
    broker_id: int,
) -> tuple[bytearray, int]: ...

# Interface of the compiled kernel walk.py; see there.

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

STOP_END: int
STOP_BLANK: int
STOP_BAD: int
STOP_FULL: int

def walk(
    data: Buffer,
    start: int,
    out: NDArray[np.int64],
    *,
    checked: bool,
) -> tuple[int, int, int]: ...
def assort(
    data: Buffer, rows: NDArray[np.int64], order: NDArray[np.int64], bounds: NDArray[np.int64]
) -> int: ...

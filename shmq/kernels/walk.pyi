# Interface of the compiled kernel walk.py; see there.

from collections.abc import Callable

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
    check: Callable[[memoryview], int] | None,
) -> tuple[int, int, int]: ...

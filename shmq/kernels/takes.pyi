# Interface of the compiled kernel takes.py; see there.

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

def take(
    hot: Buffer, first: int, count: int, pool: Buffer, size_max: int
) -> tuple[bytes | bytearray, int, int]: ...
def body_places(
    data: Buffer | NDArray[np.uint8],
    positions: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> None: ...

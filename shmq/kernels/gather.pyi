# Interface of the compiled kernel gather.py; see there.

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

def gather(
    source: Buffer,
    base: int,
    positions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    out: Buffer,
    out_at: int,
) -> int: ...
def read_pieces(
    fd: int,
    base: int,
    positions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    out: Buffer,
    out_at: int,
) -> int: ...

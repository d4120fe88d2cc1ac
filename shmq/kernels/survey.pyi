# Interface of the compiled kernel survey.py; see there.

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

FAULT_BODY_CRC: int
FAULT_PHYSICAL_OFFSET: int
FAULT_QUEUE: int
FAULT_PORT: int
FAULT_STORE_TIMESTAMP: int
FAULT_PROPERTY_CRC: int
FAULT_SYS_FLAG: int
FAULT_COMPRESSION: int
FAULT_PROPERTIES: int
FAULT_SENDER: int

def survey(
    data: Buffer,
    start: int,
    offset: int,
    out: NDArray[np.int64],
    table: NDArray[np.int32],
) -> tuple[int, int, int, int]: ...
def key_hashes(
    data: Buffer, rows: NDArray[np.int64], out: NDArray[np.int64]
) -> tuple[int, int]: ...

# Interface of the compiled kernel frames.py; see there.

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

def split(buffer: Buffer, start: int, end: int, frame_size_max: int) -> NDArray[np.int64]: ...

"""Batches as arrays, data frames and Arrow record batches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from shmq.errors import ConfigError
from shmq.kernels.gather import gather
from shmq.kernels.takes import body_places
from shmq.layout import record

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from shmq.client.batch import Batch

POSITION: Final = 0
COMPRESSED: Final = 1
FLAGS_AT: Final = record.SYS_FLAG_AT + 3
"""The byte with the flags that say where the body is and how it is stored."""


class Bodies(NamedTuple):
    """Bodies in one buffer: body i is data[starts[i] : starts[i] + sizes[i]]."""

    data: NDArray[np.uint8]
    """The records with the bodies in them; not to be written to."""
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]


def bodies_of(batch: Batch) -> Bodies:
    """The bodies of a batch where they are, as they were stored: compressed ones stay so."""
    data = np.frombuffer(batch.data, dtype=np.uint8)
    places = batch.column(POSITION)
    starts, sizes = np.empty((2, len(places)), dtype=np.int64)
    body_places(data, places, starts, sizes)
    return Bodies(data, starts, sizes)


def dense_bodies(batch: Batch) -> tuple[bytearray, NDArray[np.int64]]:
    """The bodies back to back, decompressed, and where each ends; n + 1 offsets from 0 on."""
    ends = np.zeros(len(batch) + 1, dtype=np.int64)
    bodies = bodies_of(batch)
    if (bodies.data[batch.column(POSITION) + FLAGS_AT] & COMPRESSED).any():
        parts = [message.body for message in batch]
        np.cumsum([len(part) for part in parts], out=ends[1:])
        return bytearray(b"".join(parts)), ends
    np.cumsum(bodies.sizes, out=ends[1:])
    out = bytearray(int(ends[-1]))
    if out:
        gather(batch.data, 0, bodies.starts, bodies.sizes, out, 0)
    return out, ends


def to_pandas(batch: Batch) -> Any:
    """A pandas.DataFrame with a row for each message.

    Columns: queue_offset, store_timestamp (UTC), tags, keys, message_id, body (bytes).
    """
    pandas = _needed("pandas")
    messages = list(batch)
    return pandas.DataFrame(
        {
            "queue_offset": batch.offsets,
            "store_timestamp": pandas.to_datetime(batch.store_timestamps, unit="ms", utc=True),
            "tags": [message.tags for message in messages],
            "keys": [message.keys for message in messages],
            "message_id": [message.message_id for message in messages],
            "body": [message.body for message in messages],
        }
    )


def to_arrow(batch: Batch) -> Any:
    """A pyarrow.RecordBatch with a row for each message; no Python object for any.

    Columns: queue_offset, physical_offset, store_timestamp (ms, UTC), tags_code, body (large
    binary).
    """
    arrow = _needed("pyarrow")
    data, ends = dense_bodies(batch)
    buffers = [None, arrow.py_buffer(ends), arrow.py_buffer(data)]
    body = arrow.Array.from_buffers(arrow.large_binary(), len(batch), buffers)
    stamps = arrow.array(batch.store_timestamps).cast(arrow.timestamp("ms", tz="UTC"))
    return arrow.RecordBatch.from_arrays(
        [
            arrow.array(batch.offsets),
            arrow.array(batch.physical_offsets),
            stamps,
            arrow.array(batch.tags_codes),
            body,
        ],
        names=["queue_offset", "physical_offset", "store_timestamp", "tags_code", "body"],
    )


def _needed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(f"{name} is not installed", hint=f"pip install {name}") from None

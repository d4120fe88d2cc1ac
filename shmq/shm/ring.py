"""A submission ring in shared memory: the parts of one segment, by name. See layout.ring."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from shmq.errors import LayoutError
from shmq.layout import ring as layout
from shmq.shm.words import OwnedCell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Ring:
    """Views of one ring. `submitted` is the producer's word, `completed` the writer's."""

    def __init__(self, view: memoryview) -> None:
        """`view` is a whole segment that format() prepared.

        Raises:
            LayoutError: it holds something else, or the sizes in it do not fit the segment.
        """
        if len(view) < layout.ENTRIES_AT:
            raise LayoutError("not a submission ring", size=len(view), size_min=layout.ENTRIES_AT)
        magic, version, entry_count, data_size = struct.unpack_from("=QIIQ", view, 0)
        if (magic, version) != (layout.MAGIC, layout.VERSION):
            raise LayoutError(
                "not a submission ring",
                found=(hex(magic), version),
                expected=(hex(layout.MAGIC), layout.VERSION),
            )
        if entry_count < 1 or entry_count & (entry_count - 1):
            raise LayoutError("ring entries", found=entry_count, allowed="a power of two")
        if layout.segment_size(entry_count, data_size) > len(view):
            raise LayoutError(
                "ring larger than its segment",
                entry_count=entry_count,
                data_size=data_size,
                segment_size=len(view),
            )
        self.entry_count: int = entry_count
        self.data_size: int = data_size
        completions_at = layout.completions_at(entry_count)
        data_at = layout.data_at(entry_count)
        entries_end = layout.ENTRIES_AT + entry_count * layout.ENTRY_SIZE
        completions_end = completions_at + entry_count * layout.COMPLETION_SIZE
        self.entries = view[layout.ENTRIES_AT : entries_end]
        self.completions = view[completions_at:completions_end]
        self.data = view[data_at : data_at + data_size]
        self.submitted = OwnedCell(view, layout.SUBMITTED_AT)
        self.completed = OwnedCell(view, layout.COMPLETED_AT)

    @staticmethod
    def format(view: memoryview, *, entry_count: int, data_size: int) -> None:
        """Prepare a new, zeroed segment of layout.ring.segment_size() bytes."""
        assert entry_count & (entry_count - 1) == 0, "entry count must be a power of two"
        struct.pack_into("=IIQ", view, layout.VERSION_AT, layout.VERSION, entry_count, data_size)
        struct.pack_into("=Q", view, layout.MAGIC_AT, layout.MAGIC)

    def entry_array(self) -> NDArray[np.void]:
        """All entries as layout.ring.ENTRY, shape (entry_count,)."""
        import numpy as np  # noqa: PLC0415  a producer does without it

        return np.frombuffer(self.entries, dtype=layout.ENTRY)

    def completion_array(self) -> NDArray[np.void]:
        """All completions as layout.ring.COMPLETION, shape (entry_count,)."""
        import numpy as np  # noqa: PLC0415  a producer does without it

        return np.frombuffer(self.completions, dtype=layout.COMPLETION)

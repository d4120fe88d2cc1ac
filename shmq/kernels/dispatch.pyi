from typing_extensions import Buffer

class Dispatcher:
    full_slot: int
    gaps: int
    last_offset: int
    def __init__(
        self,
        *,
        descriptors: Buffer,
        max_offsets: Buffer,
        hot_starts: Buffer,
        hot: Buffer,
        hot_entries: int,
        filed: Buffer,
        marks: Buffer,
    ) -> None: ...
    def dispatch(self, first: int, end: int, limit_offset: int) -> int: ...

from typing_extensions import Buffer

class Appender:
    append_offset: int
    descriptor_count: int
    blocked_on: int
    def __init__(
        self,
        *,
        pool: Buffer,
        descriptors: Buffer,
        next_offsets: Buffer,
        queue_ids: Buffer,
        file_size: int,
        record_size_max: int,
        append_offset: int,
        descriptor_count: int,
    ) -> None: ...
    def add_ring(self, entries: Buffer, completions: Buffer, data: Buffer) -> int: ...
    def append(
        self,
        ring: int,
        first: int,
        end: int,
        limit_offset: int,
        descriptor_limit: int,
        slot_count: int,
        store_timestamp: int,
    ) -> int: ...

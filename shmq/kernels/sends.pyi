# Interface of the compiled kernel sends.py; see there.

from typing import Final

from typing_extensions import Buffer

NEED_MORE: Final = 1
OTHER: Final = 2
RING_FULL: Final = 3
BAD_FRAME: Final = 4

class SendParser:
    def __init__(
        self,
        *,
        entries: Buffer,
        data: Buffer,
        entry_count: int,
        data_size: int,
        store_host: bytes,
        store_port: int,
        cluster: bytes,
        region: bytes = ...,
        trace_on: bool,
        message_size_max: int,
        frame_size_max: int,
        submitted: int = ...,
    ) -> None: ...
    @property
    def submitted(self) -> int: ...
    @property
    def reaped(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def frame_size(self) -> int: ...
    def close(self) -> None: ...
    def put_topic(self, name: bytes, slots: list[int], write_queue_count: int) -> None: ...
    def drop_topic(self, name: bytes) -> None: ...
    def reap(self, sequence: int) -> None: ...
    def reserve(self, size: int) -> tuple[int, int] | None: ...
    def commit_entry(
        self,
        data_size: int,
        *,
        record_count: int,
        slot: int,
        tags_code: int,
        opaque: int,
        connection: int,
        connection_id: int,
        answer_flags: int,
        queue_id: int,
        unique_at: int,
        unique_size: int,
    ) -> int: ...
    def submit(
        self,
        data: Buffer,
        *,
        record_count: int,
        slot: int,
        tags_code: int,
        opaque: int,
        connection: int,
        connection_id: int,
        answer_flags: int,
        queue_id: int,
        unique_at: int,
        unique_size: int,
    ) -> int: ...
    def feed(
        self,
        buffer: Buffer,
        start: int,
        end: int,
        *,
        connection: int,
        connection_id: int,
        born_host: bytes,
        born_port: int,
    ) -> int: ...

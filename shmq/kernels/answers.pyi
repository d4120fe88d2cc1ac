# Interface of the compiled kernel answers.py; see there.

from typing_extensions import Buffer

class AnswerBuilder:
    def __init__(
        self,
        *,
        entries: Buffer,
        completions: Buffer,
        data: Buffer,
        entry_count: int,
        data_size: int,
        store_host: bytes,
        store_port: int,
        region: bytes = ...,
        trace_on: bool,
    ) -> None: ...
    def close(self) -> None: ...
    def build(
        self, first: int, end: int, flushed_limit: int, out: Buffer
    ) -> tuple[int, list[tuple[int, int, int, int]]]: ...

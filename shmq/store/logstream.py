"""A row of commitlog files as one stream, read a block ahead of who looks at it.

    reader   | block 0 | block 1 | block 2 | ...
    walker             | block 0 | rest of 0 + block 1 | rest of 1 + block 2 | ...

Opening a store reads much that is not in the page cache and never looks at it again. Blocks are
read past that cache where the file system lets them (O_DIRECT), by a thread of the stream, into two
buffers in turn. Each buffer has room before its block for what was left of the one before.
"""

from __future__ import annotations

import errno
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from shmq.store.commitlog import DIRECT_ALIGNMENT, file_name
from shmq.store.disk import DISK, Disk
from shmq.units import MiB

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

BLOCK_SIZE: Final = 8 * MiB
NO_DIRECT: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})


class _Block:
    """Bytes of one file, in a buffer with room before them."""

    def __init__(self, buffer: memoryview, *, begin: int, size: int, file_end: int) -> None:
        self.buffer = buffer
        self.begin = begin
        """Physical offset of the first byte of the block."""
        self.end = begin + size
        self.file_end = file_end


class LogStream:
    """Reads forward, once; each file to its end, then the next one."""

    def __init__(
        self,
        folder: Path,
        *,
        file_size: int,
        start: int,
        end: int,
        direct: bool = False,
        disk: Disk = DISK,
        block_size: int = BLOCK_SIZE,
    ) -> None:
        """`start` and `end` are physical offsets; `end` is where the last file ends."""
        assert block_size % DIRECT_ALIGNMENT == 0, "blocks are aligned for direct reads"
        assert end % file_size == 0, "the last file is read to its end"
        self.rest_max = block_size
        """Most bytes of one call that the next one can begin with."""
        self._folder = folder
        self._file_size = file_size
        self._end = end
        self._direct = direct and file_size % DIRECT_ALIGNMENT == 0
        self._disk = disk
        self._block_size = block_size
        self._fd = -1
        self._fd_start = -1
        self._spare = [memoryview(mmap.mmap(-1, 2 * block_size)) for _ in range(2)]
        few = end - start <= block_size
        self._pool = None if few else ThreadPoolExecutor(1, "shmq-logstream")
        self._coming: Future[_Block] | None = None
        self._now: _Block | None = None
        at = start % file_size
        self._next_begin = start - at % DIRECT_ALIGNMENT

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._close_file()

    def take(self, offset: int) -> tuple[memoryview, bool]:
        """Bytes from `offset` on, at least one more than the last call left there.

        `offset` is in what the last call gave, not more than `rest_max` bytes before its end, or
        after that. The bytes stay valid until the next call.

        Returns:
            (bytes, whether their file ends with them).

        Raises:
            OSError: a file is gone, or the disk refused.
        """
        now = self._now
        rest_size = 0
        rest = memoryview(b"")
        if now is not None and offset < now.end and now.end < now.file_end:
            rest_size = now.end - offset
            assert rest_size <= self.rest_max, "too much is left"
            at = self._block_size + now.end - now.begin
            rest = now.buffer[at - rest_size : at]
        while True:
            block = self._next()
            if block.end > offset:
                break
            self._give_back(block)
        skipped = offset - block.begin if not rest_size else -rest_size
        front = self._block_size + skipped
        if rest_size:
            block.buffer[front : self._block_size] = rest
        if now is not None:
            self._give_back(now)
        self._now = block
        self._read_ahead()
        return (
            block.buffer[front : self._block_size + block.end - block.begin],
            block.end == block.file_end,
        )

    def _next(self) -> _Block:
        """The block that follows, waiting for it."""
        if self._coming is not None:
            block = self._coming.result()
            self._coming = None
            return block
        assert self._next_begin < self._end, "nothing follows"
        return self._read(self._spare.pop())

    def _give_back(self, block: _Block) -> None:
        self._spare.append(block.buffer)
        self._read_ahead()

    def _read_ahead(self) -> None:
        if self._pool is None or self._coming is not None or not self._spare:
            return
        if self._next_begin < self._end:
            self._coming = self._pool.submit(self._read, self._spare.pop())

    def _read(self, buffer: memoryview) -> _Block:
        """Read the next block; one at a time, by whichever thread."""
        begin = self._next_begin
        start = begin - begin % self._file_size
        file_end = start + self._file_size
        size = min(self._block_size, file_end - begin)
        done = 0
        while done < size:
            target = buffer[self._block_size + done : self._block_size + size]
            count = self._read_piece(start, target, begin - start + done)
            if not count:
                raise OSError(
                    errno.EIO, "commitlog file is too short", str(self._folder / file_name(start))
                )
            done += count
        self._next_begin = begin + size
        return _Block(buffer, begin=begin, size=size, file_end=file_end)

    def _read_piece(self, start: int, target: memoryview, at: int) -> int:
        """Read from byte `at` of the file that begins at `start`; how many bytes."""
        try:
            return self._disk.pread_into(self._file(start), target, at)
        except OSError as error:
            if not self._direct or error.errno not in NO_DIRECT:
                raise
            self._direct = False
            self._close_file()
            return self._disk.pread_into(self._file(start), target, at)

    def _file(self, start: int) -> int:
        """Descriptor of the file that begins at `start`."""
        if start != self._fd_start:
            self._close_file()
            flags = os.O_RDONLY | (os.O_DIRECT if self._direct else 0)
            self._fd = self._disk.open(self._folder / file_name(start), flags)
            self._fd_start = start
        return self._fd

    def _close_file(self) -> None:
        if self._fd >= 0:
            self._disk.close(self._fd)
        self._fd = self._fd_start = -1

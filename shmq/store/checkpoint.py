"""The checkpoint file: up to where the store is known to be on disk. See layout.checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shmq.errors import LayoutError
from shmq.layout.checkpoint import FILE_SIZE, Checkpoint, decode, encode
from shmq.log import get_logger
from shmq.store.disk import DISK, Disk
from shmq.store.tables import set_aside

if TYPE_CHECKING:
    from pathlib import Path


class CheckpointFile:
    """Loads and saves one checkpoint file, in place: the five fields lie in one disk sector."""

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self._disk = disk
        self._path = path
        self._saved: Checkpoint | None = None
        self._fd = -1

    def load(self) -> Checkpoint:
        """What the file says; all zero when there is none, or none that is whole.

        A power cut may leave the name without the bytes. Zeros only make recovery look at more. A
        damaged file is renamed and kept.

        Raises:
            OSError: the disk refused.
        """
        try:
            data = self._disk.read_file(self._path, FILE_SIZE)
        except FileNotFoundError:
            return Checkpoint()
        if not data:
            return Checkpoint()
        try:
            return decode(data)
        except LayoutError as error:
            kept_as = set_aside(self._path, disk=self._disk)
            get_logger().warning("checkpoint.damaged", cause=str(error), kept_as=str(kept_as))
            return Checkpoint()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write and sync `checkpoint`; nothing is done when it is the one saved last.

        Raises:
            OSError: the disk refused.
        """
        if checkpoint == self._saved:
            return
        if self._fd < 0:
            self._fd = self._disk.open(self._path, os.O_RDWR | os.O_CREAT)
        self._disk.write(self._fd, encode(checkpoint), 0)
        self._disk.fdatasync(self._fd)
        self._saved = checkpoint

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

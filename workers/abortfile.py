"""The file `abort` in the store folder: there while a broker runs, gone after a clean stop.

Who finds it at the start knows that the last broker did not end cleanly, and looks at the log
(boot.py). Apache's broker has it too. Made after the store was opened and before any role writes;
removed when every role has drained.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from shmq.store.disk import Disk

ABORT_FILE: Final = "abort"


def is_there(store_dir: Path) -> bool:
    """Whether the store's last broker did not end cleanly."""
    return (store_dir / ABORT_FILE).exists()


def create(store_dir: Path, *, disk: Disk) -> None:
    """Mark the store as in use, durably.

    Raises:
        OSError: the disk refused.
    """
    fd = disk.open(store_dir / ABORT_FILE, os.O_WRONLY | os.O_CREAT)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)
    disk.fsync_folder(store_dir)


def remove(store_dir: Path, *, disk: Disk) -> None:
    """Say that the store was left cleanly, durably.

    Raises:
        OSError: the disk refused; then the next start looks at the log, which is no harm.
    """
    if is_there(store_dir):
        disk.unlink(store_dir / ABORT_FILE)
        disk.fsync_folder(store_dir)

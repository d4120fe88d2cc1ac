"""The store's lock: one broker a store, Apache's or ours, and no successor before all roles died.

Two locks on the file `lock` in the store folder, both let go by the kernel:
- fcntl, exclusive, byte [0, 1): the one that Apache's broker takes (Java FileChannel.tryLock). It
  belongs to the supervisor's process and ends with it.
- flock on the open file: the forked roles inherit it, so it lasts until the last of them is gone.
  Between the death of a supervisor and the kernel's killing of its roles lies a moment; the next
  supervisor waits here until it is over, and then knows that nobody writes to the store.

The file must not be opened again in the supervisor: closing any descriptor of it gives the fcntl
lock away.

Source: RocketMQ store/DefaultMessageStore.start; fcntl(2), flock(2).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from typing import TYPE_CHECKING, Final

from shmq.errors import StoreError
from shmq.store.disk import DISK, Disk

if TYPE_CHECKING:
    from pathlib import Path

LOCK_TEXT: Final = b"lock"
LAST_ROLES_MAX_MS: Final = 10_000
RETRY_MS: Final = 10
_FLOCK: Final = struct.Struct(
    "@hhqqi4x"
)  # struct flock of x86-64 Linux: type, whence, start, len, pid
_PID_FIELD: Final = 4


class StoreLock:
    """The lock of one store folder, from take() to release()."""

    def __init__(self, store_dir: Path, *, disk: Disk = DISK) -> None:
        self._disk = disk
        self.path = store_dir / "lock"
        self._fd = -1

    def take(self) -> None:
        """Take both locks.

        Raises:
            StoreError: another broker uses the store; carries its pid.
        """
        assert self._fd < 0, "the lock is taken once"
        fd = self._disk.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
            except OSError as error:
                raise StoreError(
                    "the store is in use by another broker; stop it first, or choose another "
                    "storePathRootDir",
                    lock_file=str(self.path),
                    holder_pid=_holder_pid(fd) or "unknown",
                ) from error
            self._wait_for_last_roles(fd)
            self._disk.write(fd, LOCK_TEXT, 0)
            self._disk.fsync(fd)
        except BaseException:
            self._disk.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Give the locks back; the file stays, as Apache's broker leaves it too.

        The inherited flock is not let go by hand: should a role still live, it must hold it.
        """
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

    def _wait_for_last_roles(self, fd: int) -> None:
        deadline_ms = time.monotonic_ns() // 1_000_000 + LAST_ROLES_MAX_MS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic_ns() // 1_000_000 >= deadline_ms:
                    raise StoreError(
                        "processes of the broker that used this store before are still alive; "
                        "end the processes titled 'shmq: <role>' first",
                        lock_file=str(self.path),
                        waited_ms=LAST_ROLES_MAX_MS,
                    ) from None
                time.sleep(RETRY_MS / 1000)
            else:
                return


def holder_of(store_dir: Path) -> int | None:
    """Process whose broker, Apache's or ours, uses the store; None when none does.

    Disturbs nobody. Not for a process that holds the lock itself: it would lose it.
    """
    try:
        fd = os.open(store_dir / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _holder_pid(fd)
    finally:
        os.close(fd)


def _holder_pid(fd: int) -> int | None:
    """Process that holds the fcntl lock, None when it is gone or not to be seen from here."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
    except OSError:
        return None
    pid: int = _FLOCK.unpack(answer)[_PID_FIELD]
    return pid if pid > 0 else None

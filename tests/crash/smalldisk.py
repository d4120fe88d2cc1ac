"""A small real file system for tests of full disks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from shmq.units import MiB
from tests.compat.processes import Process

DISK_SIZE: Final = 64 * MiB


class SmallDisk:
    """A small file system of its own at a folder, in a mount namespace of its own.

    `wrapper` starts a program in there, where it finds the file system at `folder`; this process
    sees it at `seen`. Who is not root gets a user namespace of its own as well.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        root = os.geteuid() == 0
        as_root = [] if root else ["--user", "--map-root-user"]
        self._holder = Process(
            [
                *("unshare", *as_root, "--mount", "--", "sh", "-c"),
                f"mount -t tmpfs -o size={DISK_SIZE} tmpfs '{folder}' && echo mounted && exec cat",
            ],
            folder=folder.parent,
            name="disk",
        )
        self._holder.await_line(lambda line: "mounted" in line, timeout_s=10)
        enter = [] if root else ["--user", "--preserve-credentials"]
        self.wrapper = ["nsenter", "--target", str(self._holder.pid), *enter, "--mount", "--"]
        self.seen = Path(f"/proc/{self._holder.pid}/root{folder}")

    def used(self) -> int:
        """Bytes that are used on it."""
        room = os.statvfs(self.seen)
        return (room.f_blocks - room.f_bfree) * room.f_frsize

    def fill(self) -> None:
        """Leave no room on it, at once: a reserve that is given up later is not taken."""
        with (self.seen / "fill").open("ab", buffering=0) as file:
            while (room := os.statvfs(self.seen)).f_bfree:
                with contextlib.suppress(OSError):  # The broker took some of it meanwhile.
                    os.posix_fallocate(file.fileno(), 0, room.f_bfree * room.f_frsize)
                    return

    def empty(self) -> None:
        """Take back what fill() did."""
        (self.seen / "fill").unlink()

    def close(self) -> None:
        """End it, with all that is on it."""
        self._holder.end_input()
        self._holder.wait(timeout_s=10)

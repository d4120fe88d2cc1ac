"""The state file `broker.json` in the run directory: who runs, where it listens, how its roles are.

Written by the supervisor, whole each time (write, rename). Read by `shmq status`. It is a picture,
not a lock: that a broker runs is said by the lock on the run directory, which the kernel lets go.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Any

import orjson

from shmq.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

STATE_FILE = "broker.json"
MEMBERS_FILE = "members.msgpack"
"""Who was online, for a successor of the coordinator; it means nothing to the next broker."""
SWEPT_FILES = frozenset(name + end for name in (STATE_FILE, MEMBERS_FILE) for end in ("", ".new"))
STATE_SIZE_MAX = 1024 * 1024


class RunDirLock:
    """The lock on a run directory: two brokers must not share one."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._fd = -1

    def take(self) -> None:
        """Take it.

        Raises:
            ConfigError: another broker, or a last role of one, uses the run directory.
        """
        fd = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise ConfigError(
                "the run directory is in use by another broker; choose another runDir",
                run_dir=str(self._run_dir),
                holder_pid=_holder_pid(self._run_dir),
            ) from error
        self._fd = fd

    def release(self) -> None:
        """Give it back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_state(run_dir: Path, state: dict[str, Any]) -> None:
    """Replace the state file."""
    made = run_dir / (STATE_FILE + ".new")
    made.write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2) + b"\n")
    made.replace(run_dir / STATE_FILE)


def read_state(run_dir: Path) -> dict[str, Any]:
    """State of the broker that runs on `run_dir`.

    Raises:
        Unavailable: none runs there.
    """
    try:
        fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable("no broker runs here", run_dir=str(run_dir)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        found: dict[str, Any] = orjson.loads((run_dir / STATE_FILE).read_bytes()[:STATE_SIZE_MAX])
        return found
    finally:
        os.close(fd)
    raise Unavailable("no broker runs here", run_dir=str(run_dir))


def sweep_run_dir(run_dir: Path) -> list[str]:
    """Remove sockets and state files; returns their names. Only under the lock."""
    swept = []
    for path in sorted(run_dir.iterdir()):
        kind = path.lstat().st_mode
        if stat.S_ISSOCK(kind) or path.name in SWEPT_FILES:
            path.unlink(missing_ok=True)
            swept.append(path.name)
    return swept


def remove_run_dir(run_dir: Path) -> None:
    """Remove what the broker put into the run directory, and itself when nothing else is in it."""
    sweep_run_dir(run_dir)
    with contextlib.suppress(OSError):
        run_dir.rmdir()


def _holder_pid(run_dir: Path) -> object:
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        return orjson.loads((run_dir / STATE_FILE).read_bytes()[:STATE_SIZE_MAX]).get("pid")
    return "unknown"

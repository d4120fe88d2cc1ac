"""What a role process gets from the supervisor by the fork: settings, places, memory, sockets."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmq.errors import ConfigError, LayoutError
from shmq.store.disk import DISK, Disk
from shmq.workers.listeners import address_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from shmq.config import Settings
    from shmq.shm.arena import Arena

INSTANCE_SIZE: Final = 10
"""Hex digits of an instance name."""


def instance_of(place: Path) -> str:
    """Name of the broker whose store lies at `place`: the same for every path that leads there."""
    real = os.fsencode(os.path.realpath(place))
    return hashlib.sha256(real).hexdigest()[:INSTANCE_SIZE]


def store_dir_of(settings: Settings) -> Path:
    """The store folder, absolute."""
    if not settings.store_path_root_dir:
        raise ConfigError("no store folder", setting="storePathRootDir", allowed="a folder")
    return Path(settings.store_path_root_dir).expanduser().absolute()


def run_dir_of(settings: Settings) -> Path:
    """The run directory, absolute: as configured, else `run` in the store folder."""
    if settings.run_dir:
        return Path(settings.run_dir).expanduser().absolute()
    return store_dir_of(settings) / "run"


def namesrv_run_dir_of(settings: Settings) -> Path:
    """The run directory of a name server without a broker: several may share a store folder."""
    if settings.run_dir:
        return run_dir_of(settings)
    return store_dir_of(settings) / f"run-namesrv-{settings.namesrv_listen_port}"


def make_run_dir(path: Path) -> None:
    """Make the run directory, for its owner only.

    Raises:
        ConfigError: it belongs to somebody else, others may write to it, or it is no directory.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "cannot make the run directory", run_dir=str(path), cause=error.strerror
        ) from error
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise ConfigError("the run directory is not a directory", run_dir=str(path))
    if facts.st_uid != os.getuid():
        raise ConfigError(
            "the run directory belongs to another user; choose another runDir",
            run_dir=str(path),
            owner_uid=facts.st_uid,
            allowed_uid=os.getuid(),
        )
    if stat.S_IMODE(facts.st_mode) & 0o022:
        raise ConfigError(
            "others may write to the run directory; chmod it to 0700 or choose another runDir",
            run_dir=str(path),
            mode=oct(stat.S_IMODE(facts.st_mode)),
        )


@dataclass(kw_only=True)
class Context:
    """What the roles share. The supervisor fills it before the first fork and only then."""

    settings: Settings
    instance: str
    store_dir: Path
    run_dir: Path
    started_ms: int
    """Start of the broker, ms since the epoch."""
    embedded_namesrv: bool = False
    listeners: dict[str, list[socket.socket]] = field(default_factory=dict)
    """`main` and `vip`: one for each serve process, by its index; `unix`, `namesrv` and `control`,
    where the coordinator hears the serve processes: one."""
    bound: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Host and port of each TCP listener; a role that does not accept on it has it closed."""
    serve_count: int = 1
    last_exit_clean: bool = True
    """Whether the store's last broker ended cleanly: there was no `abort` file at the start."""
    disk: Disk = DISK
    """By which the store's files are changed."""
    shared: Arena | None = None
    """None where there is no store, as in a stand-alone name server."""
    load_settings: Callable[[], Settings] | None = None
    """Reads the settings again, for SIGHUP; None when there is nothing to read again."""

    @property
    def commitlog_dir(self) -> Path:
        """Folder of the commitlog."""
        configured = self.settings.store_path_commit_log
        return Path(configured).absolute() if configured else self.store_dir / "commitlog"

    @property
    def arena(self) -> Arena:
        """The shared memory of the broker.

        Raises:
            LayoutError: this process family has none.
        """
        if self.shared is None:
            raise LayoutError("no shared memory in a family without a store", run_dir=self.run_dir)
        return self.shared

    def addresses(self) -> dict[str, str]:
        """Where the broker listens for clients, by the kind of listener."""
        return {
            kind: address_of(sockets[0])
            for kind, sockets in self.listeners.items()
            if sockets and kind != "control"
        }


def control_path_of(context: Context) -> Path:
    """Path of the Unix socket between the coordinator and the serve processes."""
    return context.run_dir / "control.sock"

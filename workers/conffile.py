"""Reads broker.conf and everything else that settings come from, at start and at SIGHUP."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shmq import config
from shmq.errors import ConfigError
from shmq.units import MiB
from shmq.workers.addresses import read_machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_SIZE_MAX: Final = MiB


class SettingsSource:
    """Where the settings of this process come from; can be read again."""

    def __init__(
        self, path: Path | None, overrides: Mapping[str, str], environ: Mapping[str, str]
    ) -> None:
        self._path = path
        self._overrides = dict(overrides)
        self._environ = dict(environ)
        self.warnings: list[str] = []
        """Of the last reading."""

    def read(self) -> config.Settings:
        """The settings as they are written now.

        Raises:
            ConfigError: the file cannot be read, or something in it is wrong.
        """
        text = None if self._path is None else read_conf(self._path)
        settings, self.warnings = config.load(
            text,
            self._environ,
            self._overrides,
            source=str(self._path),
            machine=read_machine(),
        )
        return settings


def read_conf(path: Path) -> str:
    """Text of broker.conf.

    Raises:
        ConfigError: there is no such file, it may not be read, or it is too large to be one.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > FILE_SIZE_MAX:
                raise ConfigError(
                    "too large for a settings file", path=path, size=size, allowed=FILE_SIZE_MAX
                )
            data = file.read(FILE_SIZE_MAX)
    except OSError as error:
        raise ConfigError("cannot read the settings", path=path, cause=error.strerror) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # What Java's properties were written in for long.

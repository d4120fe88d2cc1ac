"""Where a client connects: the address text, and where to look when none is given.

text                     what it names
None                     $SHMQ_ADDRESS; else the first Unix socket found:
                         $SHMQ_RUN_DIR/shmq.sock, then store/run/shmq.sock in the home folder
unix:/path, /path        a broker's Unix socket; `?copy=1`: no shared memory
host:port;host:port      name servers
broker:host:port         one broker, without name servers
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl

from shmq.errors import ConfigError, NotConnected

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS_VARIABLE: Final = "SHMQ_ADDRESS"
RUN_DIR_VARIABLE: Final = "SHMQ_RUN_DIR"
SOCKET_NAME: Final = "shmq.sock"
UNIX_PREFIX: Final = "unix:"
BROKER_PREFIX: Final = "broker:"
PORT_MAX: Final = 65_535
FORMS: Final = "unix:/path, host:port;host:port (name servers) or broker:host:port"


class Endpoint(NamedTuple):
    """One place to open a connection to."""

    host: str
    """Empty for a Unix socket."""
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        """A connected socket.

        Raises:
            OSError: nobody listens there, or not within `timeout` seconds.
        """
        if not self.path:
            sock = socket.create_connection((self.host, self.port), timeout=timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(timeout)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock


class Address(NamedTuple):
    """A parsed address: name servers, or one broker."""

    text: str
    name_servers: tuple[Endpoint, ...] = ()
    broker: Endpoint | None = None
    copy: bool = False
    """Whether shared memory must not be used."""

    @property
    def is_local(self) -> bool:
        """Whether it is a Unix socket."""
        return self.broker is not None and bool(self.broker.path)


def parse_address(text: str) -> Address:
    """What an address names.

    Raises:
        ConfigError: it has none of the forms.
    """
    text = text.strip()
    if text.startswith((UNIX_PREFIX, "/")):
        path, _, query = text.removeprefix(UNIX_PREFIX).partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        copy = options.pop("copy", "0")
        if not path or options or copy not in {"0", "1"}:
            raise ConfigError("Unix address", found=text, allowed="unix:/path or unix:/path?copy=1")
        return Address(text, broker=Endpoint("", 0, path), copy=copy == "1")
    if text.startswith(BROKER_PREFIX):
        return Address(text, broker=parse_endpoint(text.removeprefix(BROKER_PREFIX)))
    parts = [part for part in text.split(";") if part.strip()]
    if not parts:
        raise ConfigError("empty address", allowed=FORMS)
    return Address(text, name_servers=tuple(parse_endpoint(part) for part in parts))


def parse_endpoint(text: str) -> Endpoint:
    """Endpoint of "host:port" or "[v6 host]:port".

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # An IPv6 address without brackets could end anywhere.
    if not colon or not host or not (port.isascii() and port.isdigit()):
        raise ConfigError("address", found=text, allowed=FORMS)
    if not 0 < int(port[:6]) <= PORT_MAX:
        raise ConfigError("port of an address", found=text, allowed=(1, PORT_MAX))
    return Endpoint(host, int(port))


def find_address(environ: Mapping[str, str] | None = None) -> Address:
    """The address by convention, where the caller names none.

    Raises:
        NotConnected: there is none; says what was tried.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(ADDRESS_VARIABLE, "")
    if named:
        return parse_address(named)
    tried = [f"${ADDRESS_VARIABLE} (not set)"]
    run_dir = environ.get(RUN_DIR_VARIABLE, "")
    paths = []
    if run_dir:
        paths.append(Path(run_dir).expanduser() / SOCKET_NAME)
    else:
        tried.append(f"${RUN_DIR_VARIABLE} (not set)")
    home = environ.get("HOME", "")
    if home:
        paths.append(Path(home) / "store" / "run" / SOCKET_NAME)
    for path in paths:
        found = _is_socket(path)
        if found is None:
            return Address(f"{UNIX_PREFIX}{path}", broker=Endpoint("", 0, str(path)))
        tried.append(f"{path} ({found})")
    raise NotConnected(
        "no broker found",
        tried=", ".join(tried),
        hint="start one with `shmq standalone`, or give an address: " + FORMS,
    )


def _is_socket(path: Path) -> str | None:
    """None when a socket is there, else what is there instead."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror or str(error)
    return None if stat.S_ISSOCK(mode) else "no socket"

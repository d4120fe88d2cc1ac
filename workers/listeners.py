"""The sockets that the broker listens on: made before the fork, kept open by the supervisor.

The supervisor never accepts. It holds the sockets so that a serve process that died is replaced
by one that inherits the same sockets: meanwhile clients wait in the backlog and are not refused.

- TCP: one socket with SO_REUSEPORT for each serve process, all on the same port, so that the
  kernel spreads connections over the processes.
- Unix: one socket for all serve processes; the kernel does not spread there, who is first accepts.

SO_REUSEPORT would let a second broker of the same user share the port in silence. So the port is
first bound without it: that fails when anybody listens.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNIX_PATH_SIZE_MAX: Final = 107
"""sun_path is 108 bytes with its final zero."""
VIP_DISTANCE: Final = 2
"""Clients find the VIP port at listenPort - 2 (RocketMQ MixAll.brokerVIPChannel)."""
PORT_MAX: Final = 65_535
FREE_PORT_TRIES: Final = 50
"""With listenPort 0 the port two below the one that the kernel chose may be taken."""


class Place(NamedTuple):
    """An address to listen on."""

    family: socket.AddressFamily
    host: str
    port: int

    def __str__(self) -> str:
        if self.family == socket.AF_INET6:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def place(bind_address: str, port: int) -> Place:
    """Where `bind_address` is. Empty: all IPv4 addresses; `::`: all of IPv6 and IPv4.

    Raises:
        ConfigError: it is no IP address.
    """
    host = bind_address.strip().removeprefix("[").removesuffix("]") or "0.0.0.0"  # noqa: S104  the documented default
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return Place(family, host, port)
    raise ConfigError(
        "bindAddress is not an IP address",
        bind_address=bind_address,
        allowed="an IPv4 or IPv6 address of this host, 0.0.0.0, or :: for both",
    )


def listen_tcp(where: Place, count: int, *, setting: str, backlog: int) -> list[socket.socket]:
    """`count` listening sockets on one TCP port; port 0 is a free one that the kernel chooses.

    Raises:
        ConfigError: the port is taken, forbidden, or the address is not of this host.
    """
    assert count >= 1, "a port needs a listener"
    sockets: list[socket.socket] = []
    try:
        with _bound(where, setting=setting, shared=False) as probe:
            # Only a listening probe collides with listeners that set SO_REUSEADDR as well.
            _listen(probe, where, setting, backlog=1)
            chosen = where._replace(port=probe.getsockname()[1])
        for _ in range(count):
            sock = _bound(chosen, setting=setting, shared=count > 1)
            sockets.append(sock)
            _listen(sock, chosen, setting, backlog=backlog)
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def listen_with_vip(
    where: Place, count: int, *, backlog: int
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Listening sockets of listenPort and of the VIP port two below it.

    Raises:
        ConfigError: one of the ports is taken, or there is no port two below.
    """
    if 0 < where.port <= VIP_DISTANCE:
        raise ConfigError(
            "listenPort leaves no room for the VIP port two below it",
            listen_port=where.port,
            allowed=f"0, or {VIP_DISTANCE + 1} to {PORT_MAX}",
        )
    tries = 1 if where.port else FREE_PORT_TRIES
    for attempt in range(1, tries + 1):
        main = listen_tcp(where, count, setting="listenPort", backlog=backlog)
        vip_port = main[0].getsockname()[1] - VIP_DISTANCE
        try:
            vip = listen_tcp(
                where._replace(port=vip_port), count, setting="listenPort - 2", backlog=backlog
            )
        except ConfigError:
            close_all(main)
            if attempt == tries:
                raise
        else:
            return main, vip
    raise AssertionError("the last try returns or raises")


def listen_unix(path: Path, *, mode: int, backlog: int) -> socket.socket:
    """A listening Unix socket at `path`, which appears there with `mode` and not a moment wider.

    A socket file that nobody listens on any more is replaced.

    Raises:
        ConfigError: the path is too long, taken by something else, or somebody listens there.
    """
    if len(os.fsencode(path)) > UNIX_PATH_SIZE_MAX:
        raise ConfigError(
            "socketPath is too long for a Unix socket; choose a shorter runDir or socketPath",
            path=str(path),
            size=len(os.fsencode(path)),
            allowed=UNIX_PATH_SIZE_MAX,
        )
    _remove_dead_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
        path.chmod(mode)
        sock.setblocking(False)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ConfigError(
            "cannot listen on the Unix socket", path=str(path), cause=error.strerror
        ) from error
    finally:
        os.umask(mask)
    return sock


def close_all(sockets: list[socket.socket]) -> None:
    """Close every socket of the list."""
    for sock in sockets:
        sock.close()


def end_all(sockets: list[socket.socket]) -> None:
    """Close every socket of the list, and remove the files of Unix sockets: nobody listens then."""
    for sock in sockets:
        if sock.family == socket.AF_UNIX:  # While it listens, nobody else can have the path.
            Path(sock.getsockname()).unlink(missing_ok=True)
    close_all(sockets)


def bound(listeners: Mapping[str, Sequence[socket.socket]]) -> dict[str, tuple[str, int]]:
    """Host and port of the TCP listeners, by their kind."""
    return {
        kind: sockets[0].getsockname()[:2]
        for kind, sockets in listeners.items()
        if sockets and sockets[0].family != socket.AF_UNIX
    }


def address_of(sock: socket.socket) -> str:
    """Address of a listening socket, for a person or a client."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return str(name)
    return str(Place(socket.AddressFamily(sock.family), name[0], name[1]))


def _bound(where: Place, *, setting: str, shared: bool) -> socket.socket:
    sock = socket.socket(where.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if where.family == socket.AF_INET6:
            only = where.host != "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.setblocking(False)
        sock.bind((where.host, where.port))
    except OSError as error:
        sock.close()
        raise _refused(error, where, setting) from error
    return sock


def _listen(sock: socket.socket, where: Place, setting: str, *, backlog: int) -> None:
    try:
        sock.listen(backlog)
    except OSError as error:
        raise _refused(error, where, setting) from error


def _refused(error: OSError, where: Place, setting: str) -> ConfigError:
    hints = {
        errno.EADDRINUSE: "another process listens there; stop it or choose another port",
        errno.EACCES: "this user may not bind it; ports below 1024 need a privilege",
        errno.EADDRNOTAVAIL: "this host does not have the address; see bindAddress",
        errno.EAFNOSUPPORT: "this host does not have this kind of address; see bindAddress",
    }
    return ConfigError(
        "cannot listen",
        address=str(where),
        setting=setting,
        cause=error.strerror,
        hint=hints.get(error.errno or 0, "see the cause"),
    )


def _remove_dead_socket(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ConfigError("socketPath is taken by a file that is no socket", path=str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigError(
                "socketPath is in use", path=str(path), cause=error.strerror
            ) from error
    raise ConfigError("another process listens on socketPath", path=str(path))

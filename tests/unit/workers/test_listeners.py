"""Listening sockets: ports that are taken, the VIP port, Unix sockets and their files."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmq.errors import ConfigError
from shmq.workers.listeners import (
    UNIX_PATH_SIZE_MAX,
    Place,
    address_of,
    bound,
    close_all,
    end_all,
    listen_tcp,
    listen_unix,
    listen_with_vip,
    place,
)

LOCAL = Place(socket.AF_INET, "127.0.0.1", 0)
BACKLOG = 16


@pytest.fixture
def kept() -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    close_all(sockets)


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("text", "family", "host"),
    [
        ("", socket.AF_INET, "0.0.0.0"),  # noqa: S104
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        (" 127.0.0.1 ", socket.AF_INET, "127.0.0.1"),
        ("::", socket.AF_INET6, "::"),
        ("[::1]", socket.AF_INET6, "::1"),
    ],
)
def test_places(text: str, family: int, host: str) -> None:
    found = place(text, 5)
    assert (found.family, found.host, found.port) == (family, host, 5)
    assert str(found).endswith(":5")


@pytest.mark.parametrize("text", ["localhost", "1.2.3", "1.2.3.4.5", ":::", "127.0.0.1:80"])
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="not an IP address"):
        place(text, 5)


@pytest.mark.parametrize("count", [1, 3])
def test_several_sockets_share_a_port(kept: list[socket.socket], count: int) -> None:
    kept += listen_tcp(LOCAL, count, setting="x", backlog=BACKLOG)
    assert len({port_of(sock) for sock in kept}) == 1
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port_of(kept[0])), timeout=5):
            pass
    assert not any(sock.getblocking() or sock.get_inheritable() for sock in kept)
    assert address_of(kept[0]) == f"127.0.0.1:{port_of(kept[0])}"
    assert bound({"main": kept}) == {"main": ("127.0.0.1", port_of(kept[0]))}


@pytest.mark.parametrize("reuse", ["nothing", "reuse port"])
def test_a_taken_port_is_said(kept: list[socket.socket], reuse: str) -> None:
    """Also when the other one lets others share its port."""
    other = socket.socket()
    kept.append(other)
    if reuse == "reuse port":
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    other.bind(("127.0.0.1", 0))
    other.listen(1)
    where = LOCAL._replace(port=port_of(other))
    with pytest.raises(ConfigError, match="another process listens") as raised:
        listen_tcp(where, 2, setting="listenPort", backlog=BACKLOG)
    assert raised.value.facts["setting"] == "listenPort"


def test_an_address_of_another_host(kept: list[socket.socket]) -> None:
    with pytest.raises(ConfigError, match="see bindAddress"):
        listen_tcp(Place(socket.AF_INET, "192.0.2.1", 0), 1, setting="x", backlog=BACKLOG)


def test_the_vip_port_is_two_below(kept: list[socket.socket]) -> None:
    main, vip = listen_with_vip(LOCAL, 2, backlog=BACKLOG)
    kept += main + vip
    assert (len(main), len(vip)) == (2, 2)
    assert port_of(vip[0]) == port_of(main[0]) - 2
    for sock in (main[0], vip[0]):
        with socket.create_connection(("127.0.0.1", port_of(sock)), timeout=5):
            pass


def test_a_taken_vip_port_is_said_and_the_main_port_given_back(kept: list[socket.socket]) -> None:
    kept += listen_tcp(LOCAL, 1, setting="x", backlog=BACKLOG)
    where = LOCAL._replace(port=port_of(kept[0]) + 2)
    with pytest.raises(ConfigError, match="listenPort - 2"):
        listen_with_vip(where, 1, backlog=BACKLOG)
    kept += listen_tcp(where, 1, setting="x", backlog=BACKLOG)


@pytest.mark.parametrize("port", [1, 2])
def test_ports_without_room_for_the_vip_port(port: int) -> None:
    with pytest.raises(ConfigError, match="no room for the VIP port"):
        listen_with_vip(LOCAL._replace(port=port), 1, backlog=BACKLOG)


def test_a_unix_socket_has_its_mode_from_the_start(
    tmp_path: Path, kept: list[socket.socket]
) -> None:
    path = tmp_path / "s"
    mask = os.umask(0)
    try:
        kept.append(listen_unix(path, mode=0o660, backlog=BACKLOG))
        assert os.umask(0) == 0, "the process's own mask is as before"
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert address_of(kept[0]) == str(path)
    assert bound({"unix": kept}) == {}
    end_all(kept)
    assert not path.exists()


def test_a_socket_file_of_a_dead_process_is_replaced(
    tmp_path: Path, kept: list[socket.socket]
) -> None:
    path = tmp_path / "s"
    listen_unix(path, mode=0o600, backlog=BACKLOG).close()
    assert path.exists()
    kept.append(listen_unix(path, mode=0o600, backlog=BACKLOG))
    with pytest.raises(ConfigError, match="another process listens"):
        listen_unix(path, mode=0o600, backlog=BACKLOG)


def test_paths_that_cannot_be_sockets(tmp_path: Path, kept: list[socket.socket]) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        listen_unix(file, mode=0o600, backlog=BACKLOG)
    assert file.read_text() == "precious"
    with pytest.raises(ConfigError, match="cannot listen"):
        listen_unix(tmp_path / "no" / "folder", mode=0o600, backlog=BACKLOG)


def test_path_lengths(tmp_path: Path, kept: list[socket.socket]) -> None:
    home = Path.cwd()
    os.chdir(tmp_path)
    try:
        kept.append(listen_unix(Path("a" * UNIX_PATH_SIZE_MAX), mode=0o600, backlog=BACKLOG))
        with pytest.raises(ConfigError, match="too long"):
            listen_unix(Path("a" * (UNIX_PATH_SIZE_MAX + 1)), mode=0o600, backlog=BACKLOG)
    finally:
        os.chdir(home)

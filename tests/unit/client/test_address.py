from __future__ import annotations

import socket
from pathlib import Path

import pytest

from shmq.client.address import Endpoint, find_address, parse_address
from shmq.errors import ConfigError, NotConnected


def test_forms() -> None:
    unix = parse_address("unix:/run/shmq.sock")
    assert unix.broker == Endpoint("", 0, "/run/shmq.sock")
    assert (unix.is_local, unix.copy) == (True, False)
    assert parse_address("/run/shmq.sock").broker == unix.broker
    assert parse_address("/run/shmq.sock?copy=1").copy
    assert parse_address("broker:h:1").broker == Endpoint("h", 1)
    two = parse_address(" h:1;[::1]:2; ")
    assert two.name_servers == (Endpoint("h", 1), Endpoint("::1", 2))
    assert two.broker is None
    assert not two.is_local


def test_as_text() -> None:
    assert str(Endpoint("h", 1)) == "h:1"
    assert str(Endpoint("::1", 2)) == "[::1]:2"
    assert str(Endpoint("", 0, "/x")) == "unix:/x"


@pytest.mark.parametrize(
    "text",
    ["", "  ", ";", "h", "h:", ":1", "h:0", "h:65536", "h:x", "h:-1", "::1:1", "unix:", "/x?copy=2",
     "/x?fast=1", "broker:", "broker:h", "h:1;k"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_the_variable_comes_first(tmp_path: Path) -> None:
    found = find_address({"SHMQ_ADDRESS": "h:1", "SHMQ_RUN_DIR": str(tmp_path)})
    assert found.name_servers == (Endpoint("h", 1),)


def test_sockets_are_looked_for_in_order(tmp_path: Path) -> None:
    run, home = tmp_path / "run", tmp_path / "home"
    environ = {"SHMQ_RUN_DIR": str(run), "HOME": str(home)}
    run.mkdir()
    (home / "store" / "run").mkdir(parents=True)
    (run / "shmq.sock").write_text("no socket")
    with pytest.raises(NotConnected, match=r"run/shmq\.sock \(no socket\)"):
        find_address(environ)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(home / "store" / "run" / "shmq.sock"))
        found = find_address(environ)
        assert found.broker is not None
        assert found.broker.path == str(home / "store" / "run" / "shmq.sock")
        (run / "shmq.sock").unlink()
        other.bind(str(run / "shmq.sock"))
        found = find_address(environ)
        assert found.broker is not None
        assert found.broker.path == str(run / "shmq.sock")


def test_nothing_set() -> None:
    with pytest.raises(NotConnected, match=r"SHMQ_ADDRESS .not set., .SHMQ_RUN_DIR .not set."):
        find_address({})

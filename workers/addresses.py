"""Reads this machine's name and network interfaces; what is chosen from them is pure (config)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from shmq.config.addresses import Interface, choose_address
from shmq.config.sources import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable

ROUTE_TABLE: Final = Path("/proc/net/route")
ROUTE_UP: Final = 0x1
ANY_DESTINATION: Final = "00000000"
ROUTE_COLUMNS: Final = ("name", "destination", "gateway", "flags", "refcnt", "use", "metric")


def read_machine() -> Machine:
    """Name and address of this machine, as far as they can be read."""
    return Machine(host_name=socket.gethostname(), address=choose_address(read_interfaces()))


def read_interfaces() -> list[Interface]:
    """Every IP address of this machine."""
    default = default_interface(_lines(ROUTE_TABLE))
    stats = psutil.net_if_stats()
    return [
        Interface(
            name=name,
            address=one.address.partition("%")[0],
            up=name in stats and stats[name].isup,
            default_route=name == default,
        )
        for name, addresses in psutil.net_if_addrs().items()
        for one in addresses
        if one.family in {socket.AF_INET, socket.AF_INET6}
    ]


def default_interface(route_lines: Iterable[str]) -> str:
    """Interface of the default route with the least metric; empty when there is none.

    Source: Linux, /proc/net/route: a heading, then one route a line in ROUTE_COLUMNS.
    """
    best = ("", -1)
    for line in route_lines:
        columns = dict(zip(ROUTE_COLUMNS, line.split(), strict=False))
        if columns.get("destination") != ANY_DESTINATION or "metric" not in columns:
            continue
        if not int(columns["flags"], 16) & ROUTE_UP:
            continue
        metric = int(columns["metric"])
        if best[1] < 0 or metric < best[1]:
            best = (columns["name"], metric)
    return best[0]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # No such file outside of Linux; then no interface is preferred.

"""Which of this machine's addresses clients are told to connect to. Pure: the caller reads them."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOPBACK: Final = "127.0.0.1"
INSIDE_PREFIXES: Final = ("br-", "docker", "virbr", "veth", "vnet", "vmnet", "vboxnet", "podman")
INSIDE_PREFIXES_OF_CLUSTERS: Final = ("cali", "cni", "flannel", "kube", "lxc", "lxd")
"""Interfaces between this machine and its own guests: nobody else can reach their addresses."""


class Interface(NamedTuple):
    """One address of one network interface."""

    name: str
    address: str
    up: bool = True
    default_route: bool = False


def choose_address(interfaces: Iterable[Interface]) -> str:
    """The address that most clients can reach; LOOPBACK when there is no other.

    Only interfaces that are up count, and no loopback, link-local address or bridge to guests; the
    one with the default route comes first, then IPv4 before IPv6, then the order given.
    """
    usable = [interface for interface in interfaces if _usable(interface)]
    if not usable:
        return LOOPBACK
    return min(usable, key=_rank).address


def is_any_address(address: str) -> bool:
    """Whether `address` stands for all interfaces."""
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False


def _usable(interface: Interface) -> bool:
    try:
        address = ipaddress.ip_address(interface.address)
    except ValueError:
        return False
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return False
    if address.is_multicast or interface.name.startswith(
        INSIDE_PREFIXES + INSIDE_PREFIXES_OF_CLUSTERS
    ):
        return False
    return interface.up


def _rank(interface: Interface) -> tuple[bool, bool]:
    return (not interface.default_route, ":" in interface.address)

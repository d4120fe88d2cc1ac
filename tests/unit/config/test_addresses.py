from __future__ import annotations

import pytest

from shmq.config.addresses import LOOPBACK, Interface, choose_address, is_any_address
from shmq.workers.addresses import default_interface

ETHERNET = Interface("eth0", "10.0.0.5")
SECOND = Interface("eth1", "192.168.7.5")
SIX = Interface("eth0", "2001:db8::5")


@pytest.mark.parametrize(
    ("interfaces", "chosen"),
    [
        ([], LOOPBACK),
        ([Interface("lo", "127.0.0.1")], LOOPBACK),
        ([ETHERNET, SECOND], "10.0.0.5"),
        ([ETHERNET, SECOND._replace(default_route=True)], "192.168.7.5"),
        ([SIX, ETHERNET], "10.0.0.5"),
        ([SIX], "2001:db8::5"),
        ([SIX._replace(default_route=True), ETHERNET], "2001:db8::5"),
        ([ETHERNET._replace(up=False)], LOOPBACK),
        ([Interface("docker0", "172.17.0.1"), SECOND], "192.168.7.5"),
        ([Interface("br-1a2b", "172.18.0.1"), Interface("veth1", "10.9.9.9")], LOOPBACK),
        ([Interface("eth0", "169.254.1.1"), Interface("eth0", "fe80::1")], LOOPBACK),
        ([Interface("eth0", "224.0.0.1"), Interface("eth0", "0.0.0.0")], LOOPBACK),  # noqa: S104
        ([Interface("eth0", "no address")], LOOPBACK),
    ],
)
def test_choice(interfaces: list[Interface], chosen: str) -> None:
    assert choose_address(interfaces) == chosen


@pytest.mark.parametrize(
    ("address", "any_of_them"),
    [("0.0.0.0", True), ("::", True), ("127.0.0.1", False), ("host", False)],  # noqa: S104
)
def test_is_any_address(address: str, *, any_of_them: bool) -> None:
    assert is_any_address(address) is any_of_them


def test_default_interface_is_the_one_with_the_least_metric() -> None:
    table = [
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT",
        "eth0 00000000 0100000A 0003 0 0 100 00000000 0 0 0",
        "wlan0 00000000 0100000A 0003 0 0 50 00000000 0 0 0",
        "down0 00000000 0100000A 0002 0 0 1 00000000 0 0 0",
        "eth0 0000000A 00000000 0001 0 0 0 00FFFFFF 0 0 0",
        "",
    ]
    assert default_interface(table) == "wlan0"
    assert default_interface(table[:1]) == ""

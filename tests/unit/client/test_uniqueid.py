from __future__ import annotations

import ipaddress
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from shmq.client.uniqueid import IdMaker, local_address, month_of


def test_form() -> None:
    """Address, pid, a number, ms since the first of the month, counter; as in Apache's ids."""
    made = IdMaker("192.0.2.2")
    before = time.time()
    one, two = made.next(), made.next()
    assert re.fullmatch("[0-9A-F]{32}", one)
    data = bytes.fromhex(one)
    assert data[:4] == bytes([192, 0, 2, 2])
    assert int.from_bytes(data[4:6], "big") == os.getpid() & 0xFFFF
    milliseconds = int.from_bytes(data[10:14], "big")
    assert 0 <= milliseconds - (before - month_of(before)[0]) * 1000 + 1 < 60_000
    assert one[:20] == two[:20]
    assert (int(one[28:], 16) + 1) & 0xFFFF == int(two[28:], 16)


def test_ipv6() -> None:
    one = IdMaker("2001:db8::1%eth0").next()
    assert re.fullmatch("[0-9A-F]{56}", one)
    assert bytes.fromhex(one)[:16] == ipaddress.ip_address("2001:db8::1").packed


def test_all_differ_whoever_makes_them() -> None:
    made = IdMaker("127.0.0.1")
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda _: [made.next() for _ in range(2000)], range(8)))
    ids = [one for part in parts for one in part]
    assert len(set(ids)) == 16_000


@pytest.mark.parametrize("moment", [0.0, 1_700_000_000.0, 1_704_067_199.0, 1_704_067_200.0])
def test_months(moment: float) -> None:
    begin, end = month_of(moment)
    assert begin <= moment < end
    assert time.localtime(begin)[2:6] == (1, 0, 0, 0)
    assert time.localtime(end)[2:6] == (1, 0, 0, 0)
    assert 27 < (end - begin) / 86400 < 32


def test_a_new_month(monkeypatch: pytest.MonkeyPatch) -> None:
    made = IdMaker("127.0.0.1")
    _begin, end = month_of(time.time())
    monkeypatch.setattr(time, "time", lambda: end + 0.005)
    assert int(made.next()[20:28], 16) in {4, 5}


def test_local_address_is_one() -> None:
    ipaddress.ip_address(local_address())

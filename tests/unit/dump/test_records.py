from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmq.dump import dump, line
from shmq.dump.records import sys_flag_names
from shmq.layout import record as layout
from shmq.layout.record import Record, blank, encode

FILE_SIZE = 4096
SYSTEM_FLAGS = [
    (0, []),
    (1, ["COMPRESSED"]),
    (0x8, ["TRANSACTION_COMMIT"]),
    (0xC, ["TRANSACTION_ROLLBACK"]),
    (0x301, ["COMPRESSED", "COMPRESSION_ZLIB"]),
    (0x700, ["COMPRESSION_0x700"]),
    (0x30, ["BORN_HOST_V6", "STORE_HOST_V6"]),
]


def three_records() -> list[bytes]:
    records: list[bytes] = []
    for number in range(3):
        record = Record(
            topic="Orders",
            body=b"body %d" % number,
            properties=b"TAGS\x01red\x02",
            queue_id=number,
            queue_offset=7 * number,
            physical_offset=len(b"".join(records)),
            store_timestamp=1_700_000_000_000 + number,
            born_port=4711,
        )
        records.append(encode(record))
    return records


@pytest.fixture
def commitlog(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a commitlog file, filled up with zeros."""
    folder = tmp_path / "commitlog"
    folder.mkdir()

    def write(data: bytes, *, start: int = 0, size: int = FILE_SIZE) -> Path:
        path = folder / f"{start:020d}"
        path.write_bytes(data.ljust(size, b"\0"))
        return path

    return write


def items_of(path: Path, **how: Any) -> list[dict[str, Any]]:
    return list(dump(str(path), **how))


def test_records_then_zeros(commitlog: Callable[..., Path]) -> None:
    records = three_records()
    items = items_of(commitlog(b"".join(records)), with_body=True)
    assert [item["kind"] for item in items] == ["record"] * 3 + ["end"]
    assert items[-1]["at"] == len(b"".join(records))
    second = items[1]
    assert second["at"] == second["physicalOffset"] == len(records[0])
    assert second["body"] == "body 1"
    assert second["properties"] == {"TAGS": "red"}
    assert second["bornHost"] == "127.0.0.1:4711"
    assert "storeTimestamp=2023-11-14T22:13:20.001Z" in line(second)


@pytest.mark.parametrize("first", range(0, 330, 11))
def test_from_any_position_begins_at_the_next_record(
    commitlog: Callable[..., Path], first: int
) -> None:
    records = three_records()
    starts = [0, len(records[0]), len(records[0]) + len(records[1])]
    items = items_of(commitlog(b"".join(records)), first=first)
    shown = [item["at"] for item in items if item["kind"] == "record"]
    assert shown == [start for start in starts if start >= first]
    assert items == [] or items[-1]["kind"] == "end"


def test_blank_fills_the_file(commitlog: Callable[..., Path]) -> None:
    records = b"".join(three_records())
    path = commitlog(records + blank(FILE_SIZE - len(records)))
    assert items_of(path)[-1] == {
        "kind": "blank",
        "at": len(records),
        "size": FILE_SIZE - len(records),
    }


@pytest.mark.parametrize("size", [-1, 0, 7, FILE_SIZE + 1])
def test_blank_of_wrong_size(commitlog: Callable[..., Path], size: int) -> None:
    head = size.to_bytes(4, "big", signed=True) + layout.BLANK_MAGIC.to_bytes(4, "big")
    (item,) = items_of(commitlog(head))
    assert item["kind"] == "damage"
    assert f"blank size: found={size}" in item["what"]
    assert item["bytes"].startswith(head.hex())


@pytest.mark.parametrize("size", [-1, 0, layout.RECORD_SIZE_MIN - 1, FILE_SIZE + 1, 2**31 - 1])
def test_record_of_wrong_size(commitlog: Callable[..., Path], size: int) -> None:
    record = size.to_bytes(4, "big", signed=True) + three_records()[0][4:]
    items = items_of(commitlog(record))
    assert [item["kind"] for item in items] == ["damage"]
    assert f"record size: found={size}" in items[0]["what"]


def test_cut_at_every_byte(commitlog: Callable[..., Path]) -> None:
    record = three_records()[0]
    for size in range(1, len(record)):
        items = items_of(commitlog(record[:size], size=size))
        assert [item["kind"] for item in items] == ["damage"]


def test_wrong_crc_is_shown_and_the_rest_too(commitlog: Callable[..., Path]) -> None:
    records = three_records()
    data = bytearray(b"".join(records))
    data[len(records[0]) + layout.BODY_AT] ^= 0xFF
    items = items_of(commitlog(bytes(data)))
    assert [item["kind"] for item in items] == ["record"] * 3 + ["end"]
    assert items[1]["bodyCrcComputed"] != items[1]["bodyCrc"]
    assert "bodyCrcComputed" not in items[0]


def test_record_in_a_foreign_place(commitlog: Callable[..., Path]) -> None:
    items = items_of(commitlog(three_records()[0], start=8192))
    assert items[0]["physicalOffset"] == 0
    assert items[0]["physicalOffsetExpected"] == 8192


def test_copy_under_another_name_has_no_expected_place(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    path.write_bytes(three_records()[1])
    (item,) = items_of(path)
    assert item["kind"] == "record"
    assert "physicalOffsetExpected" not in item


def test_row_of_files_is_counted_by_physical_offset(commitlog: Callable[..., Path]) -> None:
    first = b"".join(three_records())
    commitlog(first + blank(FILE_SIZE - len(first)))
    later = encode(Record(topic="Later", body=b"", physical_offset=FILE_SIZE))
    path = commitlog(later, start=FILE_SIZE)
    items = items_of(path.parent, first=FILE_SIZE)
    assert [item["kind"] for item in items] == ["file", "record", "end"]
    assert items[1]["topic"] == "Later"
    items = items_of(path.parent, first=len(three_records()[0]))
    assert [item["kind"] for item in items] == [
        "file", "record", "record", "blank", "file", "record", "end",
    ]  # fmt: skip


def test_ipv6_and_unprintable_text_stay_on_one_line(commitlog: Callable[..., Path]) -> None:
    record = Record(
        topic="a\x1b[2Jb\x9b",
        body=b"\xff\x00",
        properties="KEYS\x01x\ny \U000e0001\x02".encode(),
        sys_flag=layout.BORN_HOST_V6,
        born_host=bytes(15) + b"\x01",
        born_port=1,
    )
    item, _ = items_of(commitlog(encode(record)), with_body=True)
    assert item["bornHost"] == "[::1]:1"
    assert item["bodyHex"] == "ff00"
    text = line(item)
    assert text.isprintable()
    assert r'topic="a\u001b[2Jb\u009b"' in text


@pytest.mark.parametrize(("flags", "names"), SYSTEM_FLAGS)
def test_sys_flag_names(flags: int, names: list[str]) -> None:
    assert sys_flag_names(flags) == names


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    damaged=st.lists(st.tuples(st.integers(0, 350), st.integers(0, 255)), max_size=4),
    first=st.integers(0, 400),
)
def test_any_damage_ends_the_dump_and_nothing_else(
    commitlog: Callable[..., Path], damaged: list[tuple[int, int]], first: int
) -> None:
    data = bytearray(b"".join(three_records()).ljust(512, b"\0"))
    for at, value in damaged:
        data[at] = value
    items = items_of(commitlog(bytes(data)), first=first, with_body=True)
    assert all(item["kind"] in {"record", "blank"} for item in items[:-1])
    assert all(line(item).isprintable() for item in items)

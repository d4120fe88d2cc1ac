from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmq.dump import dump, line
from shmq.errors import StoreError
from shmq.layout import checkpoint, cqentry, indexfile, offsetjournal

NAMES = (
    "checkpoint",
    "topics.json",
    "20261123225729331",
    "anything",
    "commitlog/00000000000000000000",
    "consumequeue/T/0/00000000000000000000",
    "elsewhere/00000000000000000000",
)


def items_of(path: Path, **how: Any) -> list[dict[str, Any]]:
    return list(dump(str(path), **how))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def queue_file(tmp_path: Path, data: bytes, *, topic: str = "T", start: int = 0) -> Path:
    return write(tmp_path / "consumequeue" / topic / "0" / f"{start:020d}", data)


# Consumequeue


def test_entries_then_zeros(tmp_path: Path) -> None:
    data = cqentry.encode(0, 100, 5) + cqentry.encode(100, 120, -7) + bytes(60)
    items = items_of(queue_file(tmp_path, data, start=400))
    assert items == [
        {"kind": "entry", "queueOffset": 20, "physicalOffset": 0, "size": 100, "tagsCode": 5},
        {"kind": "entry", "queueOffset": 21, "physicalOffset": 100, "size": 120, "tagsCode": -7},
        {"kind": "end", "at": 40, "what": "zeros: nothing was written from here on"},
    ]


def test_fillers_are_counted(tmp_path: Path) -> None:
    data = cqentry.FILLER * 3 + cqentry.encode(500, 100, 0)
    fillers, entry = items_of(queue_file(tmp_path, data))
    assert fillers == {"kind": "fillers", "queueOffset": 0, "count": 3}
    assert entry["queueOffset"] == 3
    fillers, entry = items_of(tmp_path / "consumequeue" / "T" / "0" / f"{0:020d}", first=1)
    assert fillers == {"kind": "fillers", "queueOffset": 1, "count": 2}
    assert entry["queueOffset"] == 3


def test_fillers_alone(tmp_path: Path) -> None:
    count = 5000
    items = items_of(queue_file(tmp_path, cqentry.FILLER * count))
    assert items == [{"kind": "fillers", "queueOffset": 0, "count": count}]


@pytest.mark.parametrize(("offset", "size"), [(-1, 100), (0, -1), (5, 0)])
def test_wrong_entry(tmp_path: Path, offset: int, size: int) -> None:
    data = cqentry.encode(0, 100, 0) + cqentry.encode(offset, size, 0)
    items = items_of(queue_file(tmp_path, data))
    assert [item["kind"] for item in items] == ["entry", "damage"]
    assert items[1]["at"] == 20
    assert items[1]["bytes"] == data[20:].hex()


def test_part_of_an_entry(tmp_path: Path) -> None:
    items = items_of(queue_file(tmp_path, cqentry.encode(0, 100, 0) + b"xyz"))
    assert items[1] == {"kind": "damage", "at": 20, "what": "less than an entry", "bytes": "78797a"}


def test_delayed_entries_hold_a_time(tmp_path: Path) -> None:
    data = cqentry.encode(0, 100, 1_700_000_000_000)
    (item,) = items_of(queue_file(tmp_path, data, topic="SCHEDULE_TOPIC_XXXX"))
    assert item["deliverTimestamp"] == 1_700_000_000_000
    assert line(item).endswith("deliverTimestamp=2023-11-14T22:13:20.000Z")


def test_row_of_queue_files_is_counted_by_queue_offset(tmp_path: Path) -> None:
    size = 10 * cqentry.ENTRY_SIZE
    for start in (0, size, 2 * size):
        entries = [cqentry.encode(start + n, 100, 0) for n in range(10)]
        path = queue_file(tmp_path, b"".join(entries), start=start)
    items = items_of(path.parent, first=18)
    offsets = [item["queueOffset"] for item in items if item["kind"] == "entry"]
    assert offsets == list(range(18, 30))
    assert [item["kind"] for item in items].count("file") == 2


# Index files


def index_file(*, slots: int = 4, entries: int = 3, count: int | None = None) -> bytes:
    header = indexfile.IndexHeader(1_700_000_000_000, 0, 0, 0, entries, count or entries + 1)
    data = bytearray(indexfile.file_size(slot_count=slots, entry_count=4 * slots))
    data[: indexfile.HEADER_SIZE] = indexfile.encode_header(header)
    for number in range(1, entries + 1):
        at = indexfile.entry_position(number, slot_count=slots)
        entry = indexfile.IndexEntry(number * 3, number * 100, number, 0)
        data[at : at + indexfile.ENTRY_SIZE] = indexfile.encode_entry(entry)
    return bytes(data)


def test_index_entries(tmp_path: Path) -> None:
    header, *entries = items_of(write(tmp_path / "20261123225729331", index_file()))
    assert (header["slotCount"], header["entryCount"], header["entryCountMax"]) == (4, 3, 16)
    assert [entry["slot"] for entry in entries] == [3, 2, 1]
    assert entries[1]["physicalOffset"] == 200
    assert entries[1]["storeTimestamp"] == 1_700_000_002_000


def test_index_entries_from(tmp_path: Path) -> None:
    path = write(tmp_path / "20261123225729331", index_file())
    assert [item.get("entry") for item in items_of(path, first=3)] == [None, 3]


@pytest.mark.parametrize("count", [-5, 17, 2**31 - 1])
def test_index_with_a_wrong_count(tmp_path: Path, count: int) -> None:
    items = items_of(write(tmp_path / "20261123225729331", index_file(count=count)))
    assert items[0]["kind"] == "indexHeader"
    assert items[-1]["kind"] == "damage"
    assert f"found={count}" in items[-1]["what"]
    assert len(items) <= 2 + 16


@pytest.mark.parametrize("size", [1, 39, 40, 41, 123, 125])
def test_index_of_a_wrong_size(tmp_path: Path, size: int) -> None:
    (item,) = items_of(write(tmp_path / "20261123225729331", index_file()[:size]))
    assert item["kind"] == "damage"


# Small files


def test_checkpoint(tmp_path: Path) -> None:
    data = checkpoint.encode(checkpoint.Checkpoint(1_700_000_000_000, 2, 3, 4, 5))
    (item,) = items_of(write(tmp_path / "checkpoint", data))
    assert item["masterFlushedOffset"] == 4
    assert line(item).startswith("checkpoint physicalTimestamp=2023-11-14T22:13:20.000Z ")


def test_checkpoint_too_short(tmp_path: Path) -> None:
    (item,) = items_of(write(tmp_path / "checkpoint", bytes(39)))
    assert (item["kind"], item["what"]) == ("damage", "checkpoint too short: size=39 size_min=40")


def test_table_with_one_item_a_member(tmp_path: Path) -> None:
    text = b'{"dataVersion":{"counter":4},"offsetTable":{"T@g":{0:5,1:7}},"empty":null}'
    path = write(tmp_path / "consumerOffset.json.bak", text)
    items = items_of(path)
    assert items == [
        {"kind": "field", "name": "dataVersion", "key": "counter", "value": 4},
        {"kind": "field", "name": "offsetTable", "key": "T@g", "value": {"0": 5, "1": 7}},
        {"kind": "field", "name": "empty", "value": None},
    ]
    assert line(items[1]) == 'field name=offsetTable key=T@g value={"0":5,"1":7}'
    assert items_of(path, first=2) == items[2:]


@pytest.mark.parametrize("text", [b'{"a":', b"\xff\xfe", b"{" * 200])
def test_no_table(tmp_path: Path, text: bytes) -> None:
    (item,) = items_of(write(tmp_path / "topics.json", text))
    assert item["kind"] == "damage"


def test_table_that_is_no_object(tmp_path: Path) -> None:
    assert items_of(write(tmp_path / "x.json", b"[1,2]")) == [
        {"kind": "field", "name": "", "value": [1, 2]}
    ]


def journal(*entries: offsetjournal.JournalEntry) -> bytes:
    return offsetjournal.header(7) + b"".join(offsetjournal.encode(one, 7) for one in entries)


def test_journal(tmp_path: Path) -> None:
    entries = [
        offsetjournal.JournalEntry("g", "T", 3, 17),
        offsetjournal.JournalEntry("g", "T", offsetjournal.ALL_QUEUES, 0),
    ]
    path = write(tmp_path / "any-name", journal(*entries) + b"half")
    commit, removal, damage = items_of(path)
    assert commit == {
        "kind": "commit", "entry": 0, "group": "g", "topic": "T", "queueId": 3, "queueOffset": 17,
    }  # fmt: skip
    assert removal == {"kind": "removal", "entry": 1, "group": "g", "topic": "T"}
    assert (damage["kind"], damage["bytes"]) == ("damage", b"half".hex())
    assert items_of(path, first=1)[0] == removal


def test_journal_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    entry = bytearray(offsetjournal.encode(offsetjournal.JournalEntry("g", "T", 3, 17), 0))
    entry[offsetjournal.HEAD_SIZE] = 0xFF
    entry[:4] = zlib.crc32(entry[4:]).to_bytes(4, "big")
    (item,) = items_of(write(tmp_path / "x", offsetjournal.header(0) + entry))
    assert item["kind"] == "damage"


# What is no store file


@pytest.mark.parametrize("name", ["abort", "lock"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    assert items_of(write(tmp_path / name, b"")) == [{"kind": "end", "at": 0, "what": "empty file"}]


@pytest.mark.parametrize("name", ["README", "timerlog/00000000000000000000"])
def test_unknown_file(tmp_path: Path, name: str) -> None:
    (item,) = items_of(write(tmp_path / name, b"hello, world"))
    assert item == {
        "kind": "unknown",
        "what": "no file that shmq reads",
        "bytes": b"hello, world".hex(),
    }


def test_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [item["kind"] for item in items_of(tmp_path)] == ["file", "damage"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file, folder or segment"):
        dump(str(tmp_path / "nothing"))


def test_from_needs_a_row(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", bytes(4096))
    with pytest.raises(StoreError, match="no place to begin at"):
        items_of(tmp_path, first=1)


def test_name_that_is_no_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json"))
    write(path, b"{}")
    (item,) = items_of(tmp_path)
    assert item["path"].endswith("/�.json")
    assert line(item).isprintable()


def test_folder_of_other_things(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "checkpoint", bytes(4096))
    write(tmp_path / "x.json", b'{"k":1}')
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [item["kind"] for item in items_of(tmp_path)] == [
        "file", "checkpoint", "file", "field",
    ]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from(NAMES), data=st.binary(max_size=300), first=st.integers(0, 50))
def test_any_bytes_are_legal(tmp_path: Path, name: str, data: bytes, first: int) -> None:
    path = write(tmp_path / name, data)
    for item in items_of(path, first=first, with_body=True):
        assert line(item).isprintable()

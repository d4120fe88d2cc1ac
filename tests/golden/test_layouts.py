"""Store files that a real RocketMQ wrote, read and written again by our layouts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shmq.layout import checkpoint, cqentry, indexfile, record
from shmq.wire.messageid import host_text, offset_message_id
from shmq.wire.properties import decode_properties, encode_properties

SLOT_COUNT = 100
ENTRY_COUNT = 400
DELAY_TOPIC = "SCHEDULE_TOPIC_XXXX"
DELAYS_MS = {1: 1_000, 3: 10_000, 18: 7_200_000}


class Store(Protocol):
    """The fixture of conftest.py."""

    root: Path
    manifest: dict[str, Any]
    commitlog: dict[int, bytes]

    def record_bytes(self, stored: dict[str, Any]) -> bytes:
        """Bytes of a record of the manifest."""
        ...


def test_every_record_says_what_the_manifest_says(golden_store: Store) -> None:
    for stored in golden_store.manifest["stored"]:
        data = golden_store.record_bytes(stored)
        found = record.decode(data)
        assert record.head(data) == (stored["size"], int(stored["magic"], 16))
        store_host = f"/{host_text(found.store_host)}:{found.store_port}"
        message_id = offset_message_id(found.store_host, found.store_port, found.physical_offset)
        assert {
            "commitlogOffset": found.physical_offset,
            "size": found.size,
            "magic": f"{found.magic:x}",
            "topic": found.topic,
            "queueId": found.queue_id,
            "queueOffset": found.queue_offset,
            "sysFlag": found.sys_flag,
            "flag": found.flag,
            "bodyCRC": found.body_crc,
            "bornTimestamp": found.born_timestamp,
            "storeTimestamp": found.store_timestamp,
            "bornHost": host_text(found.born_host),
            "storeHost": store_host,
            "reconsumeTimes": found.reconsume_times,
            "preparedTransactionOffset": found.prepared_transaction_offset,
            "offsetMsgId": message_id,
            "storedBodyLen": len(found.body),
            "storedBodySha256": hashlib.sha256(found.body).hexdigest(),
            "properties": decode_properties(found.properties),
        } == stored


def test_every_record_is_written_again_in_the_same_bytes(golden_store: Store) -> None:
    for stored in golden_store.manifest["stored"]:
        data = golden_store.record_bytes(stored)
        found = record.decode(data)
        found.body_crc = None
        assert record.encode(found) == data
        assert encode_properties(decode_properties(found.properties)) == found.properties
        assert record.magic_for(found.topic) == found.magic


def test_commitlog_files_are_records_and_one_end(golden_store: Store) -> None:
    sizes = {s["commitlogOffset"]: s["size"] for s in golden_store.manifest["stored"]}
    seen = 0
    for listed in golden_store.manifest["commitlogFiles"]:
        first = int(listed["file"])
        data = golden_store.commitlog[first]
        assert len(data) == listed["length"]
        position = count = 0
        while record.head(data, position)[1] in {record.MAGIC_V1, record.MAGIC_V2}:
            size = record.decode(data, position).size
            assert sizes[first + position] == size
            position += size
            count += 1
        assert count == listed["records"]
        size, magic = record.head(data, position)
        if listed["end"].startswith("blank"):
            assert listed["end"] == f"blank record of {size} at {position}"
            assert magic == record.BLANK_MAGIC
            assert position + size == len(data)
            assert data[position : position + record.BLANK_HEAD_SIZE] == record.blank(size)
        else:
            assert (size, magic) == (0, 0)
            assert not any(data[position:])
        seen += count
    assert seen == len(sizes)


def tags_code(stored: dict[str, Any]) -> int:
    """What the entry of a record must hold."""
    properties = stored["properties"]
    if stored["topic"] == DELAY_TOPIC:
        return int(stored["storeTimestamp"]) + DELAYS_MS[int(properties["DELAY"])]
    return cqentry.tags_code(properties.get("TAGS"))


def test_consumequeues_have_an_entry_for_every_record(golden_store: Store) -> None:
    wanted: dict[str, dict[int, tuple[int, int, int]]] = {}
    for stored in golden_store.manifest["stored"]:
        queue = wanted.setdefault(f"{stored['topic']}/{stored['queueId']}", {})
        entry = (stored["commitlogOffset"], stored["size"], tags_code(stored))
        queue[stored["queueOffset"]] = entry
    tags = [stored["properties"].get("TAGS", "") for stored in golden_store.manifest["stored"]]
    assert not all(tag.isascii() for tag in tags)
    folder = golden_store.root / "consumequeue"
    if (golden_store.root / "abort").exists():
        assert len(wanted.pop("%RETRY%golden_group/0")) == 1  # killed before it was dispatched
    for name, queue in wanted.items():
        files = sorted((folder / name).iterdir())
        data = b"".join(file.read_bytes() for file in files)
        assert [int(file.name) for file in files] == list(range(0, len(data), 20_000))
        for index, entry in queue.items():
            assert cqentry.decode(data, index) == entry
            assert data[index * 20 : index * 20 + 20] == cqentry.encode(*entry)
        column = np.frombuffer(data, cqentry.ENTRY)
        assert int((column["size"] > 0).sum()) == len(queue)
        assert column["physical_offset"][: len(queue)].tolist() == [
            queue[index][0] for index in range(len(queue))
        ]


def index_keys(stored: dict[str, Any]) -> list[str]:
    """Keys under which a record is to be found."""
    topic, properties = stored["topic"], stored["properties"]
    words = [word for word in properties.get("KEYS", "").split(" ") if word]
    if "UNIQ_KEY" in properties:
        words.insert(0, properties["UNIQ_KEY"])
    keys = [indexfile.index_key(topic, word) for word in words]
    if "TAGS" in properties:
        keys.append(indexfile.tag_index_key(topic, properties["TAGS"]))
    return keys


def test_index_finds_every_key(golden_store: Store) -> None:
    files = [file.read_bytes() for file in sorted((golden_store.root / "index").iterdir())]
    found = 0
    for stored in golden_store.manifest["stored"]:
        if stored["topic"].startswith("%RETRY%") and "crashed" in golden_store.root.name:
            continue  # killed before it was dispatched
        for key in index_keys(stored):
            hashed = indexfile.key_hash(key)
            hits = [
                (indexfile.decode_header(data), entry)
                for data in files
                for entry in indexfile.chain(data, hashed, slot_count=SLOT_COUNT)
                if entry.physical_offset == stored["commitlogOffset"]
            ]
            assert len(hits) == index_keys(stored).count(key), key
            header, entry = hits[0]
            seconds = indexfile.seconds_between(header.begin_timestamp, stored["storeTimestamp"])
            assert entry.seconds == seconds
            found += 1
    counts = [indexfile.decode_header(data).entry_count - 1 for data in files]
    assert found == sum(counts)


def test_index_headers_agree_with_their_files(golden_store: Store) -> None:
    times = {s["commitlogOffset"]: s["storeTimestamp"] for s in golden_store.manifest["stored"]}
    for file in sorted((golden_store.root / "index").iterdir()):
        data = file.read_bytes()
        size = indexfile.file_size(slot_count=SLOT_COUNT, entry_count=ENTRY_COUNT)
        assert len(data) == size
        header = indexfile.decode_header(data)
        assert data[: indexfile.HEADER_SIZE] == indexfile.encode_header(header)
        assert times[header.begin_offset] == header.begin_timestamp
        assert times[header.end_offset] == header.end_timestamp
        starts = [
            indexfile.chain_start(data, slot, entry_count=header.entry_count)
            for slot in range(SLOT_COUNT)
        ]
        assert header.used_slot_count == sum(start > 0 for start in starts)
        start = indexfile.entry_position(0, slot_count=SLOT_COUNT)
        entries = np.frombuffer(data, indexfile.ENTRY, offset=start)
        used = entries[1 : header.entry_count]
        assert not entries["physical_offset"][header.entry_count :].any()
        for index, row in enumerate(used.tolist(), start=1):
            place = indexfile.entry_position(index, slot_count=SLOT_COUNT)
            again = indexfile.encode_entry(indexfile.IndexEntry(*row))
            assert data[place : place + indexfile.ENTRY_SIZE] == again


def test_checkpoint_names_times_of_records(golden_store: Store) -> None:
    data = (golden_store.root / "checkpoint").read_bytes()
    found = checkpoint.decode(data)
    times = {stored["storeTimestamp"] for stored in golden_store.manifest["stored"]}
    assert checkpoint.encode(found) == data
    assert found.physical_timestamp in times
    assert found.index_timestamp in times
    assert found.master_flushed_offset == found.confirm_offset == 0
    if "abort" not in {file.name for file in golden_store.root.iterdir()}:
        assert found.physical_timestamp == max(times)

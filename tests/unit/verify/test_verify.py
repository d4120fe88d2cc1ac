from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import orjson
import pytest

from shmq.config import Settings
from shmq.errors import ConfigError
from shmq.export import Export, Selection
from shmq.layout import checkpoint, cqentry, offsetjournal, record
from shmq.layout.record import Record
from shmq.units import KiB, MiB
from shmq.verify import find_store, log, verify
from shmq.verify.text import findings_text
from tests.unit.verify.smallstore import LOG_FILE_SIZE, STAMP, SmallStore, filled, put, told


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return filled(tmp_path / "store")


def change(path: Path, at: int, data: bytes) -> None:
    put(path, at, data)


def test_a_sound_store(store: SmallStore) -> None:
    found = store.verify()
    assert found.is_sound
    assert found.findings == []
    assert (found.records, found.entries, found.queues, found.tables) == (30, 30, 3, 1)
    assert (found.log_start, found.log_end, found.log_files) == (0, store.end, 1)


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 2000)
    change(store.log_path(0), record.MAGIC_AT, b"x")
    change(store.queue_path(store.records[500]), 3, b"\xff")
    alone, together = store.verify(), store.verify(jobs=2)
    assert len(list((store.root / "commitlog").iterdir())) == 4
    assert alone == together
    assert not alone.is_sound


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 700)
    for jobs in (1, 2):
        seen: list[tuple[int, int]] = []

        def watch(done: int, whole: int, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((done, whole))

        store.verify(jobs=jobs, watch=watch)
        assert seen[-1][0] == seen[-1][1] > 0
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("folder", ["nothing", "empty"])
def test_no_store(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no store"):
        find_store(
            filled(tmp_path / "s").settings, tmp_path / folder, tmp_path / folder / "commitlog"
        )


# Names and sizes


def test_gap_in_the_row(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 1500)
    store.log_path(LOG_FILE_SIZE).unlink()
    found = store.verify()
    assert "gap in the row of files" in told(found)
    assert "entry names no record of this queue" in told(found)


@pytest.mark.parametrize(
    "name", ["00000000000000065536.bak", "x", "0000000000000006553a", "9" * 20]
)
def test_foreign_file(store: SmallStore, name: str) -> None:
    (store.root / "commitlog" / name).write_bytes(b"x")
    assert told(store.verify()) == ["foreign file in a row of store files"]


def test_name_between_files(store: SmallStore) -> None:
    (store.root / "commitlog" / f"{5:020d}").write_bytes(bytes(LOG_FILE_SIZE))
    assert "file's name is no multiple of the file size" in told(store.verify())


def test_file_made_ahead(store: SmallStore) -> None:
    path = store.log_path(LOG_FILE_SIZE)
    path.write_bytes(b"")
    assert store.verify().is_sound
    path.write_bytes(bytes(LOG_FILE_SIZE))
    found = store.verify()
    assert found.is_sound
    assert found.log_end == store.end


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_short_queue_file(store: SmallStore, cut: int) -> None:
    path = store.queue_path(store.records[0])
    os.truncate(path, path.stat().st_size - cut)
    assert "file has another size than the row" in told(store.verify())


# Commitlog


def test_a_damaged_record_hides_nothing_behind_it(store: SmallStore) -> None:
    one = store.records[10]
    change(store.log_path(0), one.physical_offset, b"\0\0\0\1")
    found = store.verify()
    assert found.records == 29
    assert told(found) == ["no record", "entry names no record of this queue"]
    place = found.findings[0]
    assert (place.at, place.file) == (one.physical_offset, f"commitlog/{0:020d}")
    assert f"begins at {store.records[11].physical_offset}" in place.allowed


def test_hole_in_the_log(store: SmallStore) -> None:
    first, last = store.records[5], store.records[20]
    size = last.physical_offset - first.physical_offset
    change(store.log_path(0), first.physical_offset, bytes(size))
    found = store.verify()
    assert found.records == 15
    assert "no record" in told(found)


def test_torn_last_record(store: SmallStore) -> None:
    one = store.records[-1]
    change(store.log_path(0), one.physical_offset + one.size - 30, bytes(30))
    assert not store.verify().is_sound
    change(store.log_path(0), one.physical_offset + 60, bytes(one.size))
    found = store.verify()
    assert found.log_end == one.physical_offset
    assert "record is torn or damaged" in told(found)
    assert "entries of records after the log's end" in told(found)


@pytest.mark.parametrize("in_memory", [None, 0, 1])
def test_last_record_whose_rest_is_in_shared_memory(
    store: SmallStore, in_memory: int | None
) -> None:
    """A broker was killed while it wrote the record; the next start writes the rest."""
    one = store.records[-1]
    put(store.log_path(0), one.physical_offset + 60, bytes(one.size - 60))
    put(store.queue_path(one), one.queue_offset * 20 % 200, bytes(20))
    (store.root / "checkpoint").unlink()
    (store.root / "abort").write_text("1")
    found_store = find_store(store.settings, store.root, store.root / "commitlog")
    if in_memory is not None:
        found_store.in_memory = one.physical_offset + in_memory
    found = verify(found_store)
    assert found.log_end == one.physical_offset
    assert found.is_sound is (in_memory is not None)


def test_leftovers_behind_the_end(store: SmallStore) -> None:
    """An earlier recovery has cut the log; what it cut is still there, its last part whole."""
    old = Record(topic="T", body=b"old", store_timestamp=STAMP - 5, physical_offset=store.end + 50)
    change(store.log_path(0), store.end, b"\xaa" * 50 + record.encode(old))
    found = store.verify()
    assert found.is_sound
    assert told(found, "warning") == ["bytes after the last record"]
    assert found.log_end == store.end


def test_file_that_is_not_full(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 1500)
    last = max(one.physical_offset for one in store.records if one.physical_offset < LOG_FILE_SIZE)
    change(store.log_path(0), last, bytes(LOG_FILE_SIZE - last))
    assert "file ends before it is full, and another follows" in told(store.verify())


def test_blank_of_a_wrong_size(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 1500)
    last = [one for one in store.records if one.physical_offset < LOG_FILE_SIZE][-1]
    change(store.log_path(0), last.physical_offset + last.size, b"\0\0\0\1")
    assert told(store.verify()) == ["blank at the file's end has a wrong size"]


@pytest.mark.parametrize("change_at", [None, 200, 12 * MiB, -2])
def test_record_longer_than_a_chunk(tmp_path: Path, change_at: int | None) -> None:
    store = SmallStore(tmp_path / "store", file_size=40 * MiB)
    store.append()
    one = store.append(
        body=b"long" * (3 * MiB + 1), sys_flag=record.STORE_HOST_V6, store_host=bytes(16)
    )
    store.append()
    store.finish()
    if change_at is not None:
        at = one.physical_offset + (change_at if change_at > 0 else one.size + change_at)
        data = store.log_path(0).read_bytes()[at]
        change(store.log_path(0), at, bytes([data ^ 1]))
    found = store.verify()
    assert found.records == 3
    if change_at == -2:  # its tag
        assert told(found)[0] == "entry names no record of this queue"
    else:
        assert told(found) == ([] if change_at is None else ["body CRC differs"])
    assert one.size > log.CHUNK_SIZE


def test_size_of_a_record_is_not_believed(store: SmallStore) -> None:
    change(store.log_path(0), store.records[3].physical_offset, b"\x7f\xff\xff\xff")
    found = store.verify()
    assert found.records == 29


def test_clock_that_was_set_back(tmp_path: Path) -> None:
    store = SmallStore(tmp_path / "store")
    store.append(store_timestamp=STAMP + 10)
    store.append(store_timestamp=STAMP)
    store.finish()
    found = store.verify()
    assert found.is_sound
    assert told(found, "warning") == ["store timestamp is before that of the record before"]


def test_topic_that_is_no_name(tmp_path: Path) -> None:
    store = SmallStore(tmp_path / "store")
    one = store.append("abc")
    store.finish()
    at = one.physical_offset + record.BODY_AT + len(one.body) + 1
    for name in (b"../", b"a\0b", b"\xff\xff\xff"):
        change(store.log_path(0), at, name)
        assert "topic is no name" in told(store.verify())


def test_many_findings_are_counted(tmp_path: Path) -> None:
    store = SmallStore(tmp_path / "store")
    for _ in range(100):
        store.append(body_crc=1)
    found = store.finish().verify()
    assert len(found.findings) == 20
    assert found.count(found.findings[0].severity) == 100


# Consumequeues


def test_record_without_entry(tmp_path: Path) -> None:
    store = SmallStore(tmp_path / "store")
    store.append()
    store.append(enter=False)
    store.finish()
    assert told(store.verify()) == ["records have no entry"]
    (store.root / "abort").write_text("1")
    found = store.verify()
    assert found.is_sound
    assert told(found, "info") == [
        "the last broker did not end cleanly",
        "records that have no entry yet",
    ]


def test_entry_missing_in_between(store: SmallStore) -> None:
    change(store.queue_path(store.records[12]), 4 * 20, bytes(20))
    for _ in range(2):  # After a crash too: no start that is not told to would put it in.
        found = store.verify()
        assert "entries are missing" in told(found)
        assert "queue offsets 4 to 4" in next(
            one.found for one in found.findings if one.what == "entries are missing"
        )
        (store.root / "abort").write_text("1")


@pytest.mark.parametrize("clean", [True, False])
def test_entries_past_the_log(store: SmallStore, *, clean: bool) -> None:
    """After a power cut entries may be there whose records are not; else it is damage."""
    last = store.records[-1]
    change(store.log_path(0), last.physical_offset, bytes(last.size))
    if not clean:
        (store.root / "abort").write_text("1")
        (store.root / "checkpoint").unlink()
    found = store.verify()
    assert found.is_sound is not clean
    kind = "damage" if clean else "warning"
    assert [what for what in told(found, kind) if "entries of records" in what]


def test_topic_deleted_and_made_anew(tmp_path: Path) -> None:
    """Its old records are still in the log; their places in the queue are taken."""
    store = SmallStore(tmp_path / "store")
    for _ in range(5):
        store.append()
    shutil.rmtree(store.root / "consumequeue" / "T")
    store._ends.clear()
    for _ in range(2):
        store.append()
    found = store.finish().verify()
    assert found.is_sound
    assert told(found, "warning") == ["records have no entry, but later ones have"]


def test_topic_deleted(tmp_path: Path) -> None:
    store = SmallStore(tmp_path / "store")
    store.append("gone")
    store.append()
    store.finish()
    store.table("topics.json", {"topicConfigTable": {"T": {"topicName": "T"}}})
    shutil.rmtree(store.root / "consumequeue" / "gone")
    found = store.verify()
    assert found.is_sound
    assert told(found, "info") == ["records of a topic that is deleted"]


def test_prepared_transactions_have_no_entry(tmp_path: Path) -> None:
    store = SmallStore(tmp_path / "store")
    store.append(sys_flag=4, enter=False)
    store._ends.clear()
    store.append(sys_flag=8)
    assert store.finish().verify().findings == []


def test_retention_has_deleted_the_first_file(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 1500)
    store.log_path(0).unlink()
    found = store.verify()
    assert found.findings == []
    assert found.log_start == LOG_FILE_SIZE


def test_fillers_before_the_first_entry(tmp_path: Path) -> None:
    store = SmallStore(tmp_path / "store")
    store._ends["T", 0] = 14
    one = store.append()
    put(store.queue_path(one), 0, cqentry.FILLER * 4)
    store.append()
    assert store.finish().verify().findings == []


# Small files


def test_offsets_past_the_end(store: SmallStore) -> None:
    store.table("consumerOffset.json", {"offsetTable": {"T@g": {"0": 10, "1": 11, "7": 0}}})
    found = store.verify()
    assert found.is_sound
    assert [one.found for one in found.findings] == ["T@g queue 1: 11"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("topics.json", {"topicConfigTable": {"T": {"topicName": "U"}}}),
        ("topics.json", {"topicConfigTable": {"T": {"topicName": "T", "perm": 99}}}),
        ("topics.json", {"topicConfigTable": {"T": 5}}),
        ("topics.json", {"topicConfigUable": {}}),
        ("topics.json.bak", []),
        ("subscriptionGroup.json", {"subscriptionGroupTable": {"g": {"groupName": "h"}}}),
        ("consumerOffset.json", {"offsetTable": {"T@g": {"0": -1}}}),
        ("consumerOffset.json", {"offsetTable": {"Tg": {"0": 1}}}),
        ("consumerOffset.json", {"offsetTable": {"T@g": {"x": 1}}}),
        ("delayOffset.json", {"offsetTable": {"0": 1}}),
        ("consumerFilter.json", []),
    ],
)
def test_wrong_tables(store: SmallStore, name: str, content: object) -> None:
    store.table(name, content)
    found = store.verify()
    assert {one.file for one in found.findings if one.severity == "damage"} == {f"config/{name}"}


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b'{"a":' * 5000, b"\xff"])
def test_tables_of_any_bytes(store: SmallStore, data: bytes) -> None:
    (store.root / "config" / "topics.json").write_bytes(data)
    assert told(store.verify()) == ["table cannot be understood"]


def test_journal(store: SmallStore) -> None:
    path = store.root / "config" / "consumerOffset.journal"
    entry = offsetjournal.encode(offsetjournal.JournalEntry("g", "T", 0, 10), 3)
    path.write_bytes(offsetjournal.header(3) + entry)
    assert store.verify().findings == []
    path.write_bytes(offsetjournal.header(3) + entry + entry[:-1])
    assert told(store.verify()) == ["no whole entry"]
    (store.root / "abort").write_text("1")
    assert store.verify().is_sound
    for at in range(len(offsetjournal.MAGIC)):
        change(path, at, b"x")
        assert not store.verify().is_sound


def test_checkpoint_of_the_future(store: SmallStore) -> None:
    path = store.root / "checkpoint"
    path.write_bytes(b"\x7f" + path.read_bytes()[1:])
    assert told(store.verify()) == ["vouches for a time after the log's last record"]
    path.write_bytes(b"short")
    assert told(store.verify()) == ["cannot be read"]
    path.unlink()
    assert told(store.verify(), "info") == ["no checkpoint"]


@pytest.mark.parametrize("size", [1, 7, 20, 30, 1000, 2**40])
def test_rows_of_strange_sizes(tmp_path: Path, size: int) -> None:
    """Files that agree on a size may be hostile; nothing is allocated or waited for by it."""
    store = filled(tmp_path / "store")
    paths = [*(store.root / "consumequeue").glob("*/*/*")] if size < 2**20 else []
    for path in (*paths, store.log_path(0), store.log_path(size)):
        path.touch()
        os.truncate(path, size)
    (store.root / "index").mkdir()
    for name in ("20260101000000000", "20260101000000001"):
        (store.root / "index" / name).touch()
        os.truncate(store.root / "index" / name, size)
    settings = Settings(store_path_root_dir=str(store.root))
    found_store = find_store(settings, store.root, store.root / "commitlog")
    assert not verify(found_store).is_sound
    export = Export(found_store, Selection(topic="T"))
    assert len(list(export.records())) <= 20
    export.close()


@pytest.mark.parametrize("name", ["checkpoint", "abort", "lock", "config/topics.json"])
def test_pipes_in_place_of_files(store: SmallStore, name: str) -> None:
    """Nobody would ever write into them; verification ends all the same."""
    path = store.root / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    store.verify()


def test_names_of_any_bytes(store: SmallStore) -> None:
    for folder in ("commitlog", "consumequeue", "consumequeue/T", "config", "index"):
        (store.root / folder).mkdir(exist_ok=True)
        (store.root / folder / os.fsdecode(b"\xff\n\x1b")).write_bytes(b"x")
    (store.root / "consumequeue" / os.fsdecode(b"\xfe") / "0").mkdir(parents=True)
    found = store.verify(jobs=2)
    assert not found.is_sound
    assert orjson.loads(orjson.dumps(msgspec.to_builtins(found)))
    assert all(line.isprintable() for line in findings_text(found.findings))


def test_what_is_not_checked_is_said(store: SmallStore) -> None:
    (store.root / "set-aside").mkdir()
    (store.root / "set-aside" / "commitlog-5").write_bytes(b"x")
    (store.root / "timerwheel").write_bytes(b"x")
    (store.root / "config" / "topics.json.damaged-1").write_bytes(b"x")
    found = store.verify()
    assert told(found, "info") == [
        "set aside by an earlier start",
        "not checked",
        "left by an earlier start",
    ]
    assert found.is_sound


def test_memory_does_not_grow_with_the_log() -> None:
    size = log.CHUNK_SIZE + log.ROWS_MAX * 13 * 8 + log.TABLE_SIZE * 4
    assert size < 12 * MiB


def test_numbers_of_queues_are_sorted_as_16_bits() -> None:
    rows_max = log.ROWS_MAX
    assert rows_max <= 64 * KiB


def test_a_checkpoint_with_what_we_vouch_for(store: SmallStore) -> None:
    """Sound as we write it; told when its parts disagree, as after Apache's broker has written."""
    path = store.root / "checkpoint"
    good = bytearray(checkpoint.encode(checkpoint.Checkpoint(vouched_offset=100)))
    path.write_bytes(good)
    assert store.verify().findings == []
    for at in (checkpoint.OURS_AT + 7, checkpoint.OURS_END - 1):
        bent = good.copy()
        bent[at] ^= 1
        path.write_bytes(bent)
        (found,) = store.verify().findings
        assert found.what == "what it vouches for does not agree with its other numbers"
        assert store.verify().is_sound
    for at in (checkpoint.FIELDS_END, checkpoint.OURS_END):
        bent = good.copy()
        bent[at] ^= 1
        path.write_bytes(bent)
        assert not store.verify().is_sound

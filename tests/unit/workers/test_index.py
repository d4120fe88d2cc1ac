"""The index role: what is visible gets into the index files once, whoever dies."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmq.layout import indexfile
from shmq.layout.control import Word
from shmq.store import indexfiles
from shmq.store.checkpoint import CheckpointFile
from shmq.store.indexfiles import IndexFile, IndexSizes, delete_before, list_names
from shmq.store.indexopening import ProgressFile
from shmq.units import KiB
from shmq.workers import index as index_role
from shmq.workers.base import Role
from shmq.workers.index import SYNC_INTERVAL_MS, IndexRole
from shmq.workers.roles import broker_roles
from tests.unit.workers.house import (
    INDEX_ENTRIES,
    INDEX_SLOTS,
    LOG_FILE_SIZE,
    House,
    encode,
    small_settings,
)

TOPIC = "T"
NOW_MS = 1_700_000_000_000
SIZES = IndexSizes(INDEX_SLOTS, INDEX_ENTRIES)
MakeHouse = Callable[..., House]


def keys(number: int) -> bytes:
    """Properties with two keys."""
    return b"KEYS\x01k%d\x02UNIQ_KEY\x01u%d\x02" % (number, number)


class Live:
    """Writer, flush and dispatch of a house, and what they have stored."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._roles: list[Role] = [house.writer(), house.flush(), house.dispatch()]
        self.count = 0

    def send(self, count: int, *, size: int = 10, properties: Any = keys) -> None:
        """Store messages, the n-th with keys kn and un."""
        slot = self.house.slot(TOPIC)
        for number in range(self.count, self.count + count):
            data = encode(TOPIC, b"b" * size, properties=properties(number))
            self.house.producer.submit(slot, data)
            for role in self._roles:
                role.step(NOW_MS + number)
        self.count += count
        assert self.house.word(Word.REPUT_OFFSET) == self.house.word(Word.APPEND_OFFSET)


def entries(store_dir: Path) -> list[tuple[int, int]]:
    """Key hash and physical offset of every entry of all files, in their order."""
    found: list[tuple[int, int]] = []
    for path in sorted((store_dir / "index").iterdir()):
        data = path.read_bytes()
        count = indexfile.decode_header(data).entry_count
        start = indexfile.entry_position(1, slot_count=INDEX_SLOTS)
        rows = np.frombuffer(data, indexfile.ENTRY, offset=start)[: count - 1]
        found += [(row["key_hash"], row["physical_offset"]) for row in rows]
    return found


def wanted(house: House) -> list[tuple[int, int]]:
    """The same, as the stored messages have keys."""
    found = []
    for number, one in enumerate(house.messages(TOPIC)):
        for word in (f"u{number}", f"k{number}"):
            hashed = indexfile.key_hash(indexfile.index_key(TOPIC, word))
            found.append((hashed, one.physical_offset))
    return found


def go(role: IndexRole, now_ms: int = NOW_MS) -> None:
    while role.step(now_ms):
        pass


def test_from_the_hot_pages(house: House) -> None:
    role, live = house.index(), Live(house)
    live.send(20)
    go(role)
    assert house.word(Word.INDEX_OFFSET) == house.word(Word.REPUT_OFFSET)
    assert entries(house.store_dir) == wanted(house)
    live.send(1)
    assert role.step(NOW_MS) == 0
    assert entries(house.store_dir) == wanted(house)


def test_messages_without_keys_make_no_file(house: House) -> None:
    role, live = house.index(), Live(house)
    live.send(5, properties=lambda _number: b"a\x01b\x02")
    go(role)
    assert house.word(Word.INDEX_OFFSET) == house.word(Word.REPUT_OFFSET) > 0
    assert list_names(house.store_dir / "index", SIZES) == []


def test_what_lags_reads_the_files(make_house: MakeHouse) -> None:
    """Records that left the pool long ago, over the ends of log files."""
    house = make_house(pool_size=320 * KiB)
    role, live = house.index(), Live(house)
    live.send(200, size=4000)
    assert house.word(Word.HOT_START) > 4 * LOG_FILE_SIZE
    go(role)
    assert house.word(Word.INDEX_OFFSET) == house.word(Word.REPUT_OFFSET)
    assert entries(house.store_dir) == wanted(house)


@pytest.mark.parametrize("piece", [64, 1000, 5000])
def test_pieces_of_any_size(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """From files and pool; records are larger than a piece, or end behind it."""
    monkeypatch.setattr("shmq.workers.keyscan.PIECE_SIZE", piece)
    house = make_house(pool_size=320 * KiB)
    role, live = house.index(), Live(house)
    live.send(120, size=4000)
    assert house.word(Word.HOT_START) > 0
    go(role)
    assert entries(house.store_dir) == wanted(house)


def test_pages_that_are_used_again_while_they_are_read(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found in them is thrown away; the files have it."""
    house = make_house(pool_size=320 * KiB)
    role, live = house.index(), Live(house)
    live.send(10, size=4000)
    scan = role._scan
    keys_of = scan._keys_of
    called: list[int] = []

    def overtaken(*arguments: Any) -> tuple[int, int, int, int]:
        if not called:
            called.append(1)
            live.send(190, size=4000)
        return keys_of(*arguments)

    monkeypatch.setattr(scan, "_keys_of", overtaken)
    go(role)
    go(role)
    assert entries(house.store_dir) == wanted(house)


def test_files_follow_each_other(house: House) -> None:
    """A full file is synced, the checkpoint vouches for it, the next one begins where it ends."""
    role, live = house.index(), Live(house)
    live.send(500)
    go(role)
    assert entries(house.store_dir) == wanted(house)
    names = list_names(house.store_dir / "index", SIZES)
    assert len(names) == 3
    first = indexfiles.read_header(house.store_dir / "index" / names[0])
    assert first.entry_count == INDEX_ENTRIES
    second = indexfiles.read_header(house.store_dir / "index" / names[1])
    assert house.word(Word.INDEX_TIMESTAMP) == second.end_timestamp
    assert role.drain(NOW_MS)
    flush = house.flush()
    assert flush.drain(NOW_MS)
    saved = CheckpointFile(house.store_dir / "checkpoint").load()
    assert saved.index_timestamp == second.end_timestamp


def test_names_ascend_when_the_clock_is_set_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([NOW_MS, NOW_MS - 3_600_000, NOW_MS])
    monkeypatch.setattr(index_role, "epoch_ms", lambda: next(times, NOW_MS))
    role, live = house.index(), Live(house)
    live.send(500)
    go(role)
    names = list_names(house.store_dir / "index", SIZES)
    assert names[0] == indexfiles.file_name(NOW_MS)
    assert [int(name) - int(names[0]) for name in names] == [0, 1, 2]
    assert entries(house.store_dir) == wanted(house)


@pytest.mark.parametrize("killed_after", ["entries", "a file", "publish", "progress"])
def test_a_successor_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch, killed_after: str
) -> None:
    """Whatever the dead one had entered is there once."""
    live = Live(house)
    live.send(50)
    go(house.index())
    live.send(300)
    pid = os.fork()
    if pid == 0:
        role = house.index()
        role.step(NOW_MS)
        dying(role, killed_after)
        while True:
            role.step(NOW_MS)
            role.step(NOW_MS + SYNC_INTERVAL_MS)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    live.send(10)
    successor = house.index()
    go(successor)
    assert entries(house.store_dir) == wanted(house)
    assert successor.drain(NOW_MS)
    chains_are_whole(house)


def dying(role: IndexRole, moment: str) -> None:
    """Let the process die at a moment of its next step."""

    def then_die(owner: Any, name: str) -> None:
        done = getattr(owner, name)

        def call(*arguments: Any) -> None:
            done(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, call)

    if moment == "entries":
        then_die(role._writer, "put")
    elif moment == "a file":
        then_die(role._writer, "_begin_file")
    elif moment == "publish":
        then_die(role._index_offset, "publish")
    else:
        then_die(role._progress, "save")


def chains_are_whole(house: House) -> None:
    """Every entry is in the chain of its hash."""
    for path in (house.store_dir / "index").iterdir():
        data = path.read_bytes()
        listed = indexfile.decode_header(data).entry_count - 1
        start = indexfile.entry_position(1, slot_count=INDEX_SLOTS)
        rows = np.frombuffer(data, indexfile.ENTRY, offset=start)[:listed]
        for hashed in set(rows["key_hash"].tolist()):
            chain = list(indexfile.chain(data, hashed, slot_count=INDEX_SLOTS))
            assert len(chain) == int((rows["key_hash"] == hashed).sum())


def restart(make_house: MakeHouse, house: House, *, clean: bool) -> House:
    house.close()
    return make_house(house.store_dir, clean=clean)


@pytest.mark.parametrize("clean", [True, False])
def test_the_next_start_goes_on(make_house: MakeHouse, *, clean: bool) -> None:
    house = make_house()
    live = Live(house)
    role = house.index()
    live.send(100)
    go(role)
    role.step(NOW_MS)
    role.step(NOW_MS + SYNC_INTERVAL_MS)  # From here on it is known to be on the disk.
    assert ProgressFile(house.store_dir / "config" / "indexProgress.json").load() is not None
    live.send(150)
    go(role, NOW_MS + SYNC_INTERVAL_MS)
    if clean:
        assert role.drain(NOW_MS)
    house.dispatch().drain(NOW_MS)
    house.flush().drain(NOW_MS)
    house = restart(make_house, house, clean=clean)
    role = house.index()
    assert role.step(NOW_MS) == 1  # It brings the files into order first.
    assert len(entries(house.store_dir)) == 2 * (250 if clean else 100)
    go(role)
    assert entries(house.store_dir) == wanted(house)
    assert len(entries(house.store_dir)) == 2 * 250
    chains_are_whole(house)


@pytest.mark.parametrize(
    "left", ["nothing", "the progress", "the files", "zeros and the progress", "zeros"]
)
def test_after_a_power_cut(make_house: MakeHouse, left: str) -> None:
    """Nothing of what was not synced is believed."""
    house = make_house()
    live = Live(house)
    role = house.index()
    live.send(300)
    go(role)
    progress = house.store_dir / "config" / "indexProgress.json"
    if "the progress" in left:
        role.step(NOW_MS)
        role.step(NOW_MS + SYNC_INTERVAL_MS)
        live.send(120)
        go(role, NOW_MS + SYNC_INTERVAL_MS)
    house.dispatch().drain(NOW_MS)
    house.flush().drain(NOW_MS)
    folder = house.store_dir / "index"
    names = list_names(folder, SIZES)
    if left in {"nothing", "the progress"}:
        for name in names:
            (folder / name).unlink()
    elif "zeros" in left:
        with (folder / names[-1]).open("r+b") as file:
            file.seek(indexfile.HEADER_SIZE + 8)
            file.write(b"\0" * 64)  # slots
            synced = 300 * 2 - 399 if "the progress" in left else 1
            file.seek(indexfile.entry_position(synced + 1, slot_count=INDEX_SLOTS))
            file.write(b"\0" * 400)
    assert progress.exists() == ("the progress" in left)
    house = restart(make_house, house, clean=False)
    go(house.index())
    assert entries(house.store_dir) == wanted(house)
    chains_are_whole(house)


@pytest.mark.parametrize("count", [100, 300])
def test_a_full_disk(house: House, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Entries that find no room are made later, once: in this file or in the next."""
    monkeypatch.setattr(indexfiles, "GROW_SIZE", 1024)
    role, live = house.index(), Live(house)
    live.send(10)
    go(role)
    full = True
    allocate = os.posix_fallocate

    def refuse(*arguments: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    live.send(count)
    reached = house.word(Word.INDEX_OFFSET)
    assert role.step(NOW_MS) == 0
    assert role.step(NOW_MS + 100_000) == 0
    assert house.word(Word.INDEX_OFFSET) == reached
    assert len(list_names(house.store_dir / "index", SIZES)) == 1
    full = False
    role.step(NOW_MS + 200_000)
    assert entries(house.store_dir) == wanted(house)


def test_a_sync_that_fails(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is vouched for after it, though a second one succeeds; the next start mends it."""
    house = make_house()
    role, live = house.index(), Live(house)
    live.send(100)
    go(role)

    def refuse(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", refuse)
        role.step(NOW_MS)
        role.step(NOW_MS + SYNC_INTERVAL_MS)
    live.send(300)
    go(role, NOW_MS + 3 * SYNC_INTERVAL_MS)
    assert entries(house.store_dir) == wanted(house)
    assert role.drain(NOW_MS)
    assert house.word(Word.INDEX_TIMESTAMP) == 0
    assert ProgressFile(house.store_dir / "config" / "indexProgress.json").load() is None
    house.dispatch().drain(NOW_MS)
    house.flush().drain(NOW_MS)
    for name in list_names(house.store_dir / "index", SIZES)[1:]:
        (house.store_dir / "index" / name).unlink()
    house = restart(make_house, house, clean=True)
    go(house.index())
    assert entries(house.store_dir) == wanted(house)


def test_a_folder_that_cannot_be_used(house: House) -> None:
    """The role lives, and tries again."""
    folder = house.store_dir / "index"
    folder.write_text("not a folder")
    role, live = house.index(), Live(house)
    live.send(3)
    for now_ms in range(NOW_MS, NOW_MS + 10_000, 500):
        assert role.step(now_ms) == 0
    folder.unlink()
    go(role, NOW_MS + 20_000)
    assert entries(house.store_dir) == wanted(house)


def test_a_stop_on_a_full_disk(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop is clean; the next start enters what is missing, and nothing twice."""
    house = make_house()
    role, live = house.index(), Live(house)
    live.send(300)

    def refuse(*_arguments: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    role.step(NOW_MS)
    assert role._writer is not None
    begin_file = role._writer._begin_file
    begun: list[int] = []

    def begin_one() -> None:
        if begun:
            refuse()
        begun.append(1)
        begin_file()

    monkeypatch.setattr(role._writer, "_begin_file", begin_one)
    now_ms = NOW_MS
    while not role.drain(now_ms):
        now_ms += 1
    house.dispatch().drain(NOW_MS)
    house.flush().drain(NOW_MS)
    house = restart(make_house, house, clean=True)
    go(house.index())
    assert entries(house.store_dir) == wanted(house)


def test_a_stop_that_takes_too_long_leaves_the_rest(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmq.workers.keyscan.PIECE_SIZE", 1000)
    house = make_house()
    role, live = house.index(), Live(house)
    live.send(100)
    role.step(NOW_MS)
    late = iter([1, 2])
    monkeypatch.setattr(index_role, "monotonic_ms", lambda: next(late, 10**9))
    while not role.drain(NOW_MS):
        pass
    assert 0 < house.word(Word.INDEX_OFFSET) < house.word(Word.REPUT_OFFSET)
    house.dispatch().drain(NOW_MS)
    house.flush().drain(NOW_MS)
    house = restart(make_house, house, clean=True)
    go(house.index())
    assert entries(house.store_dir) == wanted(house)


def test_files_of_another_size_are_passed_over(house: House) -> None:
    folder = house.store_dir / "index"
    folder.mkdir()
    (folder / "20200101000000000").write_bytes(b"x" * 99)
    (folder / "20200101000000001").touch()
    (folder / "notes").write_text("mine")
    role, live = house.index(), Live(house)
    live.send(3)
    go(role)
    assert {path.name for path in folder.iterdir()} >= {"20200101000000000", "notes"}
    (name,) = list_names(folder, SIZES)
    assert indexfiles.read_header(folder / name).entry_count == 7


def test_what_is_no_record_is_passed_over(make_house: MakeHouse) -> None:
    """Up to the next file of the log."""
    house = make_house(pool_size=320 * KiB)
    live = Live(house)
    live.send(200, size=4000)
    path = house.store_dir / "commitlog" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    one = house.messages(TOPIC)[3]
    data[one.physical_offset : one.physical_offset + 8] = b"\1" * 8
    whole = wanted(house)
    path.write_bytes(data)
    go(house.index())
    found = entries(house.store_dir)
    assert found == [
        entry for entry in whole if not one.physical_offset <= entry[1] < LOG_FILE_SIZE
    ]


def test_records_that_retention_deleted_are_passed_over(make_house: MakeHouse) -> None:
    house = make_house(pool_size=320 * KiB)
    live = Live(house)
    live.send(200, size=4000)
    role = house.index()
    whole = wanted(house)
    house.arena.writer(Word.LOG_START, role="housekeeping").publish(2 * LOG_FILE_SIZE)
    for start in (0, LOG_FILE_SIZE):
        (house.store_dir / "commitlog" / f"{start:020d}").unlink()
    go(role)
    assert entries(house.store_dir) == [one for one in whole if one[1] >= 2 * LOG_FILE_SIZE]


def test_deleting_files_before_the_start_of_the_log(house: House) -> None:
    role, live = house.index(), Live(house)
    live.send(700)
    go(role)
    folder = house.store_dir / "index"
    names = list_names(folder, SIZES)
    ends = [indexfiles.read_header(folder / name).end_offset for name in names]
    assert len(names) == 4
    assert delete_before(folder, SIZES, ends[0]) == 0
    assert delete_before(folder, SIZES, ends[1]) == 1
    assert list_names(folder, SIZES) == names[1:]
    assert delete_before(folder, SIZES, 10**12) == 2
    assert list_names(folder, SIZES) == names[-1:]
    live.send(1)
    go(role)
    assert entries(house.store_dir) == wanted(house)[-len(entries(house.store_dir)) :]


def test_a_reader_sees_no_half_of_it(house: House) -> None:
    """A file that is made at this moment has no entries; one of another size is none."""
    path = house.store_dir / "20200101000000000"
    path.write_bytes(b"\0" * (SIZES.file_size - 1))
    with pytest.raises(OSError, match="index file of"):
        IndexFile(path, SIZES)
    path.write_bytes(b"\0" * SIZES.file_size)
    file = IndexFile(path, SIZES)
    found = file.find(5, begin_timestamp=0, end_timestamp=2**62, start=0, steps_max=10)
    assert found == ([], 0, 0)
    file.close()


def test_message_index_safe(make_house: MakeHouse) -> None:
    """After a crash only full files are believed, though the progress knows of more."""
    house = make_house()
    live = Live(house)
    role = house.index()
    live.send(300)
    go(role)
    assert role.drain(NOW_MS)
    house.dispatch().drain(NOW_MS)
    house.flush().drain(NOW_MS)
    house.close()
    settings = small_settings(house.store_dir, message_index_safe=True)
    house = make_house(house.store_dir, settings=settings, clean=False)
    role = house.index()
    assert role.step(NOW_MS) == 1
    assert len(entries(house.store_dir)) < INDEX_ENTRIES
    go(role)
    assert entries(house.store_dir) == wanted(house)


def test_no_role_without_an_index() -> None:
    for index in (True, False):
        roles = broker_roles(serve_count=1, embedded_namesrv=False, drain_max_ms=1, index=index)
        assert ("index" in {role.name for role in roles}) == index

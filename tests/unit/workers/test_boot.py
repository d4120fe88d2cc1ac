"""Opening stores of our own: every place where the last broker may have stopped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shmq.errors import StoreError
from shmq.layout import cqentry, record
from shmq.layout.control import Word
from shmq.layout.record import Record
from shmq.store.checkpoint import CheckpointFile
from shmq.store.commitlog import LogFiles, file_name
from shmq.store.logstream import BLOCK_SIZE, LogStream
from shmq.units import KiB, MiB
from shmq.wire.codes import SysFlag
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import LOG_FILE_SIZE, QUEUE_FILE_SIZE, House, encode, small_settings
from tests.unit.workers.seams import Seams

TOPIC = "T"
NOW_MS = 1_700_000_000_000


def fill(house: House, count: int, *, size: int = 10, queue_id: int = 0) -> list[bytes]:
    """Append, write and dispatch messages; their bodies."""
    slot = house.slot(TOPIC, queue_id)
    writer, flush, dispatch = house.writer(), house.flush(), house.dispatch()
    bodies = []
    for number in range(count):
        bodies.append(b"%d:" % number + b"x" * size)
        house.producer.submit(
            slot, encode(TOPIC, bodies[-1], queue_id=queue_id, properties=b"a\x01b\x02")
        )
        writer.step(NOW_MS + number)
        flush.step(NOW_MS + number)
        dispatch.step(NOW_MS + number)
    assert dispatch.drain(NOW_MS)
    assert flush.drain(NOW_MS)
    dispatch.close()
    flush.close()
    return bodies


def test_an_empty_folder_becomes_a_store(make_house: MakeHouse, tmp_path: Path) -> None:
    house = make_house(tmp_path / "deep" / "store")
    assert house.end == 0
    assert house.word(Word.STORE_STATE) == 1
    assert (tmp_path / "deep" / "store" / "commitlog").is_dir()


@pytest.mark.parametrize("ended", ["clean", "killed"])
def test_what_was_written_is_there_again(make_house: MakeHouse, ended: str) -> None:
    house = make_house()
    bodies = fill(house, 100, size=2000)
    end = house.word(Word.APPEND_OFFSET)
    house.close()
    again = make_house(clean=ended == "clean")
    assert again.end == end
    assert again.bodies(TOPIC) == bodies
    more = fill(again, 3)
    assert again.bodies(TOPIC) == bodies + more


def test_cut_at_every_byte_of_the_last_records(make_house: MakeHouse) -> None:
    """The log and its consumequeue keep what is whole; nothing torn is ever shown."""
    house = make_house()
    bodies = fill(house, 6, size=3)
    house.close()
    path = house.store_dir / "commitlog" / f"{0:020d}"
    whole = path.read_bytes()
    starts = [one.physical_offset for one in house.messages(TOPIC)]
    ends = [*starts[1:], house.word(Word.APPEND_OFFSET)]
    for cut in range(starts[4], ends[5] + 1):
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        kept = sum(end <= cut for end in ends)
        with House(house.store_dir) as again:
            assert again.end == ([0, *ends])[kept], cut
            assert again.bodies(TOPIC) == bodies[:kept], cut
        shutil.rmtree(house.store_dir / "set-aside", ignore_errors=True)


@pytest.mark.parametrize("at", [0, 4, 8, 28, 84, 90])
def test_a_flipped_byte_ends_the_log(make_house: MakeHouse, at: int) -> None:
    house = make_house()
    bodies = fill(house, 6)
    last = house.messages(TOPIC)[5]
    house.close()
    path = house.store_dir / "commitlog" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    data[last.physical_offset + at] ^= 0x40
    path.write_bytes(data)
    again = make_house()
    assert again.end == last.physical_offset
    assert again.bodies(TOPIC) == bodies[:5]
    copies = list((house.store_dir / "set-aside").iterdir())
    assert [copy.name for copy in copies] == [f"commitlog-{last.physical_offset:020d}"]


def vouched(house: House) -> int:
    return CheckpointFile(house.store_dir / "checkpoint").load().vouched_offset


class Reads:
    """Where commitlog files are read from, and how many bytes, while a store is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[int, int] = {}
        read = LogFiles.read

        def noted(files: LogFiles, offset: int, size: int) -> bytes:
            data = read(files, offset, size)
            self.sizes[offset] = self.sizes.get(offset, 0) + len(data)
            return data

        monkeypatch.setattr(LogFiles, "read", noted)
        take = LogStream.take

        def taken(stream: LogStream, offset: int) -> tuple[memoryview, bool]:
            chunk, whole = take(stream, offset)
            self.sizes[offset] = self.sizes.get(offset, 0) + len(chunk)
            return chunk, whole

        monkeypatch.setattr(LogStream, "take", taken)


def test_only_what_was_not_checkpointed_is_walked(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house()
    bodies = fill(house, 30, size=1000)
    border = vouched(house)
    assert border == house.word(Word.APPEND_OFFSET)
    saved = (house.store_dir / "checkpoint").read_bytes()
    bodies += fill(house, 5, size=1000)
    house.close()
    (house.store_dir / "checkpoint").write_bytes(saved)
    reads = Reads(monkeypatch)
    again = make_house()
    assert again.bodies(TOPIC) == bodies
    # The first of the last five, and the end; not what lies before.
    assert min(reads.sizes) == border


@pytest.mark.parametrize("left", ["other fields", "queues", "log", "last record", "guard"])
def test_a_checkpoint_that_is_not_this_stores_vouches_for_nothing(
    make_house: MakeHouse, left: str
) -> None:
    """Another broker was at work, or files were put back: the log is walked, and cut if need be."""
    house = make_house()
    bodies = fill(house, 6)
    last = house.messages(TOPIC)[5]
    house.close()
    log = house.store_dir / "commitlog" / f"{0:020d}"
    path = house.store_dir / "checkpoint"
    whole = bytearray(log.read_bytes())
    if left == "queues":
        shutil.rmtree(house.store_dir / "consumequeue")
        whole[last.physical_offset + 28] ^= 0x40
    elif left == "log":
        whole[last.physical_offset :] = bytes(len(whole) - last.physical_offset)
    elif left == "last record":
        whole[last.physical_offset + 90] ^= 1
    else:
        data = bytearray(path.read_bytes())
        data[0 if left == "other fields" else 79] ^= 1
        path.write_bytes(data)
        assert vouched(house) == 0
        whole[last.physical_offset + 28] ^= 0x40  # Not looked at by who believes the checkpoint.
    log.write_bytes(whole)
    again = make_house()
    assert again.end == last.physical_offset
    assert again.bodies(TOPIC) == bodies[:5]


class LargeStore:
    """Commitlog files with records of these body sizes, as if they had been written before."""

    file_size = 64 * MiB

    def __init__(self, store_dir: Path, sizes: list[int], *, direct: bool = True) -> None:
        self.settings = small_settings(
            store_dir,
            mapped_file_size_commit_log=self.file_size,
            mapped_file_size_consume_queue=20 * 1000,
            max_message_size=32 * MiB,
            frame_size_max=40 * MiB,
            submission_ring_size=64 * MiB,
            connection_buffer_max=64 * MiB,
            native_ring_size=64 * MiB,
            direct_write_enable=direct,
        )
        self.bodies = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
        self.starts: list[int] = []
        self.folder = store_dir / "commitlog"
        self.folder.mkdir(parents=True)
        at = 0
        for number, body in enumerate(self.bodies):
            data = self._record(number, body, at)
            left = self.file_size - at % self.file_size
            if len(data) + record.BLANK_HEAD_SIZE > left:
                self._write(at, record.blank(left))
                at += left
                data = self._record(number, body, at)
            self._write(at, data)
            self.starts.append(at)
            at += len(data)
        self.end = at

    def _record(self, number: int, body: bytes, at: int) -> bytes:
        made = Record(
            topic=TOPIC, body=body, queue_offset=number, physical_offset=at, store_timestamp=NOW_MS
        )
        return record.encode(made)

    def _write(self, at: int, data: bytes) -> None:
        path = self.folder / file_name(at - at % self.file_size)
        if not path.exists():
            path.touch()
            os.truncate(path, self.file_size)
        with path.open("r+b") as file:
            file.seek(at % self.file_size)
            file.write(data)

    def open(self, make_house: MakeHouse) -> House:
        """A broker that does not trust what the last one left."""
        return make_house(settings=self.settings, pool_size=160 * MiB)


@pytest.mark.parametrize("direct", [True, False])
def test_records_of_any_size_are_found_again(
    make_house: MakeHouse,
    tmp_path: Path,
    direct: bool,  # noqa: FBT001
) -> None:
    """Smaller and larger than what is read at once, and at the borders between."""
    sizes = [100, BLOCK_SIZE - 300, 20 * MiB, 10, BLOCK_SIZE, 9 * MiB, 700_000, 30 * MiB, 5]
    sizes += [300_000] * 100 + [BLOCK_SIZE + 1, 7]
    store = LargeStore(tmp_path / "store", sizes, direct=direct)
    house = store.open(make_house)
    assert house.end == store.end > store.file_size
    assert house.bodies(TOPIC) == store.bodies


@pytest.mark.parametrize("size", [2**31 - 1, record.RECORD_SIZE_MAX + 1, 60 * MiB, 9 * MiB, 500])
def test_a_size_that_nothing_follows_ends_the_log(
    make_house: MakeHouse, tmp_path: Path, size: int
) -> None:
    """It is not believed: no memory is taken for it, and nothing before it is lost."""
    store = LargeStore(tmp_path / "store", [100, 9 * MiB, 100])
    path = store.folder / file_name(0)
    with path.open("r+b") as file:
        file.seek(store.starts[2])
        file.write(size.to_bytes(4, "big"))
    house = store.open(make_house)
    assert house.end == store.starts[2]
    assert house.bodies(TOPIC) == store.bodies[:2]


def test_inner_batches_are_passed_over(make_house: MakeHouse) -> None:
    """Their queues are batch consumequeues, of which these entries would make nonsense."""
    house = make_house()
    bodies = fill(house, 3)
    fill(house, 3, queue_id=1)
    batches = house.messages(TOPIC, 1)
    house.close()
    shutil.rmtree(house.store_dir / "consumequeue")
    path = house.store_dir / "commitlog" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    for batch in batches:
        data[batch.physical_offset + record.SYS_FLAG_AT + 3] |= SysFlag.INNER_BATCH
    path.write_bytes(data)
    again = make_house()
    assert again.bodies(TOPIC) == bodies
    assert again.end == house.word(Word.APPEND_OFFSET)
    assert again.arena.queues.slot(TOPIC, 1) is None


def test_a_damaged_checkpoint_is_put_aside(make_house: MakeHouse) -> None:
    house = make_house()
    bodies = fill(house, 6)
    house.close()
    (house.store_dir / "checkpoint").write_bytes(b"short")
    again = make_house()
    assert again.bodies(TOPIC) == bodies
    assert (house.store_dir / "checkpoint.damaged-1").read_bytes() == b"short"


@pytest.mark.parametrize("left", ["two records", "the last record"])
def test_records_of_a_newer_version_are_not_cut_off(make_house: MakeHouse, left: str) -> None:
    house = make_house()
    fill(house, 6)
    fifth, sixth = house.messages(TOPIC)[4:]
    house.close()
    (house.store_dir / "checkpoint").unlink()
    path = house.store_dir / "commitlog" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    data[sixth.physical_offset + 7] = 0xAF
    if left == "two records":
        data[fifth.physical_offset + 7] = 0xAF
    else:
        data[sixth.physical_offset + 90] ^= 1  # Its fields are not those of a known version.
    path.write_bytes(data)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="of a version that this broker does not know"):
        make_house()
    assert path.read_bytes() == before
    assert not (house.store_dir / "set-aside").exists()


@pytest.mark.parametrize("index", [4, 5])
@pytest.mark.parametrize("magic", [0xAF, 0xA5, 0x87, 0xB7, 0])
def test_a_changed_bit_of_a_magic_is_damage(make_house: MakeHouse, index: int, magic: int) -> None:
    """No version has this magic, or all but the magic is a record of a known version."""
    house = make_house()
    bodies = fill(house, 6)
    bent = house.messages(TOPIC)[index]
    house.close()
    (house.store_dir / "checkpoint").unlink()
    path = house.store_dir / "commitlog" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    data[bent.physical_offset + 7] = magic
    path.write_bytes(data)
    again = make_house()
    assert again.end == bent.physical_offset
    assert again.bodies(TOPIC) == bodies[:index]
    assert [one.name for one in (house.store_dir / "set-aside").iterdir()] == [
        f"commitlog-{bent.physical_offset:020d}"
    ]


@pytest.mark.parametrize(("at", "bits"), [(12, 0x80), (20, 0x40), (20, 0x80)])
def test_a_record_without_a_possible_place_is_passed_over(
    make_house: MakeHouse, at: int, bits: int
) -> None:
    house = make_house()
    bodies = fill(house, 6)
    fourth = house.messages(TOPIC)[3]
    house.close()
    shutil.rmtree(house.store_dir / "consumequeue")
    path = house.store_dir / "commitlog" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    data[fourth.physical_offset + at] ^= bits
    path.write_bytes(data)
    for _ in range(2):
        again = make_house()
        assert again.end == house.word(Word.APPEND_OFFSET)
        assert again.arena.queues.topics() == {TOPIC: {0: 0}}
        entries = again.queue_reader().entries(0, 0, 10).tolist()
        assert entries[3] == (0, cqentry.FILLER_SIZE, 0)
        log = again.log_reader()
        found = [record.decode(log.record(*entry[:2])).body for entry in entries[:3] + entries[4:]]
        assert found == bodies[:3] + bodies[4:]
        again.close()


@pytest.mark.parametrize("bit", [0, 1, 5, 6, 7, 8])
@pytest.mark.parametrize("number", [0, 40, 70])
@pytest.mark.parametrize("queues_kept", [True, False])
def test_a_queue_offset_with_a_bit_that_changed_costs_one_message(
    make_house: MakeHouse,
    number: int,
    bit: int,
    queues_kept: bool,  # noqa: FBT001
) -> None:
    """No CRC covers it; the other messages keep their places, and the store opens ever after."""
    house = make_house()
    bodies = fill(house, 100, size=300)
    message = house.messages(TOPIC)[number]
    house.close()
    log = house.store_dir / "commitlog" / f"{0:020d}"
    data = bytearray(log.read_bytes())
    data[message.physical_offset + 27 - bit // 8] ^= 1 << bit % 8
    log.write_bytes(data)
    if not queues_kept:
        shutil.rmtree(house.store_dir / "consumequeue")
    for clean in (False, True, False):
        again = make_house(clean=clean)
        reader, log_reader = again.queue_reader(), again.log_reader()
        for place, body in enumerate(bodies):
            if place == number:
                continue
            offset, size, _code = reader.entries(again.slot(TOPIC), place, 1)[0].tolist()
            assert record.decode(log_reader.record(offset, size)).body == body, place
        again.close()


def test_entries_behind_a_hole_do_not_outlive_their_records(make_house: MakeHouse) -> None:
    """A power cut left a hole in the queue, entries after it, and not the records of the last."""
    house = make_house()
    bodies = fill(house, 8)
    fifth = house.messages(TOPIC)[4]
    house.close()
    log = house.store_dir / "commitlog" / f"{0:020d}"
    log.write_bytes(log.read_bytes()[: fifth.physical_offset].ljust(LOG_FILE_SIZE, b"\0"))
    queue = house.store_dir / "consumequeue" / TOPIC / "0" / f"{0:020d}"
    entries = queue.read_bytes()
    queue.write_bytes(entries[:20] + bytes(40) + entries[60:])
    again = make_house()
    assert again.bodies(TOPIC) == bodies[:4]
    assert queue.read_bytes() == entries[:80].ljust(QUEUE_FILE_SIZE, b"\0")


@pytest.mark.parametrize("clean", [True, False])
def test_a_hole_in_a_queue_is_filled_from_the_log(make_house: MakeHouse, clean: bool) -> None:  # noqa: FBT001
    """Though the checkpoint vouches for what is damaged, and only other queues went on since."""
    house = make_house()
    bodies = fill(house, 60, size=2000)
    fill(house, 60, size=2000, queue_id=1)
    house.close()
    checkpoint = CheckpointFile(house.store_dir / "checkpoint")
    saved = checkpoint.load()
    late_ms = NOW_MS + 1_000_000
    checkpoint.save(saved._replace(physical_timestamp=late_ms, queues_timestamp=late_ms))
    checkpoint.close()
    queue = house.store_dir / "consumequeue" / TOPIC / "0" / f"{QUEUE_FILE_SIZE:020d}"
    whole = queue.read_bytes()
    queue.write_bytes(whole[:60] + bytes(20) + whole[80:])
    again = make_house(clean=clean)
    assert again.bodies(TOPIC) == bodies
    assert queue.read_bytes() == whole


def test_queues_of_a_log_whose_start_is_deleted(make_house: MakeHouse) -> None:
    """A rebuilt queue begins in the middle of its file, behind fillers, and stays so."""
    house = make_house()
    bodies = fill(house, 60, size=4000)
    house.close()
    shutil.rmtree(house.store_dir / "consumequeue")
    (house.store_dir / "commitlog" / f"{0:020d}").unlink()
    for clean in (False, True, False):
        again = make_house(clean=clean)
        slot = again.slot(TOPIC)
        first = again.arena.queues.min_offset(slot)
        assert 0 < first < 20
        assert again.arena.queues.max_offset(slot) == 60
        assert again.word(Word.LOG_START) == LOG_FILE_SIZE
        assert again.bodies(TOPIC) == bodies[first:]
        again.close()
    data = (house.store_dir / "consumequeue" / TOPIC / "0" / f"{0:020d}").read_bytes()
    assert data[: first * 20] == cqentry.FILLER * first


def test_a_queue_of_which_nothing_is_left_goes_on_where_it_began(make_house: MakeHouse) -> None:
    house = make_house()
    fill(house, 60, size=4000)
    house.close()
    second = house.store_dir / "commitlog" / f"{LOG_FILE_SIZE:020d}"
    for file in sorted((house.store_dir / "commitlog").iterdir()):
        if file != second:
            file.unlink()
    second.write_bytes(bytes(LOG_FILE_SIZE))
    for file in (house.store_dir / "consumequeue" / TOPIC / "0").iterdir():
        if file.name == f"{0:020d}":
            file.unlink()
    again = make_house()
    slot = again.slot(TOPIC)
    assert again.end == LOG_FILE_SIZE
    assert again.arena.queues.max_offset(slot) == QUEUE_FILE_SIZE // 20
    assert again.arena.queues.min_offset(slot) == QUEUE_FILE_SIZE // 20
    bodies = fill(again, 2)
    assert again.bodies(TOPIC) == bodies


def test_entries_of_lost_records_are_cut_even_behind_good_ones(make_house: MakeHouse) -> None:
    """The walk enters the good ones again; the stale ones behind them must still go."""
    house = make_house()
    bodies = fill(house, 30)
    found = house.messages(TOPIC)
    house.close()
    path = house.store_dir / "commitlog" / f"{0:020d}"
    data = path.read_bytes()
    keep = found[10].physical_offset
    path.write_bytes(data[:keep] + bytes(len(data) - keep))
    again = make_house()
    assert again.bodies(TOPIC) == bodies[:10]
    more = fill(again, 4)
    assert again.bodies(TOPIC) == bodies[:10] + more


def test_a_hole_in_a_consumequeue_is_filled(make_house: MakeHouse) -> None:
    """A page that never reached the disk."""
    house = make_house()
    bodies = fill(house, 35)
    house.close()
    path = house.store_dir / "consumequeue" / TOPIC / "0" / f"{0:020d}"
    data = bytearray(path.read_bytes())
    for first, last in ((0, 5), (10, 20), (34, 35)):
        data[first * 20 : last * 20] = bytes((last - first) * 20)
    path.write_bytes(data)
    assert make_house().bodies(TOPIC) == bodies


def test_the_end_of_the_log_is_on_disk_before_it_is_promised(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house()
    fill(house, 40, size=4000)
    house.close()
    (house.store_dir / "checkpoint").unlink()  # Else nothing but the end is looked at.
    synced = set()
    fsync = os.fsync

    def noted_fsync(fd: int) -> None:
        synced.add(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    again = make_house()
    files = {file.name for file in (house.store_dir / "commitlog").iterdir()}
    assert len(files) == 3
    assert files <= synced
    assert again.word(Word.FLUSHED_OFFSET) == again.end


def test_opening_dies_at_every_seam(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker killed while it recovers leaves a store that the next one recovers as well."""
    house = make_house()
    bodies = fill(house, 45, size=2000)
    found = house.messages(TOPIC)
    house.close()
    damage(house, found[20])
    (house.store_dir / "checkpoint").unlink()  # It vouches for what is damaged.
    spare = house.store_dir.with_name("spare")
    shutil.copytree(house.store_dir, spare)
    seams = Seams(monkeypatch)
    death_at = 0
    deaths = 0
    while True:
        shutil.rmtree(house.store_dir)
        shutil.copytree(spare, house.store_dir)
        opened = seams.run(lambda: House(house.store_dir), death_at=death_at)
        if opened is not None:
            opened.close()
        else:
            deaths += 1
        with House(house.store_dir) as again:
            assert again.end == found[20].physical_offset
            assert again.bodies(TOPIC) == bodies[:20]
        copies = sorted((house.store_dir / "set-aside").iterdir())
        assert b"garbage" in b"".join(copy.read_bytes() for copy in copies)
        if opened is not None:
            break
        death_at += 3
    assert deaths >= 3


def damage(house: House, at: record.Record) -> None:
    """Write garbage over a record in the middle of the log, and lose the consumequeues."""
    start = at.physical_offset - at.physical_offset % LOG_FILE_SIZE
    path = house.store_dir / "commitlog" / f"{start:020d}"
    with path.open("r+b") as file:
        file.seek(at.physical_offset - start)
        file.write(b"garbage")


def test_file_sizes_other_than_configured_are_refused(make_house: MakeHouse) -> None:
    house = make_house()
    fill(house, 3)
    house.close()
    for name, size in (
        ("mapped_file_size_commit_log", 128 * KiB),
        ("mapped_file_size_consume_queue", 60 * 20),
    ):
        with pytest.raises(StoreError, match="another size than configured"):
            make_house(settings=small_settings(house.store_dir, **{name: size}))
    assert make_house().end == house.word(Word.APPEND_OFFSET)


def test_consumequeue_file_size_is_rounded_up(make_house: MakeHouse, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, mapped_file_size_consume_queue=QUEUE_FILE_SIZE - 7)
    house = make_house(tmp_path, settings=settings)
    bodies = fill(house, 50)
    assert house.bodies(TOPIC) == bodies
    house.close()
    assert make_house(tmp_path, settings=settings).bodies(TOPIC) == bodies


def test_foreign_files_and_gaps_are_refused(make_house: MakeHouse) -> None:
    house = make_house()
    fill(house, 60, size=4000)
    house.close()
    commitlog = house.store_dir / "commitlog"
    foreign = commitlog / "notes.txt"
    foreign.write_text("x")
    with pytest.raises(StoreError, match="foreign file"):
        make_house()
    foreign.unlink()
    middle = commitlog / f"{LOG_FILE_SIZE:020d}"
    moved = middle.rename(house.store_dir / "moved")
    with pytest.raises(StoreError, match="gap in the row"):
        make_house()
    moved.rename(middle)
    (house.store_dir / "consumequeue" / "CURRENT").write_text("x")
    with pytest.raises(StoreError, match="RocksDB"):
        make_house()


def test_a_pool_too_small_for_a_message_is_refused(make_house: MakeHouse, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, max_message_size=64 * KiB)
    with pytest.raises(StoreError, match="raise hotPoolSize"):
        make_house(tmp_path, settings=settings, pool_size=512 * KiB - 16 * KiB)
    make_house(tmp_path, settings=settings, pool_size=512 * KiB)


def test_clean_start_believes_the_checkpoint(make_house: MakeHouse) -> None:
    """Only what follows the checkpoint is read: a start is quick whatever the log's size."""
    house = make_house()
    bodies = fill(house, 40, size=4000)
    end = house.word(Word.APPEND_OFFSET)
    house.close()
    assert CheckpointFile(house.store_dir / "checkpoint").load().confirm_offset == end
    first = house.store_dir / "commitlog" / f"{0:020d}"
    data = first.read_bytes()
    first.write_bytes(data[:200] + b"damaged" + data[207:])
    with House(house.store_dir, clean=True) as again:
        assert again.end == end
        assert again.arena.queues.max_offset(again.slot(TOPIC)) == len(bodies)

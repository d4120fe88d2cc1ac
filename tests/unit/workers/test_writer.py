"""The writer: what it appends, what it refuses, how it waits, and how it says so."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from shmq.layout import record, ring
from shmq.layout.control import BLOCKED_BY_DISPATCH, BLOCKED_BY_FLUSH, Word
from shmq.layout.record import BORN_HOST_V6, STORE_HOST_V6
from shmq.units import KiB
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import LOG_FILE_SIZE, POOL_SIZE, House, encode, small_settings

TOPIC = "T"
NOW_MS = 1_700_000_000_000


def settle(house: House) -> None:
    """Bring everything into files and consumequeues."""
    house.flush().step(NOW_MS)
    house.dispatch().step(NOW_MS)


def test_a_record_arrives_with_what_the_writer_owns(house: House) -> None:
    slot = house.slot(TOPIC)
    writer = house.writer()
    sequence = house.producer.submit(slot, encode(TOPIC, b"one"))
    assert writer.step(NOW_MS) == 1
    assert house.producer.done(sequence) == (ring.STATUS_OK, 0, 0, NOW_MS)
    house.dispatch().step(NOW_MS)
    (found,) = house.messages(TOPIC)
    assert (found.body, found.store_timestamp) == (b"one", NOW_MS)
    assert house.word(Word.APPEND_OFFSET) == found.size
    assert house.word(Word.DESCRIPTOR_COUNT) == 1
    assert writer.step(NOW_MS) == 0


def test_records_follow_each_other_and_time_never_goes_back(house: House) -> None:
    slots = [house.slot(TOPIC, 0), house.slot(TOPIC, 1)]
    writer = house.writer()
    for number in range(6):
        body = str(number).encode()
        house.producer.submit(slots[number % 2], encode(TOPIC, body, queue_id=number % 2))
        writer.step(NOW_MS - number)
    house.dispatch().step(NOW_MS)
    assert house.bodies(TOPIC, 0) == [b"0", b"2", b"4"]
    assert house.bodies(TOPIC, 1) == [b"1", b"3", b"5"]
    stamps = {one.store_timestamp for one in house.messages(TOPIC, 0)}
    assert stamps == {NOW_MS}


@pytest.mark.parametrize("flags", [0, BORN_HOST_V6, STORE_HOST_V6, BORN_HOST_V6 | STORE_HOST_V6])
@pytest.mark.parametrize("topic", ["T", "t" * 127, "t" * 128, "t" * 255])
def test_every_form_of_record(house: House, flags: int, topic: str) -> None:
    slot = house.slot(topic)
    hosts: dict[str, Any] = {
        "born_host": bytes(16 if flags & BORN_HOST_V6 else 4),
        "store_host": bytes(16 if flags & STORE_HOST_V6 else 4),
    }
    sent = encode(topic, b"body", sys_flag=flags, properties=b"k\x01v\x02", **hosts)
    sequence = house.producer.submit(slot, sent)
    house.writer().step(NOW_MS)
    assert house.producer.done(sequence).status == ring.STATUS_OK
    settle(house)
    (found,) = house.messages(topic)
    assert (found.sys_flag, found.properties) == (flags, b"k\x01v\x02")


def test_a_batch_is_one_piece(house: House) -> None:
    slot = house.slot(TOPIC)
    writer = house.writer()
    batch = [encode(TOPIC, f"b{number}".encode()) for number in range(5)]
    first = house.producer.submit(slot, encode(TOPIC, b"before"))
    sequence = house.producer.submit(slot, *batch, code=7)
    writer.step(NOW_MS)
    done = house.producer.done(sequence)
    assert done == (ring.STATUS_OK, house.producer.done(first).physical_offset + 98, 1, NOW_MS)
    house.dispatch().step(NOW_MS)
    assert house.bodies(TOPIC) == [b"before", b"b0", b"b1", b"b2", b"b3", b"b4"]
    codes = house.queue_reader().entries(slot, 0, 10)["tags_code"].tolist()
    assert codes == [0, 7, 7, 7, 7, 7]


def test_a_batch_with_one_bad_record_is_refused_as_a_whole(house: House) -> None:
    slot = house.slot(TOPIC)
    writer = house.writer()
    good = encode(TOPIC, b"good")
    bad = encode(TOPIC, b"bad", queue_id=3)
    sequence = house.producer.submit(slot, good, good, bad)
    after = house.producer.submit(slot, good)
    writer.step(NOW_MS)
    assert house.producer.done(sequence).status == ring.STATUS_BAD_RECORD
    assert house.producer.done(after) == (ring.STATUS_OK, 0, 0, NOW_MS)
    house.dispatch().step(NOW_MS)
    assert house.bodies(TOPIC) == [b"good"]


def test_a_record_cut_at_any_byte_is_refused(house: House) -> None:
    slot = house.slot(TOPIC)
    writer = house.writer()
    whole = encode(TOPIC, b"body", properties=b"k\x01v\x02")
    for size in range(len(whole)):
        sequence = house.producer.submit(slot, whole[:size], data=whole[:size])
        writer.step(NOW_MS)
        assert house.producer.done(sequence).status == ring.STATUS_BAD_RECORD, size
    for size in range(1, 10):
        longer = whole + bytes(size)
        sequence = house.producer.submit(slot, longer)
        writer.step(NOW_MS)
        assert house.producer.done(sequence).status == ring.STATUS_BAD_RECORD
    assert house.word(Word.APPEND_OFFSET) == 0


def test_a_wrong_slot_is_refused(house: House) -> None:
    house.slot(TOPIC)
    writer = house.writer()
    statuses = []
    for slot in (-1, 1, 63, 64, 2**31 - 1, 0):
        sequence = house.producer.submit(slot, encode(TOPIC, b"x"))
        writer.step(NOW_MS)
        statuses.append(house.producer.done(sequence).status)
    assert statuses == [ring.STATUS_BAD_SLOT] * 5 + [ring.STATUS_OK]


def test_the_log_goes_on_in_the_next_file(house: House) -> None:
    """A record that leaves less than a blank's head in its file goes to the next one."""
    slot = house.slot(TOPIC)
    writer, flush, dispatch = house.writer(), house.flush(), house.dispatch()
    overhead = len(encode(TOPIC, b""))
    bodies = []
    for spare in (8, 7, 9, 0):
        left = LOG_FILE_SIZE - house.word(Word.APPEND_OFFSET) % LOG_FILE_SIZE
        while left > 9000:
            bodies.append(b"f" * 8000)
            house.producer.submit(slot, encode(TOPIC, bodies[-1]))
            writer.step(NOW_MS)
            left = LOG_FILE_SIZE - house.word(Word.APPEND_OFFSET) % LOG_FILE_SIZE
        bodies.append(b"l" * (left - spare - overhead))
        sequence = house.producer.submit(slot, encode(TOPIC, bodies[-1]))
        writer.step(NOW_MS)
        done = house.producer.done(sequence)
        moved = done.physical_offset % LOG_FILE_SIZE == 0
        assert moved == (spare < 8), spare
        flush.step(NOW_MS)
        dispatch.step(NOW_MS)
    assert flush.drain(NOW_MS)
    assert dispatch.drain(NOW_MS)
    assert house.bodies(TOPIC) == bodies
    files = sorted((house.store_dir / "commitlog").iterdir())
    for file in files[:-1]:
        data = file.read_bytes()
        position = 0
        while record.head(data, position)[1] != record.BLANK_MAGIC:
            position += record.decode(data, position).size
        assert record.head(data, position)[0] == LOG_FILE_SIZE - position
        assert not any(data[position + record.BLANK_HEAD_SIZE :])
    flush.close()
    dispatch.close()


def fill(house: House, slot: int, *, size: int = 4000) -> int:
    """Submit and append until the writer is held up; how many were appended."""
    writer = house.writer()
    count = 0
    while not house.word(Word.BLOCKED_SINCE):
        house.producer.submit(slot, encode(TOPIC, count.to_bytes(4, "big") * (size // 4)))
        count += writer.step(NOW_MS + count)
    return count


def test_a_full_pool_holds_the_writer_up_until_the_disk_follows(house: House) -> None:
    slot = house.slot(TOPIC)
    count = fill(house, slot)
    assert 110 < count < POOL_SIZE // 4000
    assert house.word(Word.BLOCKED_ON) == BLOCKED_BY_FLUSH
    assert house.word(Word.BLOCKED_SINCE) == NOW_MS + count
    writer = house.writer()
    assert writer.step(NOW_MS + 500) == 0
    assert house.word(Word.BLOCKED_SINCE) == NOW_MS + count, "the start of the hold-up stays"
    flush = house.flush()
    flush.step(NOW_MS)
    assert house.word(Word.WRITTEN_OFFSET) == house.word(Word.APPEND_OFFSET)
    assert writer.step(NOW_MS + 600) == 0
    assert house.word(Word.BLOCKED_ON) == BLOCKED_BY_DISPATCH
    house.dispatch().step(NOW_MS)
    assert writer.step(NOW_MS + 700) == 1
    assert house.word(Word.BLOCKED_SINCE) == 0
    assert 0 < house.word(Word.HOT_START) <= house.word(Word.WRITTEN_OFFSET)
    house.dispatch().step(NOW_MS)
    bodies = house.bodies(TOPIC)
    assert bodies == [number.to_bytes(4, "big") * 1000 for number in range(count + 1)]
    flush.close()


def test_small_records_do_not_take_the_room_of_a_large_one(make_house: MakeHouse) -> None:
    house = make_house(serve_count=2)
    slot = house.slot(TOPIC)
    count = fill(house, slot, size=3000)
    assert POOL_SIZE - house.word(Word.APPEND_OFFSET) > 200, "a small one would fit"
    writer = house.writer()
    small = house.producers[1].submit(slot, encode(TOPIC, b"small"))
    assert writer.step(NOW_MS) == 0
    assert house.word(Word.BLOCKED_SINCE) > 0
    settle(house)
    writer.step(NOW_MS)
    assert house.producer.waiting == house.producers[1].waiting == 0
    assert house.producers[1].done(small).queue_offset == count + 1


def test_an_entry_that_could_wait_for_ever_is_refused(
    make_house: MakeHouse, tmp_path: Path
) -> None:
    settings = small_settings(tmp_path, mapped_file_size_commit_log=1024 * KiB)
    house = make_house(tmp_path, settings=settings)
    slot = house.slot(TOPIC)
    writer = house.writer()
    house.producer.submit(slot, encode(TOPIC, b"before"))
    huge = [encode(TOPIC, b"h" * 8000)] * 70
    sequence = house.producer.submit(slot, *huge)
    after = house.producer.submit(slot, encode(TOPIC, b"after"))
    assert writer.step(NOW_MS) == 3
    assert house.producer.done(sequence).status == ring.STATUS_BAD_RECORD
    assert house.producer.done(after).status == ring.STATUS_OK
    assert house.word(Word.BLOCKED_SINCE) == 0
    house.dispatch().step(NOW_MS)
    assert house.bodies(TOPIC) == [b"before", b"after"]


def test_after_a_failed_flush_everything_is_refused(house: House) -> None:
    slot = house.slot(TOPIC)
    writer = house.writer()
    house.producer.submit(slot, encode(TOPIC, b"before"))
    writer.step(NOW_MS)
    house.arena.writer(Word.FLUSH_ERROR, role="flush").publish(errno.EIO)
    sequences = [house.producer.submit(slot, encode(TOPIC, b"after")) for _ in range(3)]
    assert writer.step(NOW_MS) == 3
    assert {house.producer.done(number).status for number in sequences} == {ring.STATUS_CLOSED}
    assert house.word(Word.DESCRIPTOR_COUNT) == 1


def test_a_topic_made_while_it_runs_begins_at_zero(house: House) -> None:
    writer = house.writer()
    for number in range(3):
        slot = house.slot(f"T{number}")
        sequence = house.producer.submit(slot, encode(f"T{number}", b"x"))
        writer.step(NOW_MS)
        assert house.producer.done(sequence).queue_offset == 0


def test_drain_empties_the_rings(make_house: MakeHouse) -> None:
    house = make_house(serve_count=3)
    slot = house.slot(TOPIC)
    writer = house.writer()
    for producer in house.producers:
        for _ in range(5):
            producer.submit(slot, encode(TOPIC, b"x"))
    rounds = 0
    while not writer.drain(NOW_MS):
        rounds += 1
        assert rounds < 10
    assert house.word(Word.DESCRIPTOR_COUNT) == 15
    assert all(producer.waiting == 0 for producer in house.producers)


def test_waiting_ends_when_work_comes(house: House) -> None:
    writer = house.writer()
    slot = house.slot(TOPIC)
    house.producer.submit(slot, encode(TOPIC, b"x"))
    writer.wait(60_000)  # There is work: it does not sleep.
    writer.step(NOW_MS)
    writer.wake()
    writer.wait(60_000)
    writer.wait(1)

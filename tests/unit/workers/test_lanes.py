"""Rings of strangers in the writer: what they claim, what breaks them, and a writer's death."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shmq.layout import ring
from shmq.layout.control import DESCRIPTOR, Word
from shmq.layout.ring import STATUS_BAD_RECORD, STATUS_BAD_SLOT, STATUS_OK
from shmq.shm.words import OwnedCell
from shmq.workers.lanes import FIRST_NATIVE
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import House, encode, small_settings
from tests.unit.workers.natives import Native, Natives, stranger_record
from tests.unit.workers.seams import Seams

TOPIC = "T"
NOW_MS = 1_700_000_000_000

MakeNatives = Callable[[House], Natives]


@pytest.fixture
def native_house(make_house: MakeHouse) -> House:
    """A house whose native door is open."""
    store = {"broker_ip1": "127.0.0.1"}
    house = make_house(native=True)
    house.context.settings = small_settings(house.store_dir, **store)
    return house


@pytest.fixture
def natives(native_house: House) -> Iterator[Natives]:
    made = Natives(native_house)
    yield made
    made.close()


def client_of(house: House, natives: Natives, **more: int) -> Native:
    return natives.add(slots=(house.slot(TOPIC),), **more)


def test_a_native_clients_record_arrives(native_house: House, natives: Natives) -> None:
    writer, dispatch = native_house.writer(), native_house.dispatch()
    client = client_of(native_house, natives, index=5, epoch=2**40)
    number = client.producer.submit(0, stranger_record(TOPIC, b"one"))
    assert writer.step(NOW_MS) == 1
    assert client.producer.done(number) == (STATUS_OK, 0, 0, NOW_MS)
    dispatch.step(NOW_MS)
    assert native_house.bodies(TOPIC) == [b"one"]
    described = np.frombuffer(native_house.arena.descriptors, dtype=DESCRIPTOR)[0]
    assert described["ring"] == FIRST_NATIVE + 5
    assert (described["ring_sequence"], described["epoch"]) == (0, 2**40)


def test_rings_are_served_in_turn(native_house: House, natives: Natives) -> None:
    writer = native_house.writer()
    slot = native_house.slot(TOPIC)
    clients = [natives.add(index, epoch=index + 1, slots=(slot,)) for index in range(3)]
    for client in clients:
        for _ in range(4):
            client.producer.submit(slot, stranger_record(TOPIC, b"x"))
    native_house.producer.submit(slot, encode(TOPIC, b"own"))
    assert writer.step(NOW_MS) == 13
    assert all(client.producer.waiting == 0 for client in clients)


def test_grants_are_looked_at_with_each_entry(native_house: House, natives: Natives) -> None:
    writer = native_house.writer()
    client = client_of(native_house, natives)
    other = native_house.slot("other")
    numbers = [client.producer.submit(slot, stranger_record(TOPIC, b"x")) for slot in (0, other)]
    writer.step(NOW_MS)
    assert [client.producer.done(one).status for one in numbers] == [STATUS_OK, STATUS_BAD_SLOT]
    native_house.arena.granted(0)[:] = bytes(len(native_house.arena.granted(0)))
    number = client.producer.submit(0, stranger_record(TOPIC, b"x"))
    writer.step(NOW_MS)
    assert client.producer.done(number).status == STATUS_BAD_SLOT


def test_a_record_that_names_another_broker(native_house: House, natives: Natives) -> None:
    writer = native_house.writer()
    client = client_of(native_house, natives)
    number = client.producer.submit(0, encode(TOPIC, b"x", store_host=b"\x7f\0\0\1"))
    writer.step(NOW_MS)
    assert client.producer.done(number).status == STATUS_BAD_RECORD
    assert native_house.word(Word.APPEND_OFFSET) == 0


@pytest.mark.parametrize("submitted", [-1, 17, 2**62, -(2**63), 2**63 - 1])
def test_submissions_that_cannot_be_break_the_lane_alone(
    native_house: House, natives: Natives, submitted: int
) -> None:
    writer = native_house.writer()
    hostile = client_of(native_house, natives)
    honest = natives.add(1, epoch=2, slots=(0,))
    OwnedCell(hostile.native.ring.submitted._cell.cast("B"), 0, free=True).publish(submitted)
    number = honest.producer.submit(0, stranger_record(TOPIC, b"x"))
    assert writer.step(NOW_MS) == 1
    assert honest.producer.done(number).status == STATUS_OK
    # It stays broken, whatever it says later.
    hostile.native.ring.submitted._cell[0] = 1
    assert writer.step(NOW_MS) == 0
    natives.drop(0)
    again = natives.add(0, epoch=3, slots=(0,))
    number = again.producer.submit(0, stranger_record(TOPIC, b"y"))
    assert writer.step(NOW_MS) == 1
    assert again.producer.done(number).status == STATUS_OK


def test_completions_are_counted_by_the_writer_itself(
    native_house: House, natives: Natives
) -> None:
    """A client that writes COMPLETED gets nothing twice."""
    writer = native_house.writer()
    client = client_of(native_house, natives)
    client.producer.submit(0, stranger_record(TOPIC, b"x"))
    writer.step(NOW_MS)
    end = native_house.word(Word.APPEND_OFFSET)
    client.native.ring.completed._cell[0] = -5
    assert writer.step(NOW_MS) == 0
    assert native_house.word(Word.APPEND_OFFSET) == end
    client.producer.ring.submitted.publish(2)
    assert writer.step(NOW_MS) == 1
    assert client.native.ring.completed.load() == 2


def test_a_ring_whose_head_was_changed_keeps_its_sizes(
    native_house: House, natives: Natives
) -> None:
    writer = native_house.writer()
    client = client_of(native_house, natives)
    writer.step(NOW_MS)
    view = memoryview(client.native._mapping)
    view[ring.ENTRY_COUNT_AT : ring.DATA_SIZE_AT + 8] = b"\xff" * 12
    number = client.producer.submit(0, stranger_record(TOPIC, b"x"))
    assert writer.step(NOW_MS) == 1
    assert client.producer.done(number).status == STATUS_OK


def test_entries_of_noise(native_house: House, natives: Natives) -> None:
    writer = native_house.writer()
    client = client_of(native_house, natives)
    noise = np.random.default_rng(5)
    for _ in range(200):
        entries = client.native.ring.entry_array().view(np.uint8)
        entries[:] = noise.integers(0, 256, len(entries), dtype=np.uint8)
        client.producer.ring.submitted.publish(client.native.ring.submitted.load() + 16)
        assert writer.step(NOW_MS) == 16
    assert native_house.word(Word.APPEND_OFFSET) == 0


def test_the_writer_sleeps_until_a_client_rings(native_house: House, natives: Natives) -> None:
    writer = native_house.writer()
    client = client_of(native_house, natives)
    writer.step(NOW_MS)
    while writer._mapped_size < native_house.arena.pool_size:
        writer.wait(1)
    client.work.send(b"1")
    begin = time.monotonic()
    writer.wait(20_000)
    assert time.monotonic() - begin < 10
    begin = time.monotonic()
    writer.wait(50)
    assert time.monotonic() - begin >= 0.04, "what was rung is taken"
    client.work.close()
    writer.wait(20_000)  # That a bell is closed wakes it once.
    begin = time.monotonic()
    writer.wait(50)
    assert time.monotonic() - begin >= 0.04
    natives.drop(0)
    assert writer.step(NOW_MS) == 0


def die_between_words(house: House, natives: Natives, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let writers die until one has published APPEND_OFFSET, but not the completions."""
    seams = Seams(monkeypatch)
    before = house.word(Word.APPEND_OFFSET)
    for number in range(20):
        writer = house.writer()
        natives.settle()
        assert seams.run(lambda: writer.step(NOW_MS), death_at=number) is None  # noqa: B023
        if house.word(Word.APPEND_OFFSET) > before:
            monkeypatch.undo()
            return
    raise AssertionError("it never published")


@pytest.mark.parametrize("same", [True, False])
def test_completions_of_a_dead_writer(
    native_house: House,
    natives: Natives,
    monkeypatch: pytest.MonkeyPatch,
    same: bool,  # noqa: FBT001  a table's column
) -> None:
    """The successor publishes what the dead writer appended, to that very ring and no other."""
    client = client_of(native_house, natives, epoch=7)
    numbers = [client.producer.submit(0, stranger_record(TOPIC, b"%d" % n)) for n in range(3)]
    die_between_words(native_house, natives, monkeypatch)
    assert client.native.ring.completed.load() == 0
    writer = native_house.writer()
    if not same:  # The client of before is gone, and another has its number.
        natives.drop(0)
        client = natives.add(0, epoch=8, slots=(0,))
        numbers = [client.producer.submit(0, stranger_record(TOPIC, b"%d" % n)) for n in range(3)]
    natives.settle()
    assert writer.step(NOW_MS) == (0 if same else 3)
    assert [client.producer.done(one).queue_offset for one in numbers] == (
        [0, 1, 2] if same else [3, 4, 5]
    )
    dispatch = native_house.dispatch()
    dispatch.step(NOW_MS)
    assert native_house.bodies(TOPIC) == [b"0", b"1", b"2"] * (1 if same else 2)


@pytest.mark.parametrize("early", [True, False])
def test_who_waits_for_messages_is_told(
    native_house: House, natives: Natives, *, early: bool
) -> None:
    """By dispatch when they are there; by the writer that they come, unless the disk decides."""
    if not early:
        native_house.context.settings = small_settings(
            native_house.store_dir, broker_ip1="127.0.0.1", flush_disk_type="SYNC_FLUSH"
        )
    writer, flush, dispatch = native_house.writer(), native_house.flush(), native_house.dispatch()
    client = client_of(native_house, natives)
    client.news.setblocking(False)

    def heard() -> bytes:
        try:
            return client.news.recv(8)
        except BlockingIOError:
            return b"nothing"

    for waits in (1, 0):
        memoryview(client.native._mapping)[ring.NEWS_SLEEPING_AT] = waits
        client.producer.submit(0, stranger_record(TOPIC, b"x"))
        writer.step(NOW_MS)
        dispatch.step(NOW_MS)
        assert heard() == (b"\0" * (2 if waits and early else 0) or b"nothing")
        flush.step(NOW_MS)
        dispatch.step(NOW_MS)
        assert heard() == (b"\0" if waits and not early else b"nothing")
    natives.drop(0)
    writer.step(NOW_MS)
    dispatch.step(NOW_MS)
    assert client.news.recv(8) == b"", "nobody has the other end any more"

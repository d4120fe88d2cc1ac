"""A role killed between any two visible acts: its successor goes on from what is published."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from itertools import pairwise

import pytest

from shmq.layout import ring
from shmq.layout.control import Word
from shmq.workers.base import Role
from shmq.workers.dispatch import DispatchRole
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import LOG_FILE_SIZE, House, encode
from tests.unit.workers.seams import Seams

TOPIC = "T"
NOW_MS = 1_700_000_000_000


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    return Seams(monkeypatch)


def drain(dispatch: DispatchRole) -> bool:
    for _ in range(10):
        if dispatch.drain(NOW_MS):
            dispatch.close()
            return True
    return False


def submit_mix(house: House, seed: str) -> list[tuple[int, int, list[bytes]]]:
    """One of each kind of entry into both rings: (ring, number, bodies that must arrive)."""
    slot = house.slot(TOPIC)
    sent = []
    for index, producer in enumerate(house.producers):
        name = f"{seed}-{index}".encode()
        batch = [name + b"-batch-%d" % number for number in range(3)]
        bad = encode(TOPIC, b"bad", queue_id=9)
        sent += [
            (index, producer.submit(slot, encode(TOPIC, name + b"-a")), [name + b"-a"]),
            (index, producer.submit(slot, bad), []),
            (index, producer.submit(slot, *(encode(TOPIC, body) for body in batch)), batch),
            (index, producer.submit(slot, *([encode(TOPIC, b"good")] * 2), bad), []),
            (index, producer.submit(60, encode(TOPIC, b"no such slot")), []),
            (index, producer.submit(slot, encode(TOPIC, name + b"-z")), [name + b"-z"]),
            (index, producer.submit(slot, bad), []),
        ]
    return sent


def check_mix(house: House, sent: list[tuple[int, int, list[bytes]]], *, before: int) -> None:
    """Every entry has the right completion, and its messages are there once, in order."""
    found = house.messages(TOPIC)[before:]
    wanted = [body for _, _, bodies in sent for body in bodies]
    assert [one.body for one in found] == wanted
    assert [one.queue_offset for one in found] == list(range(before, before + len(wanted)))
    for one, following in pairwise(found):  # Nothing stands in the log twice.
        end = one.physical_offset + one.size
        assert following.physical_offset in (end, end - end % LOG_FILE_SIZE + LOG_FILE_SIZE)
    at = 0
    for index, number, bodies in sent:
        done = house.producers[index].done(number)
        if bodies:
            assert done.status == ring.STATUS_OK
            assert done.physical_offset == found[at].physical_offset
            assert done.queue_offset == found[at].queue_offset
            assert done.store_timestamp == found[at].store_timestamp
        else:
            assert done.status in {ring.STATUS_BAD_RECORD, ring.STATUS_BAD_SLOT}
        at += len(bodies)


def test_writer_dies_at_every_seam(make_house: MakeHouse, seams: Seams) -> None:
    house = make_house(serve_count=2)
    before = 0
    for dispatched in (False, True):
        death_at = 0
        while True:
            sent = submit_mix(house, f"{dispatched}{death_at}")
            writer = house.writer()
            lived = seams.run(lambda: writer.step(NOW_MS), death_at=death_at)  # noqa: B023
            if dispatched:
                house.dispatch().step(NOW_MS)
            if lived is None:
                successor = seams.run(house.writer, death_at=death_at % 5)
                successor = successor or house.writer()
                successor.step(NOW_MS)
            house.dispatch().step(NOW_MS)
            flush = house.flush()
            flush.step(NOW_MS)
            flush.close()
            check_mix(house, sent, before=before)
            before += sum(len(bodies) for _, _, bodies in sent)
            assert house.word(Word.DESCRIPTOR_COUNT) == house.word(Word.REPUT_COUNT) == before
            if lived is not None:
                break
            death_at += 1
        assert death_at >= 12, "a step passes so many seams"


def test_writer_dies_while_descriptors_wait_for_dispatch(make_house: MakeHouse) -> None:
    """Queue offsets go on behind records that dispatch has not seen."""
    house = make_house()
    for queue_id in range(3):
        house.slot(TOPIC, queue_id)
    numbers = []
    for number in range(30):
        queue_id = number % 3
        record = encode(TOPIC, b"%d" % number, queue_id=queue_id)
        numbers.append(house.producer.submit(house.slot(TOPIC, queue_id), record))
        house.writer().step(NOW_MS)
        if number == 10:
            house.dispatch().step(NOW_MS)
    assert [house.producer.done(number).queue_offset for number in numbers] == [
        number // 3 for number in range(30)
    ]
    house.dispatch().step(NOW_MS)
    for queue_id in range(3):
        assert house.bodies(TOPIC, queue_id) == [b"%d" % n for n in range(queue_id, 30, 3)]


def test_store_time_does_not_go_back_with_the_writer(house: House) -> None:
    slot = house.slot(TOPIC)
    house.producer.submit(slot, encode(TOPIC, b"a"))
    house.writer().step(NOW_MS)
    house.dispatch().step(NOW_MS)
    number = house.producer.submit(slot, encode(TOPIC, b"b"))
    house.writer().step(NOW_MS - 5000)
    assert house.producer.done(number).store_timestamp == NOW_MS


def test_a_batch_of_many_records_is_completed_by_the_successor(house: House, seams: Seams) -> None:
    """All of one step's completions, however many descriptors they have."""
    slot = house.slot(TOPIC)
    batch = [encode(TOPIC, b"")] * 40
    numbers = [house.producer.submit(slot, *batch) for _ in range(60)]
    writer = house.writer()
    moment = 5  # AT_RISK_SINCE, APPEND_OFFSET and DESCRIPTOR_COUNT are published, COMPLETED is not.
    assert seams.run(lambda: writer.step(NOW_MS), death_at=moment) is None
    assert house.word(Word.DESCRIPTOR_COUNT) == 2400
    assert house.producer.waiting == 60
    house.writer()
    assert house.producer.waiting == 0
    assert [house.producer.done(number).queue_offset for number in numbers] == [
        40 * index for index in range(60)
    ]


def test_flush_dies_at_every_seam(make_house: MakeHouse, seams: Seams) -> None:
    house = make_house()
    slot = house.slot(TOPIC)
    bodies = []
    for death_at in range(200):
        body = b"%d-" % death_at + b"x" * 7000
        bodies.append(body)
        house.producer.submit(slot, encode(TOPIC, body))
        writer = house.writer()
        writer.step(NOW_MS)
        flush = house.flush()
        drained = seams.run(lambda: flush.drain(NOW_MS), death_at=death_at)  # noqa: B023
        assert house.word(Word.FLUSHED_OFFSET) <= house.word(Word.WRITTEN_OFFSET)
        house.dispatch().step(NOW_MS)
        if drained is not None:
            break
        if death_at % 2:
            assert house.flush().drain(NOW_MS)
            assert house.word(Word.FLUSHED_OFFSET) == house.word(Word.APPEND_OFFSET)
    assert death_at >= 10
    assert house.word(Word.FLUSHED_OFFSET) == house.word(Word.APPEND_OFFSET)
    assert house.bodies(TOPIC) == bodies
    house.close()
    again = make_house()
    assert again.end == house.word(Word.APPEND_OFFSET)
    assert again.bodies(TOPIC) == bodies


def test_dispatch_dies_at_every_seam(
    make_house: MakeHouse, seams: Seams, whole_syncs: list[int]
) -> None:
    house = make_house(hot_entries=8)
    slots = [house.slot(TOPIC, queue_id) for queue_id in range(2)]
    wanted: list[list[bytes]] = [[], []]
    writer, flush = house.writer(), house.flush()
    for death_at in range(200):
        for number in range(24):
            queue_id = number % 2
            wanted[queue_id].append(b"%d-%d" % (death_at, number))
            house.producer.submit(
                slots[queue_id], encode(TOPIC, wanted[queue_id][-1], queue_id=queue_id)
            )
        writer.step(NOW_MS)
        flush.step(NOW_MS)
        dispatch = house.dispatch()
        drained = seams.run(lambda: drain(dispatch), death_at=death_at)  # noqa: B023
        if drained is None:
            assert drain(house.dispatch())
        assert house.word(Word.REPUT_OFFSET) == house.word(Word.APPEND_OFFSET)
        assert house.word(Word.REPUT_COUNT) == house.word(Word.DESCRIPTOR_COUNT)
        if drained is not None:
            break
    assert death_at >= 20
    for queue_id in range(2):
        assert house.bodies(TOPIC, queue_id) == wanted[queue_id]
    assert len(whole_syncs) >= 1, "what predecessors filed is synced too"
    assert flush.drain(NOW_MS)
    house.close()
    again = make_house(clean=True)
    for queue_id in range(2):
        assert again.bodies(TOPIC, queue_id) == wanted[queue_id]


@pytest.mark.parametrize("seed", range(20))
def test_any_role_dies_at_any_time(
    make_house: MakeHouse, seams: Seams, whole_syncs: list[int], seed: int
) -> None:
    """What was confirmed is there once, with its content, whoever died when; and after all."""
    chance = random.Random(seed)  # noqa: S311
    house = make_house(serve_count=2, hot_entries=8)
    makers: dict[str, Callable[[], Role]] = {
        "writer": house.writer,
        "flush": house.flush,
        "dispatch": house.dispatch,
    }
    roles = {name: make() for name, make in makers.items()}
    slots = [house.slot(TOPIC, queue_id) for queue_id in range(3)]
    asked: list[tuple[int, int, int, list[bytes]]] = []
    now_ms = NOW_MS
    for turn in range(300):
        now_ms += chance.randrange(40)
        index = chance.randrange(2)
        producer = house.producers[index]
        if producer.waiting < 20 and chance.random() < 0.6:
            queue_id = chance.randrange(3)
            bodies = [
                b"%d-%d-" % (turn, number) + b"." * chance.choice((0, 10, 6000))
                for number in range(chance.choice((1, 1, 1, 4)))
            ]
            records = [encode(TOPIC, body, queue_id=queue_id) for body in bodies]
            asked.append((index, queue_id, producer.submit(slots[queue_id], *records), bodies))
        name = chance.choice(list(roles))
        death_at = chance.randrange(12) if chance.random() < 0.3 else None
        step = roles[name].step
        if seams.run(lambda: step(now_ms), death_at=death_at) is None:  # noqa: B023
            died = chance.randrange(4) if chance.random() < 0.3 else None
            while (successor := seams.run(makers[name], death_at=died)) is None:
                died = None
            roles[name] = successor
    for _ in range(200):
        for role in roles.values():
            role.step(now_ms)
    assert all(producer.waiting == 0 for producer in house.producers)
    assert roles["dispatch"].drain(now_ms)
    assert roles["flush"].drain(now_ms)
    check_asked(house, asked)
    house.close()
    check_asked(make_house(clean=True), asked, completions=house)


def check_asked(
    house: House,
    asked: list[tuple[int, int, int, list[bytes]]],
    *,
    completions: House | None = None,
) -> None:
    wanted: dict[tuple[int, int], bytes] = {}
    for index, queue_id, number, bodies in asked:
        producer = (completions or house).producers[index]
        if number < producer.ring.completed.load() - producer.ring.entry_count:
            continue
        done = producer.done(number)
        assert done.status == ring.STATUS_OK
        for place, body in enumerate(bodies):
            wanted[queue_id, done.queue_offset + place] = body
    found: dict[tuple[int, int], bytes] = {}
    for queue_id in range(3):
        for number, body in enumerate(house.bodies(TOPIC, queue_id)):
            found[queue_id, number] = body
    assert sorted(found.values()) == sorted(body for *_, bodies in asked for body in bodies)
    for where, body in wanted.items():
        assert found[where] == body


@pytest.mark.crash
@pytest.mark.parametrize("moment", range(8))
def test_a_killed_writer_process_leaves_a_whole_store(
    house: House, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The same with a real process and a real SIGKILL."""
    slot = house.slot(TOPIC)
    numbers = [house.producer.submit(slot, encode(TOPIC, b"%d" % n)) for n in range(5)]
    pid = os.fork()
    if pid == 0:
        try:
            seams = Seams(monkeypatch)
            writer = house.writer()
            seams.run(lambda: writer.step(NOW_MS), death_at=moment)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    house.writer().step(NOW_MS)
    house.dispatch().step(NOW_MS)
    assert house.bodies(TOPIC) == [b"%d" % n for n in range(5)]
    assert [house.producer.done(number).queue_offset for number in numbers] == list(range(5))

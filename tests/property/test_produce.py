"""The producing kernel against its twin, and both against layout.record's own encoder."""

from __future__ import annotations

import array
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from shmq.errors import LayoutError
from shmq.kernels import produce as produce_kernel
from shmq.kernels import produce_plain
from shmq.layout import record
from shmq.layout.record import Record
from shmq.layout.ring import ENTRY
from tests.property.hostile import INT64

MODULES: Final = [produce_kernel, produce_plain]
STAMP: Final = b"0123ABCD"
BEFORE: Final = b"KEYS\x01k\x02UNIQ_KEY\x01" + b"F" * 20
AFTER: Final = b"\x02CLUSTER\x01c\x02"


def template(topic: str, queue_id: int, host: bytes) -> dict[str, Any]:
    """What a target is made with: the parts of a record without body and unique key."""
    magic = record.magic_for(topic)
    made = Record(
        topic=topic,
        body=b"",
        queue_id=queue_id,
        store_host=host,
        store_port=10911,
        sys_flag=record.STORE_HOST_V6 if len(host) == record.IPV6_SIZE else 0,
        magic=magic,
    )
    empty = record.encode(made)
    name = (1 if magic == record.MAGIC_V1 else 2) + len(topic.encode())
    properties_size = len(BEFORE) + 12 + len(AFTER)
    return {
        "head": empty[: -name - 2],
        "tail_before": empty[-name - 2 : -2] + properties_size.to_bytes(2, "big") + BEFORE,
        "tail_after": AFTER,
    }


def expected(topic: str, queue_id: int, host: bytes, body: bytes, number: int) -> bytes:
    """The record that layout.record makes of the same message; the writer is to set its CRC."""
    return record.encode(
        Record(
            topic=topic,
            body=body,
            queue_id=queue_id,
            store_host=host,
            store_port=10911,
            sys_flag=record.STORE_HOST_V6 if len(host) == record.IPV6_SIZE else 0,
            magic=record.magic_for(topic),
            born_timestamp=77,
            body_crc=0,
            properties=BEFORE + STAMP + b"%04X" % (number & 0xFFFF) + AFTER,
        )
    )


class Place:
    """A ring in memory and a writer of `module` for it."""

    def __init__(self, module: Any, *, entry_count: int, data_size: int) -> None:
        self.module = module
        self.entries = np.zeros(entry_count, dtype=ENTRY)
        self.data = np.zeros(data_size, dtype=np.uint8)
        self.writer = module.RecordWriter(
            entries=self.entries.view(np.uint8),
            data=self.data,
            entry_count=entry_count,
            data_size=data_size,
        )
        self.target: Any = None

    def aim(self, topic: str = "T", queue_id: int = 3, host: bytes = b"\x0a\0\0\1") -> None:
        """Make a target."""
        self.target = self.module.Target(
            **template(topic, queue_id, host), slot=5, queue_id=queue_id, tags_code=-9
        )

    def content(self, sequence: int) -> bytes:
        """Data of an entry."""
        entry = self.entries[sequence % len(self.entries)]
        begin = int(entry["data_position"])
        return self.data[begin : begin + int(entry["data_size"])].tobytes()

    def put(self, bodies: list[bytes], *, counter: int = 0, group: int = 4) -> int:
        """Put bodies from one buffer; how many found room."""
        sizes = [len(body) for body in bodies]
        starts = np.cumsum([0, *sizes])[:-1]
        done: int = self.writer.put(
            self.target,
            b"".join(bodies),
            array.array("q", starts.tolist()),
            array.array("q", sizes),
            0,
            len(bodies),
            born_ms=77,
            stamp=STAMP,
            counter=counter,
            group=group,
        )
        return done


def places(entry_count: int = 8, data_size: int = 8192, **aim: Any) -> list[Place]:
    """One for the kernel and one for the twin."""
    made = [Place(module, entry_count=entry_count, data_size=data_size) for module in MODULES]
    for place in made:
        place.aim(**aim)
    return made


TOPICS = st.sampled_from(["T", "t" * 127, "t" * 128, "主题"])
HOSTS = st.sampled_from([b"\x7f\0\0\1", bytes(range(16))])


@given(TOPICS, st.integers(0, 2**31 - 1), HOSTS, st.binary(max_size=300), st.integers(0, 2**17))
def test_a_record_is_that_of_the_layout(
    topic: str, queue_id: int, host: bytes, body: bytes, counter: int
) -> None:
    for place in places(topic=topic, queue_id=queue_id, host=host):
        number = place.writer.put_one(place.target, body, born_ms=77, stamp=STAMP, counter=counter)
        assert number == 0
        wanted = expected(topic, queue_id, host, body, counter)
        assert place.content(0) == wanted
        assert place.target.overhead == len(wanted) - len(body)
        assert place.entries[0].tolist()[:6] == (0, len(wanted), 1, 5, 0, -9)
        assert place.entries[0]["queue_id"] == queue_id
        at = place.writer.loan(place.target, len(body))
        place.data[at : at + len(body)] = np.frombuffer(body, np.uint8)
        assert place.writer.commit(born_ms=77, stamp=STAMP, counter=counter) == 1
        assert place.content(1) == wanted


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=20), st.integers(1, 9))
def test_groups_are_tags_codes_and_records(bodies: list[bytes], group: int) -> None:
    for place in places(entry_count=32, data_size=1 << 16):
        assert place.put(bodies, counter=0xFFFA, group=group) == len(bodies)
        number = 0
        for sequence in range(place.writer.submitted):
            count = int(place.entries[sequence]["record_count"])
            assert count == min(group, len(bodies) - number)
            codes = (-9).to_bytes(8, "little", signed=True) * count if count > 1 else b""
            assert place.content(sequence) == codes + b"".join(
                expected("T", 3, b"\x0a\0\0\1", bodies[index], 0xFFFA + index)
                for index in range(number, number + count)
            )
            number += count
        assert number == len(bodies)


class Producing(RuleBasedStateMachine):
    """Any order of calls: twin and kernel agree, and nothing in flight is ever written over."""

    @initialize(entries=st.sampled_from([1, 2, 8]), size=st.integers(1200, 4000))
    def make(self, entries: int, size: int) -> None:
        """Empty rings."""
        self.places = places(entry_count=entries, data_size=size)
        self.kept: dict[int, bytes] = {}
        self.lent = -1
        self.room = size // 8 * 8 // 4 - self.places[0].target.overhead

    def each(self, call: Any) -> Any:
        """Call for both; they must agree."""
        found = [call(place) for place in self.places]
        assert found[0] == found[1]
        first, second = self.places
        assert (first.writer.submitted, first.writer.reaped) == (
            second.writer.submitted,
            second.writer.reaped,
        )
        assert first.entries.tobytes() == second.entries.tobytes()
        assert first.data.tobytes() == second.data.tobytes()
        for sequence, content in self.kept.items():
            assert first.content(sequence) == content
        for sequence in range(max(self.kept, default=first.writer.reaped - 1) + 1,
                              first.writer.submitted):  # fmt: skip
            self.kept[sequence] = first.content(sequence)
        return found[0]

    @precondition(lambda self: self.lent < 0)
    @rule(share=st.lists(st.integers(0, 100), min_size=1, max_size=6), group=st.integers(1, 5))
    def put(self, share: list[int], group: int) -> None:
        """Several bodies."""
        bodies = [b"b" * (part * self.room // 100) for part in share]
        done = self.each(lambda place: place.put(bodies, group=group))
        assert done <= len(bodies)
        if done == 0:
            assert self.kept, "an empty ring has room for every message that it allows"

    @precondition(lambda self: self.lent < 0)
    @rule(share=st.integers(0, 100))
    def put_one(self, share: int) -> None:
        """One body."""
        body = b"o" * (share * self.room // 100)
        done = self.each(
            lambda place: place.writer.put_one(
                place.target, body, born_ms=77, stamp=STAMP, counter=1
            )
        )
        assert done >= 0 or self.kept

    @precondition(lambda self: self.lent < 0)
    @rule(size=st.integers(1, 900), code=INT64)
    def put_made(self, size: int, code: int) -> None:
        """What was made elsewhere."""
        self.each(
            lambda place: place.writer.put_made(
                b"m" * min(size, self.room), count=1, slot=1, queue_id=2, tags_code=code
            )
        )

    @precondition(lambda self: self.lent < 0)
    @rule(share=st.integers(0, 100))
    def loan(self, share: int) -> None:
        """Room for a body, filled by the caller."""
        size = share * self.room // 100
        at = self.each(lambda place: place.writer.loan(place.target, size))
        if at is not None:
            self.lent = size
            for place in self.places:
                place.data[at : at + size] = 0x6C
            for sequence, content in self.kept.items():
                assert self.places[0].content(sequence) == content

    @precondition(lambda self: self.lent >= 0)
    @rule(keep=st.booleans())
    def settle(self, keep: bool) -> None:  # noqa: FBT001  drawn
        """Submit what was lent, or take it back."""
        if keep:
            self.each(lambda place: place.writer.commit(born_ms=77, stamp=STAMP, counter=2))
            assert self.kept[max(self.kept)] == expected("T", 3, b"\x0a\0\0\1", b"l" * self.lent, 2)
        else:
            self.each(lambda place: place.writer.take_back())
        self.lent = -1

    @rule(share=st.integers(0, 4))
    def reap(self, share: int) -> None:
        """The broker has completed some."""
        writer = self.places[0].writer
        upto = writer.reaped + (writer.submitted - writer.reaped) * share // 4
        self.kept = {number: data for number, data in self.kept.items() if number >= upto}
        self.each(lambda place: place.writer.reap(upto))


TestProducing = Producing.TestCase
TestProducing.settings = settings(max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize("module", MODULES)
def test_limits(module: Any) -> None:
    place = Place(module, entry_count=4, data_size=4096)
    place.aim()
    writer, target = place.writer, place.target
    largest = 1024 - target.overhead
    unique = {"born_ms": 77, "stamp": STAMP, "counter": 0}
    with pytest.raises(LayoutError, match="too large"):
        writer.put_one(target, b"x" * (largest + 1), **unique)
    with pytest.raises(LayoutError, match="too large"):
        place.put([b"x" * (largest + 1)])
    for size in (largest + 1, -1):
        with pytest.raises(LayoutError, match="too large"):
            writer.loan(target, size)
    for size in (0, 1025):
        with pytest.raises(LayoutError, match="records for the ring"):
            writer.put_made(b"x" * size, count=1, slot=0, queue_id=0, tags_code=0)
    assert writer.put_one(target, b"x" * largest, **unique) == 0
    assert writer.loan(target, largest) is not None
    for call in (
        lambda: writer.put_one(target, b"", **unique),
        lambda: place.put([b""]),
        lambda: writer.loan(target, 0),
        lambda: writer.put_made(b"x", count=1, slot=0, queue_id=0, tags_code=0),
    ):
        with pytest.raises(LayoutError):
            call()
    with pytest.raises(LayoutError, match="unique key"):
        writer.commit(born_ms=0, stamp=b"1", counter=0)
    writer.take_back()
    with pytest.raises(LayoutError, match="nothing is lent"):
        writer.commit(**unique)
    for upto in (-1, 2):
        with pytest.raises(LayoutError, match="not in flight"):
            writer.reap(upto)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("starts", "sizes", "first", "end", "more"),
    [
        ([-1], [1], 0, 1, {}),
        ([0], [-1], 0, 1, {}),
        ([3], [2], 0, 1, {}),
        ([2**63 - 1], [2], 0, 1, {}),
        ([0], [1], 0, 2, {}),
        ([0], [1], 1, 0, {}),
        ([0], [1], -1, 1, {}),
        ([0], [1], 0, 1, {"group": 0}),
        ([0], [1], 0, 1, {"group": 4097}),
        ([0], [1], 0, 1, {"stamp": b"1234567"}),
    ],
)
def test_bodies_outside_of_their_buffer(  # noqa: PLR0917  a table's columns
    module: Any, starts: list[int], sizes: list[int], first: int, end: int, more: dict[str, Any]
) -> None:
    place = Place(module, entry_count=4, data_size=4096)
    place.aim()
    unique = {"born_ms": 77, "stamp": STAMP, "counter": 0, "group": 1} | more
    with pytest.raises(LayoutError):
        place.writer.put(
            place.target, b"abcd", array.array("q", starts), array.array("q", sizes), first, end,
            **unique,
        )  # fmt: skip
    assert place.writer.submitted == 0


@pytest.mark.parametrize("module", MODULES)
def test_parts_that_do_not_fit(module: Any) -> None:
    entries, data = np.zeros(256, np.uint8), np.zeros(64, np.uint8)
    for count, size in ((0, 64), (3, 64), (8, 64), (4, 65)):
        with pytest.raises(LayoutError):
            module.RecordWriter(entries=entries, data=data, entry_count=count, data_size=size)
    good = {"head": b"h" * 88, "tail_before": b"t", "tail_after": b""}
    fields = {"slot": 0, "queue_id": 0, "tags_code": 0}
    module.Target(**good, **fields)
    for wrong in ({"head": b"h" * 87}, {"tail_before": b""}, {"slot": -1}):
        with pytest.raises(LayoutError, match="target"):
            module.Target(**{**good, **fields, **wrong})

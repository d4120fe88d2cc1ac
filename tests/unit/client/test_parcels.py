"""What bodies and messages travel in."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from shmq.client.model import Message
from shmq.client.parcels import BATCH_COUNT_MAX, BATCH_SIZE_MAX, Bodies, Defaults, parcels
from shmq.client.prepare import Preparer
from shmq.client.publish import Parcel
from shmq.client.uniqueid import IdMaker
from shmq.errors import InvalidMessage
from shmq.units import MiB

DEFAULTS = Defaults("T", "G", None, None, None, 3.0, 30.0)
PREPARER = Preparer(IdMaker("127.0.0.1"), body_size_max=4 * MiB, compress_from=10)


def parcelled(bodies: Bodies, **options: Any) -> list[Parcel]:
    return list(parcels(bodies, DEFAULTS, PREPARER, **options))


def bodies_in(made: list[Parcel]) -> list[bytes]:
    return [bytes(message.body) for parcel in made for message in parcel.messages]


@pytest.mark.parametrize(
    "given",
    [
        [b"ab", b"cd", b"ef"],
        (b"ab", b"cd", b"ef"),
        iter([b"ab", bytearray(b"cd"), memoryview(b"ef")]),
        (b"abcdef", [0, 2, 4], [2, 2, 2]),
        (memoryview(b"abcdef"), np.array([0, 2, 4]), array("i", [2, 2, 2])),
        np.frombuffer(b"abcdef", np.uint8).reshape(3, 2),
        np.frombuffer(b"a.b.c.d.e.f.", np.uint8)[::2].reshape(3, 2),
        np.frombuffer(b"abcdef", np.int8).reshape(3, 2),
        [Message("T", b"ab"), b"cd", Message("", b"ef")],
    ],
)
def test_forms(given: Any) -> None:
    made = parcelled(given)
    assert bodies_in(made) == [b"ab", b"cd", b"ef"]
    assert [(parcel.topic, parcel.is_batch) for parcel in made] == [("T", True)]


def test_columns_are_not_copied() -> None:
    rows = np.zeros((3, 2), np.uint8)
    (parcel,) = parcelled(rows)
    rows[1] = 7
    assert bytes(parcel.messages[1].body) == b"\x07\x07"


@pytest.mark.parametrize(
    "given",
    [
        b"one", "text", Message("T", b"x"), ["text"], [1], [b""],
        (b"abc", [0], [1, 2]), (b"abc", [2], [2]), (b"abc", [-1], [1]),
        np.zeros((2, 2), np.int32), np.zeros((2, 0), np.uint8),
    ],
)  # fmt: skip
def test_what_is_refused(given: Any) -> None:
    with pytest.raises(InvalidMessage):
        parcelled(given)


@pytest.mark.parametrize("given", [[], (b"", [], []), np.zeros((0, 5), np.uint8)])
def test_nothing(given: Any) -> None:
    assert parcelled(given) == []


def test_limits() -> None:
    count = BATCH_COUNT_MAX
    for sent, wanted in ((1, [1]), (count, [count]), (count + 1, [count, 1])):
        made = parcelled([b"x"] * sent)
        assert [len(parcel.messages) for parcel in made] == wanted
        assert made[-1].is_batch == (wanted[-1] > 1)
    assert [len(p.messages) for p in parcelled([b"x"] * 5, count_max=2)] == [2, 2, 1]
    half = b"x" * (BATCH_SIZE_MAX // 2)
    assert [len(p.messages) for p in parcelled([half] * 3)] == [2, 1]
    large = b"x" * (BATCH_SIZE_MAX + 1)
    assert [len(p.messages) for p in parcelled([b"a", large, b"b", b"c"])] == [1, 1, 2]


def test_what_may_not_be_together_is_apart() -> None:
    made = parcelled(
        [
            Message("T", b"0"),
            Message("T", b"1", delay_level=1),
            Message("T", b"2"),
            Message("U", b"3"),
            Message("U", b"4", queue=1),
            Message("U", b"5", queue=1, key="k"),
            Message("%RETRY%G", b"6"),
            Message("%RETRY%G", b"7"),
        ]
    )
    assert bodies_in(made) == [b"%d" % number for number in range(8)]
    assert not any(parcel.is_batch for parcel in made)
    assert [(parcel.topic, parcel.queue, parcel.key) for parcel in made[3:6]] == [
        ("U", None, None), ("U", 1, None), ("U", 1, "k"),
    ]  # fmt: skip


def test_batches_are_never_compressed() -> None:
    made = parcelled([b"x" * 100] * 2)
    assert [message.sys_flag for message in made[0].messages] == [0, 0]
    assert PREPARER.body(b"x" * 100).sys_flag == 0x301
    assert PREPARER.body(b"x" * 9).sys_flag == 0
    assert PREPARER.body(bytes(range(200))).sys_flag == 0  # It would not become smaller.

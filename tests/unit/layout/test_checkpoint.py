from __future__ import annotations

import pytest

from shmq.errors import LayoutError
from shmq.layout import checkpoint
from shmq.layout.checkpoint import Checkpoint


def test_round_trip() -> None:
    wanted = Checkpoint(1, 2, 3, 4, 5)
    data = checkpoint.encode(wanted)
    assert len(data) == 4096
    assert data[:40].hex() == "".join(f"{n:016x}" for n in range(1, 6))
    assert checkpoint.decode(data) == wanted


def test_what_is_vouched_for_counts_with_the_other_fields() -> None:
    """Another broker that writes its fields leaves ours, which then mean nothing."""
    wanted = Checkpoint(1, 2, 3, 4, 5, 600)
    data = checkpoint.encode(wanted)
    assert data[:40] == checkpoint.encode(wanted._replace(vouched_offset=0))[:40]
    assert checkpoint.decode(data) == wanted
    assert checkpoint.decode(data[:80]) == wanted
    assert checkpoint.decode(data[:79]) == wanted._replace(vouched_offset=0)
    for at in (*range(40), *range(64, 80)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        assert checkpoint.decode(changed).vouched_offset == 0, at


def test_zeros_know_nothing() -> None:
    assert checkpoint.decode(bytes(4096)) == Checkpoint()


@pytest.mark.parametrize("size", [0, 39])
def test_too_short(size: int) -> None:
    with pytest.raises(LayoutError):
        checkpoint.decode(bytes(size))


@pytest.mark.parametrize(
    ("fields", "recovery", "index"),
    [
        ((10_000, 20_000, 30_000), 7_000, 7_000),
        ((20_000, 10_000, 30_000), 7_000, 7_000),
        ((20_000, 10_000, 5_000), 7_000, 5_000),
        ((2_000, 10_000, 5_000), 0, 0),
        ((20_000, 0, 5_000), 0, 0),
    ],
)
def test_where_recovery_begins(fields: tuple[int, int, int], recovery: int, index: int) -> None:
    found = Checkpoint(*fields)
    assert (found.recovery_timestamp, found.index_recovery_timestamp) == (recovery, index)

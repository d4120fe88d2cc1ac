"""The checkpoint file: what it says after a crash that left only a part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmq.layout.checkpoint import Checkpoint, encode
from shmq.store.checkpoint import CheckpointFile

SAVED = Checkpoint(1_700_000_000_000, 1_700_000_000_001, 3, 4, 5)


def test_saved_and_loaded(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint")
    assert file.load() == Checkpoint()
    file.save(SAVED)
    assert CheckpointFile(tmp_path / "checkpoint").load() == SAVED
    file.close()


@pytest.mark.parametrize("size", [0, 1, 39, 40, 4095])
def test_a_checkpoint_that_a_crash_cut_vouches_for_nothing(tmp_path: Path, size: int) -> None:
    (tmp_path / "checkpoint").write_bytes(encode(SAVED)[:size])
    file = CheckpointFile(tmp_path / "checkpoint")
    assert file.load() == (SAVED if size >= 40 else Checkpoint())
    file.save(SAVED)
    file.close()
    assert (tmp_path / "checkpoint").read_bytes() == encode(SAVED)


@pytest.mark.parametrize("field", range(5))
def test_a_checkpoint_with_a_sign_that_changed_vouches_for_nothing(
    tmp_path: Path, field: int
) -> None:
    data = bytearray(encode(SAVED))
    data[field * 8] ^= 0x80
    (tmp_path / "checkpoint").write_bytes(data)
    assert CheckpointFile(tmp_path / "checkpoint").load() == Checkpoint()

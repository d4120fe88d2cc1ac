"""Parts of other brokers' stores that are refused, and those that are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmq.errors import StoreError
from shmq.store.foreign import refuse_foreign_parts

REFUSED = {
    "consumequeue/CURRENT": "RocksDB form .storeType=defaultRocksDB",
    "consumequeue_ext/T/0/00000000000000000000": "extension files",
    "batchconsumequeue/T/0/00000000000000000000": "batch consumequeues",
    "compaction/compactionLog/T/0/00000000000000000000": "compacted topics",
    "dledger-n0/data/00000000000000000000": "DLedger",
    "config/topics/CURRENT": "topics are in RocksDB form",
    "config/subscriptionGroups/CURRENT": "consumer groups are in RocksDB form",
    "config/consumerOffsets/CURRENT": "consumer offsets are in RocksDB form",
    "config/metadata/CURRENT": "topics, consumer groups and offsets are in RocksDB form",
    "config/rdb/CURRENT": "topics, consumer groups and offsets are in RocksDB form",
}
LEFT_ALONE = (
    "abort.bak", "timerwheel", "timerlog/00000000000000000000", "rocksdbstore/CURRENT",
    "compaction/position-checkpoint", "index/20261126024033046", "config/timercheck",
    "config/delayOffset.json", "config/timermetrics", "config/consumerOrderInfo.json.bak",
    "transaction/statetable/00000000000000000000", "epochFileCheckpoint", "brokerIdentity",
    "consumequeue/CURRENT/0/00000000000000000000",
)  # fmt: skip


def put(root: Path, name: str, data: bytes = b"x") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    with pytest.raises(StoreError, match=REFUSED[name]) as raised:
        refuse_foreign_parts(tmp_path)
    folder = raised.value.facts["folder"]
    assert isinstance(folder, Path)
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path)
    assert folder != tmp_path
    assert folder.name not in {"config", "T"}
    assert raised.value.facts["hint"]


@pytest.mark.parametrize("name", REFUSED)
def test_empty_files_and_folders_are_nothing(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, b"")
    refuse_foreign_parts(tmp_path)
    (tmp_path / name).unlink()
    refuse_foreign_parts(tmp_path)


def test_left_alone(tmp_path: Path) -> None:
    for name in LEFT_ALONE:
        put(tmp_path, name)
    refuse_foreign_parts(tmp_path)
    refuse_foreign_parts(tmp_path / "nothing")

"""What another broker left in a store folder that this one cannot take over.

A store of Apache's broker is mostly ours too. Some of its features keep part of the messages or of
the tables in a form that this broker does not read; opened without them, messages would be missing,
or consumers would begin anew. Such a store is refused, with what to do. What is merely of no use
here (timerwheel, rocksdbstore, index, files of Apache's own services) is left alone.

    folder                                  made by
    consumequeue/CURRENT                    storeType=defaultRocksDB
    consumequeue_ext/<topic>/<queue>/...    enableConsumeQueueExt=true
    batchconsumequeue/<topic>/<queue>/...   topics with the attribute queue.type=BatchCQ
    compaction/compactionLog/<topic>/...    topics with the attribute cleanup.policy=COMPACTION
    config/topics/CURRENT and the like      tables in RocksDB
    dledger-<id>/data/...                   enableDLegerCommitLog=true

Source: RocketMQ store/StorePathConfigHelper, kv/CompactionStore, broker/config/v1 and v2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

_BUILD_ANEW: Final = "then put a file named abort into the store: the consumequeues are built anew"


class _Part(NamedTuple):
    """One kind of files that a store must not have."""

    pattern: str
    """Of paths in the store; one that is a file and not empty is enough."""
    what: str
    hint: str


def _rocksdb_table(folder: str, kind: str, file: str) -> _Part:
    return _Part(
        f"config/{folder}/CURRENT",
        f"{kind} are in RocksDB form",
        f"export them with `mqadmin rocksDBConfigToJson -p <store>/config/ -t {folder} "
        f"-e <store>/config/{file}`, then move the folder away",
    )


_PARTS: Final = (
    _Part(
        "consumequeue/CURRENT",
        "consumequeues are in RocksDB form (storeType=defaultRocksDB)",
        f"move the folder away, {_BUILD_ANEW}",
    ),
    _Part(
        "consumequeue_ext/*/*/*",
        "consumequeues have extension files (enableConsumeQueueExt=true)",
        f"move consumequeue and consumequeue_ext away, {_BUILD_ANEW}",
    ),
    _Part(
        "batchconsumequeue/*/*/*",
        "the store has topics whose queues are batch consumequeues (queue.type=BatchCQ)",
        "let their consumers finish, delete the topics with the broker that made them, and move "
        "the folder batchconsumequeue away; messages that are left in these topics are not served",
    ),
    _Part(
        "compaction/compactionLog/*/*/*",
        "the store has compacted topics (cleanup.policy=COMPACTION)",
        "what is older than the commitlog is in the folder compaction alone: copy it with the "
        "broker that made it, and move the folder away; the commitlog's messages are then served",
    ),
    _Part(
        "dledger-*/data/*",
        "the commitlog is DLedger's (enableDLegerCommitLog=true), whose files are others",
        "send its messages to this broker with a client; the files cannot be taken over",
    ),
    _rocksdb_table("topics", "topics", "topics.json"),
    _rocksdb_table("subscriptionGroups", "consumer groups", "subscriptionGroup.json"),
    _rocksdb_table("consumerOffsets", "consumer offsets", "consumerOffset.json"),
    *(
        _Part(
            f"config/{folder}/CURRENT",
            "topics, consumer groups and offsets are in RocksDB form",
            "let the broker that made them write JSON (`mqadmin rocksDBConfigToJson -b <its "
            "address>`) while it runs, stop it, then move the folder away",
        )
        for folder in ("metadata", "rdb")
    ),
)


def refuse_foreign_parts(store_dir: Path) -> None:
    """Look for what this broker cannot take over.

    Raises:
        StoreError: there is something; says what it is and what to do.
    """
    for part in _PARTS:
        for path in store_dir.glob(part.pattern):
            if path.is_file() and path.stat().st_size:
                depth = 1 if part.pattern.startswith("config/") else 0
                folder = store_dir.joinpath(*path.relative_to(store_dir).parts[: depth + 1])
                raise StoreError(part.what, folder=folder, found=path.name, hint=part.hint)

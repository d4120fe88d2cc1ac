"""Small files: checkpoint, tables under config/, the offsets journal, abort and lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from shmq.broker.names import SCHEDULE_TOPIC
from shmq.broker.tablebodies import GroupsBody, OffsetsBody, TopicsBody, decode
from shmq.errors import LayoutError, ShmqError
from shmq.layout import checkpoint, offsetjournal
from shmq.store.tables import TABLE_SIZE_MAX
from shmq.verify.findings import Findings, Severity
from shmq.verify.rows import shown_name
from shmq.wire import jsonish

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shmq.verify.store import Store

TOPICS: Final = "topics.json"
GROUPS: Final = "subscriptionGroup.json"
OFFSETS: Final = "consumerOffset.json"
DELAYS: Final = "delayOffset.json"
JOURNAL: Final = "consumerOffset.journal"
TEXT_NAMES: Final = frozenset({"timermetrics", "transactionMetrics"})
"""Apache's tables whose names do not say JSON."""
MAIN_KEYS: Final = {
    TOPICS: "topicConfigTable",
    GROUPS: "subscriptionGroupTable",
    OFFSETS: "offsetTable",
    DELAYS: "offsetTable",
}
BACKUP: Final = ".bak"
SMALL_SIZE_MAX: Final = 64 * 1024
PERM_MAX: Final = 0xF
LOCK_TEXTS: Final = (b"", b"lock")
RESTORE: Final = "restore it from its .bak or a copy"
REMOVE_CHECKPOINT: Final = "remove it: the next start then walks the whole log, which is safe"


class OffsetsByLevel(msgspec.Struct, rename="camel"):
    """delayOffset.json: the next queue offset of each delay level."""

    offset_table: dict[int, int] = {}


def check_tables(store: Store, findings: Findings, ends: Mapping[tuple[str, int], int]) -> int:
    """Examine every file of config/; `ends` are queue offsets after the last message.

    Returns the number of files.
    """
    folder = store.root / "config"
    if not folder.is_dir():
        findings.add(Severity.WARNING, "config", "no tables: topics and offsets begin anew")
        return 0
    check = _Tables(store, findings, ends)
    paths = sorted(folder.iterdir())
    for path in paths:
        check.file(path)
    main = {path.name for path in paths}
    for name in (TOPICS, GROUPS, OFFSETS):
        if name not in main and name + BACKUP in main:
            findings.add(
                Severity.WARNING,
                f"config/{name}",
                "table is missing, its previous version is there",
                hint="a start takes the previous version",
            )
    return len(paths)


class _Tables:
    """One pass over config/."""

    def __init__(
        self, store: Store, findings: Findings, ends: Mapping[tuple[str, int], int]
    ) -> None:
        self.store = store
        self.findings = findings
        self.ends = ends

    def file(self, path: Path) -> None:
        name = f"config/{shown_name(path.name)}"
        table = path.name.removesuffix(BACKUP)
        if not path.is_file():
            self.findings.add(Severity.INFO, name, "not checked")
            return
        if ".damaged-" in path.name or path.name.endswith(".tmp"):
            self.findings.add(
                Severity.INFO,
                name,
                "left by an earlier start",
                hint="no broker reads it; delete it when it is of no use",
            )
            return
        if table == JOURNAL:
            self.journal(path, name)
        elif table.endswith(".json") or table in TEXT_NAMES:
            self.table(path, name, table)
        else:
            self.findings.add(Severity.INFO, name, "not checked")

    def table(self, path: Path, name: str, table: str) -> None:
        readers: dict[str, Any] = {
            TOPICS: self.topics,
            GROUPS: self.groups,
            OFFSETS: self.offsets,
            DELAYS: self.delays,
        }
        try:
            data = _read(path, TABLE_SIZE_MAX)
            if not data:
                raise LayoutError("the file is empty")
            if table in MAIN_KEYS and (key := MAIN_KEYS[table]).encode() not in data:
                raise LayoutError("a name is missing", allowed=key)
            readers.get(table, self.other)(name, data)
        except FileNotFoundError:
            return  # Replaced meanwhile.
        except (OSError, ValueError, RecursionError, ShmqError) as error:
            self.findings.damage(
                name,
                "table cannot be understood",
                found=str(error)[:300],
                allowed="what RocketMQ writes under this name",
                hint="a broker does not use it; remove it"
                if name.endswith(BACKUP)
                else "a start takes the previous version, if that is sound",
            )

    def topics(self, name: str, data: bytes) -> None:
        for key, topic in decode(data, TopicsBody).topic_config_table.items():
            self._same_name(name, "topic", key, topic.topic_name)
            numbers = (topic.read_queue_nums, topic.write_queue_nums)
            if min(numbers) < 0 or not 0 <= topic.perm <= PERM_MAX:
                self.findings.damage(
                    name,
                    "topic with an impossible number",
                    found=f"{key}: perm={topic.perm} queues={numbers}",
                    hint=RESTORE,
                )

    def groups(self, name: str, data: bytes) -> None:
        for key, group in decode(data, GroupsBody).subscription_group_table.items():
            self._same_name(name, "group", key, group.group_name)
            if min(group.retry_queue_nums, group.broker_id) < 0:
                self.findings.damage(
                    name,
                    "group with an impossible number",
                    found=f"{key}: retryQueueNums={group.retry_queue_nums} "
                    f"brokerId={group.broker_id}",
                    hint=RESTORE,
                )

    def offsets(self, name: str, data: bytes) -> None:
        for key, offsets in decode(data, OffsetsBody).offset_table.items():
            topic, at, group = key.rpartition("@") if key.count("@") == 1 else key.partition("@")
            if not (topic and at and group):
                self.findings.damage(
                    name, "no key of offsets", found=key, allowed="topic@group", hint=RESTORE
                )
                continue
            for queue_id, offset in offsets.items():
                self._offset(name, f"{key} queue {queue_id}", (topic, queue_id), offset)

    def delays(self, name: str, data: bytes) -> None:
        body = decode(data, OffsetsByLevel)
        for level, offset in body.offset_table.items():
            self._offset(name, f"delay level {level}", (SCHEDULE_TOPIC, level - 1), offset)

    def other(self, name: str, data: bytes) -> None:
        if len(data) > jsonish.SIZE_MAX:
            self.findings.add(Severity.INFO, name, "too large to be checked")
            return
        if not isinstance(jsonish.loads(data), dict):
            raise LayoutError("no JSON object")

    def journal(self, path: Path, name: str) -> None:
        try:
            data = _read(path, TABLE_SIZE_MAX)
            _generation, entries, end = offsetjournal.decode(data)
        except (OSError, ShmqError, UnicodeDecodeError) as error:
            self.findings.damage(name, "journal cannot be read", found=error, hint=RESTORE)
            return
        for entry in entries:
            if entry.queue_id != offsetjournal.ALL_QUEUES:
                key = f"{entry.topic}@{entry.group} queue {entry.queue_id}"
                self._offset(name, key, (entry.topic, entry.queue_id), entry.queue_offset)
        if end < len(data):
            self.findings.add(
                Severity.DAMAGE if self.store.clean or end == 0 else Severity.INFO,
                name,
                "no whole entry",
                at=end,
                found=data[end : end + 16].hex(),
                allowed="a whole entry with its CRC, or the end of the file",
                hint="a start leaves out what follows: some messages may be consumed again",
            )

    def _same_name(self, file: str, kind: str, key: str, name: str) -> None:
        if key != name:
            self.findings.damage(
                file,
                f"{kind} under another name",
                found=name,
                allowed=key,
                hint=RESTORE,
            )

    def _offset(self, file: str, who: str, queue: tuple[str, int], offset: int) -> None:
        if offset < 0 or queue[1] < 0:
            self.findings.damage(file, "offset below zero", found=f"{who}: {offset}", hint=RESTORE)
        elif self.store.limit is None and offset > self.ends.get(queue, 0):
            self.findings.add(
                Severity.WARNING,
                file,
                "offset is past the end of its queue",
                found=f"{who}: {offset}",
                allowed=f"up to {self.ends.get(queue, 0)}",
                hint="messages may be missing, or the topic was made anew; "
                "consumers go on at the queue's end",
            )


def check_checkpoint(
    store: Store, findings: Findings, *, log_end: int, last_timestamp: int
) -> None:
    """Examine the checkpoint; `last_timestamp` is the highest store timestamp in the log, ms."""
    path = store.root / "checkpoint"
    try:
        data = _read(path, SMALL_SIZE_MAX)
        found = checkpoint.decode(data)
    except FileNotFoundError:
        findings.add(
            Severity.INFO, "checkpoint", "no checkpoint", hint="a start walks the whole log"
        )
        return
    except (OSError, ShmqError) as error:
        findings.damage("checkpoint", "cannot be read", found=error, hint=REMOVE_CHECKPOINT)
        return
    ours = slice(checkpoint.OURS_AT, checkpoint.OURS_END)
    if (
        len(data) != checkpoint.FILE_SIZE
        or any(data[checkpoint.FIELDS_END : checkpoint.OURS_AT])
        or any(data[checkpoint.OURS_END :])
    ):
        findings.damage(
            "checkpoint",
            "is not its numbers and zeros",
            found=f"{len(data)} bytes",
            allowed=f"{checkpoint.FILE_SIZE} bytes",
            hint=REMOVE_CHECKPOINT,
        )
    elif any(data[ours]) and not found.vouched_offset:
        findings.add(
            Severity.WARNING,
            "checkpoint",
            "what it vouches for does not agree with its other numbers",
            at=checkpoint.OURS_AT,
            found=data[ours].hex(),
            hint="Apache's broker has written it since, or bytes have changed; a start after a "
            "crash walks more of the log, which is safe",
        )
    stamps = found[:3]
    for number, (name, stamp) in enumerate(zip(found._fields, stamps, strict=False)):
        high = last_timestamp if last_timestamp and store.limit is None else stamp
        if not 0 <= stamp <= high:
            findings.damage(
                "checkpoint",
                "vouches for a time after the log's last record",
                at=8 * number,
                found=f"{name}={stamp}",
                allowed=f"0 to {high}",
                hint=REMOVE_CHECKPOINT,
            )
    offset_max = found.confirm_offset if store.limit is not None else log_end
    for at, name in ((24, "master_flushed_offset"), (32, "confirm_offset")):
        value = getattr(found, name)
        if value < 0 or (name == "confirm_offset" and value > offset_max):
            findings.damage(
                "checkpoint",
                "names a place after the log's end",
                at=at,
                found=f"{name}={value}",
                allowed=f"0 to {offset_max}",
                hint=REMOVE_CHECKPOINT,
            )


def check_state(store: Store, findings: Findings) -> None:
    """Look at abort and lock."""
    abort = store.root / "abort"
    if not store.clean and store.limit is None:
        text = _read(abort, SMALL_SIZE_MAX)[:20] if abort.is_file() else b""
        findings.add(
            Severity.INFO,
            "abort",
            "the last broker did not end cleanly",
            found=text.decode(errors="replace").strip(),
            hint="the next start recovers; what it would do then is no damage here",
        )
    lock = store.root / "lock"
    if lock.is_file() and lock.stat().st_size <= SMALL_SIZE_MAX:
        text = _read(lock, SMALL_SIZE_MAX)
        if text not in LOCK_TEXTS:
            findings.add(
                Severity.WARNING, "lock", "another text than a lock has", found=text[:20].hex()
            )


def _read(path: Path, size_max: int) -> bytes:
    size = path.stat().st_size
    if not path.is_file():  # Reading a pipe may never end.
        raise LayoutError("no plain file")
    if size > size_max:
        raise LayoutError("file too large", size=size, allowed=size_max)
    return path.read_bytes()

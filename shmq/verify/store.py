"""What a store consists of, found without believing any of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmq.broker.names import SCHEDULE_TOPIC
from shmq.broker.tablebodies import TopicsBody, decode
from shmq.errors import ConfigError, ShmqError
from shmq.layout import cqentry, indexfile
from shmq.store.tables import TABLE_SIZE_MAX
from shmq.units import GiB
from shmq.verify.findings import Findings, Severity
from shmq.verify.rows import Row, RowReader, find_row, likely_size, shown_name, sizes_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shmq.config import Settings

QUEUE_ID_DIGITS_MAX: Final = 10
BATCH_QUEUES: Final = "BatchCQ"
LMQ_PREFIX: Final = "%LMQ%"
CHECKED: Final = frozenset({"commitlog", "consumequeue", "index", "config", "checkpoint"})
STATE: Final = frozenset({"abort", "lock", "run"})
HEAD_SIZE: Final = 8
INDEX_SIZE_MAX: Final = 4 * GiB
"""Of an index file that is not as the settings say; its slots are made again in memory."""
ASIDE: Final = "set-aside"
STORE_MARKS: Final = CHECKED | {"abort", "lock"}


@dataclass
class Store:
    """A store folder as it was found; what processes of a verification share."""

    root: Path
    log: Row
    queues: dict[tuple[str, int], Row]
    index_files: dict[str, int]
    """Size of each file of the index by its name."""
    index_size: int
    """What an index file's size should be."""
    index_slots: int
    clean: bool
    """Whether the last broker ended cleanly (no `abort`)."""
    limit: int | None
    """Physical offset up to which a running broker has all on the disk; None when none runs."""
    delays_ms: list[int]
    topics: frozenset[str] | None = None
    """Names in topics.json; None when it cannot be read."""
    unchecked: frozenset[str] = frozenset()
    """Topics whose consumequeues have another form."""
    has_queues: bool = True
    """Whether the consumequeues are files."""
    last_start: int = 0
    """Start of the newest commitlog file that is in use; those after it were made ahead."""
    in_memory: int | None = None
    """Physical offset from which on a killed broker's bytes are in shared memory alone."""
    findings: Findings = field(default_factory=Findings)

    def name(self, path: Path) -> str:
        """A path as findings call it."""
        inside = path.is_relative_to(self.root)
        return shown_name(str(path.relative_to(self.root) if inside else path))

    def is_checked(self, topic: str) -> bool:
        """Whether the records of a topic have 20-byte entries in files of its own name."""
        return self.has_queues and topic not in self.unchecked

    def delay_ms(self, level: str) -> int | None:
        """Delay of a level as records have it; None when it is none."""
        if not (level.isascii() and level.isdigit() and int(level) > 0 and self.delays_ms):
            return None
        return self.delays_ms[min(int(level), len(self.delays_ms)) - 1]


def is_delayed(topic: str) -> bool:
    """Whether entries of this topic hold times of delivery."""
    return topic == SCHEDULE_TOPIC


def find_store(
    settings: Settings, root: Path, commitlog: Path, *, limit: int | None = None
) -> Store:
    """The store in `root`, with findings about names, sizes and files that are not checked.

    Args:
        settings: for file sizes and delay levels.
        root: the store folder.
        commitlog: folder of the commitlog.
        limit: physical offset up to which a running broker has all on the disk.

    Raises:
        ConfigError: there is no store.
    """
    _check_is_store(root, commitlog)
    findings = Findings()
    log_size = likely_size(
        sizes_in(commitlog).values(), configured=settings.mapped_file_size_commit_log
    )
    store = Store(
        root=root,
        log=Row(commitlog, "commitlog", log_size),
        queues={},
        index_files=sizes_in(root / "index"),
        index_size=0,
        index_slots=0,
        clean=not (root / "abort").exists(),
        limit=limit,
        delays_ms=settings.delay_level_millis,
        findings=findings,
    )
    store.log = find_row(
        commitlog,
        store.name(commitlog),
        findings,
        file_size=log_size,
        size_key="mappedFileSizeCommitLog",
    )
    store.last_start = _last_in_use(store.log)
    _note_size(store, "mappedFileSizeCommitLog", log_size, settings.mapped_file_size_commit_log)
    _find_topics(store)
    _find_queues(store, settings)
    _find_index(store, settings)
    _note_others(store)
    return store


def _check_is_store(root: Path, commitlog: Path) -> None:
    try:
        names = {path.name for path in root.iterdir()}
    except OSError as error:
        raise ConfigError("no store", folder=root, cause=error.strerror) from None
    if not names & STORE_MARKS and not commitlog.is_dir():
        raise ConfigError(
            "no store: nothing in the folder is a store's",
            folder=root,
            allowed="a folder with commitlog/ in it (storePathRootDir)",
        )


def _note_size(store: Store, key: str, size: int, configured: int) -> None:
    if size != configured:
        store.findings.add(
            Severity.INFO,
            store.log.label if key == "mappedFileSizeCommitLog" else "consumequeue",
            "files have another size than the settings say",
            found=size,
            allowed=configured,
            hint=f"a broker on this store needs {key}={size}",
        )


def _last_in_use(log: Row) -> int:
    reader = RowReader()
    try:
        used = (start for start in reversed(log.sizes) if any(reader.read(log, start, HEAD_SIZE)))
        return next(used, log.start)
    finally:
        reader.close()


def _find_topics(store: Store) -> None:
    path = store.root / "config" / "topics.json"
    backup = path.with_name(path.name + ".bak")
    for candidate in (path, backup):
        try:
            if not candidate.is_file() or candidate.stat().st_size > TABLE_SIZE_MAX:
                continue
            table = decode(candidate.read_bytes(), TopicsBody).topic_config_table
        except (OSError, ValueError, RecursionError, ShmqError):
            continue
        # The previous version may lack a topic: good enough for all but telling what is gone.
        is_newest = candidate == path or not path.exists()
        store.topics = frozenset(table) if is_newest else None
        store.unchecked = frozenset(
            name
            for name, topic in table.items()
            if topic.attributes.get("queue.type") == BATCH_QUEUES
        )
        return


def _find_queues(store: Store, settings: Settings) -> None:
    root = store.root / "consumequeue"
    if not root.is_dir():
        return
    if (root / "CURRENT").exists():
        store.has_queues = False
        store.findings.add(
            Severity.INFO, "consumequeue", "consumequeues in RocksDB form are not checked"
        )
        return
    folders = list(_queue_folders(store, root))
    configured = cqentry.file_size(settings.mapped_file_size_consume_queue)
    sizes = (size for _, _, folder in folders for size in sizes_in(folder).values())
    size = cqentry.file_size(likely_size(sizes, configured=configured))
    _note_size(store, "mappedFileSizeConsumeQueue", size, configured)
    for topic, queue_id, folder in folders:
        store.queues[topic, queue_id] = find_row(
            folder,
            store.name(folder),
            store.findings,
            file_size=size,
            size_key="mappedFileSizeConsumeQueue",
        )


def _queue_folders(store: Store, root: Path) -> Iterator[tuple[str, int, Path]]:
    for topic in sorted(root.iterdir()):
        if not topic.is_dir():
            store.findings.add(Severity.WARNING, store.name(topic), "no topic's folder")
            continue
        for folder in sorted(topic.iterdir()):
            name = folder.name
            is_id = name.isascii() and name.isdigit() and len(name) <= QUEUE_ID_DIGITS_MAX
            if is_id and str(int(name)) == name and folder.is_dir():
                yield topic.name, int(name), folder
            else:
                store.findings.add(
                    Severity.WARNING,
                    store.name(folder),
                    "no queue's folder",
                    allowed="a queue id",
                    hint="brokers overlook it; if it was a queue, restore its name",
                )


def _find_index(store: Store, settings: Settings) -> None:
    slots, entries = settings.max_hash_slot_num, settings.max_index_num
    configured = indexfile.file_size(slot_count=slots, entry_count=entries)
    sizes = (size for size in store.index_files.values() if size <= INDEX_SIZE_MAX)
    store.index_size = likely_size(sizes, configured=configured)
    ratio = entries / slots
    unit = indexfile.SLOT_SIZE + ratio * indexfile.ENTRY_SIZE
    store.index_slots = (
        slots
        if store.index_size == configured
        else round((store.index_size - indexfile.HEADER_SIZE) / unit)
    )


def _note_others(store: Store) -> None:
    """Say what in the store folder is no part of the check."""
    for path in sorted(store.root.iterdir()):
        name = store.name(path)
        if path.name in CHECKED | STATE or path == store.log.folder:
            continue
        if path.name == ASIDE:
            for kept in sorted(path.iterdir()):
                store.findings.add(
                    Severity.INFO,
                    store.name(kept),
                    "set aside by an earlier start",
                    found=f"{kept.stat().st_size} bytes that were cut off the commitlog",
                    hint="look at it with `shmq dump`; delete it when it is of no use",
                )
            continue
        store.findings.add(Severity.INFO, name, "not checked")

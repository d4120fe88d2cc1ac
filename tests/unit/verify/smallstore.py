"""A small store of two topics, written by the layouts, for tests that damage it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from shmq.config import Settings
from shmq.layout import checkpoint, cqentry, record
from shmq.layout.record import Record
from shmq.units import KiB
from shmq.verify import Result, find_store, verify

LOG_FILE_SIZE = 64 * KiB
QUEUE_FILE_SIZE = 10 * cqentry.ENTRY_SIZE
STAMP = 1_700_000_000_000


class SmallStore:
    """Appends records with their entries; `records` is what the log holds."""

    def __init__(self, root: Path, *, file_size: int = LOG_FILE_SIZE) -> None:
        self.root = root
        self.settings = Settings(
            store_path_root_dir=str(root),
            mapped_file_size_commit_log=file_size,
            mapped_file_size_consume_queue=QUEUE_FILE_SIZE,
        )
        self.file_size = file_size
        self.end = 0
        self.records: list[Record] = []
        self._ends: dict[tuple[str, int], int] = {}
        (root / "commitlog").mkdir(parents=True)
        (root / "config").mkdir()

    def log_path(self, offset: int) -> Path:
        """The commitlog file with this physical offset."""
        return self.root / "commitlog" / f"{offset - offset % self.file_size:020d}"

    def append(
        self, topic: str = "T", queue_id: int = 0, *, enter: bool = True, **more: object
    ) -> Record:
        """Store one more message, with an entry if `enter`."""
        queue = (topic, queue_id)
        values: dict[str, object] = {
            "body": b"body %d" % len(self.records),
            "store_timestamp": STAMP + 1000 * len(self.records),
            "born_timestamp": STAMP,
            "properties": b"KEYS\x01k%d\x02TAGS\x01t\x02" % len(self.records),
        }
        one = Record(topic=topic, queue_id=queue_id, **(values | more))  # type: ignore[arg-type]
        if one.size + record.BLANK_HEAD_SIZE > self.file_size - self.end % self.file_size:
            left = self.file_size - self.end % self.file_size
            put(self.log_path(self.end), self.end % self.file_size, record.blank(left))
            self.end += left
        one.physical_offset = self.end
        one.queue_offset = self._ends.get(queue, 0)
        put(self.log_path(self.end), self.end % self.file_size, record.encode(one), self.file_size)
        if enter:
            self.enter(one)
        self._ends[queue] = one.queue_offset + 1
        self.records.append(one)
        self.end += one.size
        return one

    def enter(self, one: Record) -> None:
        """The entry of a record."""
        at = one.queue_offset * cqentry.ENTRY_SIZE
        put(
            self.queue_path(one),
            at % QUEUE_FILE_SIZE,
            cqentry.encode(one.physical_offset, one.size, cqentry.tags_code("t")),
            QUEUE_FILE_SIZE,
        )

    def queue_path(self, one: Record) -> Path:
        """The consumequeue file with a record's entry."""
        at = one.queue_offset * cqentry.ENTRY_SIZE
        folder = self.root / "consumequeue" / one.topic / str(one.queue_id)
        return folder / f"{at - at % QUEUE_FILE_SIZE:020d}"

    def finish(self) -> SmallStore:
        """Tables and checkpoint, as after a clean stop."""
        topics = {topic: {"topicName": topic} for topic, _ in self._ends}
        self.table("topics.json", {"topicConfigTable": topics})
        stamp = max((one.store_timestamp for one in self.records), default=0)
        data = checkpoint.encode(checkpoint.Checkpoint(stamp, stamp, 0, 0, self.end))
        (self.root / "checkpoint").write_bytes(data)
        return self

    def table(self, name: str, content: object) -> None:
        """Write a table of config/."""
        (self.root / "config" / name).write_bytes(orjson.dumps(content))

    def verify(self, *, jobs: int = 1, watch: Callable[[int, int], None] | None = None) -> Result:
        """What verification finds."""
        store = find_store(self.settings, self.root, self.root / "commitlog")
        return verify(store, jobs=jobs, watch=watch or (lambda _done, _all: None))


def put(path: Path, at: int, data: bytes, size: int = 0) -> None:
    """Write at a place of a file that has at least this size then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(at)
        file.write(data)
        file.seek(0, 2)
        if file.tell() < size:
            file.truncate(size)


def filled(root: Path, count: int = 30, **how: int) -> SmallStore:
    """A sound store: `count` records, in turn in three queues."""
    store = SmallStore(root, **how)
    for number in range(count):
        store.append(*(("T", 0), ("T", 1), ("Other", 0))[number % 3])
    return store.finish()


@contextmanager
def damaged(path: Path, data: bytes) -> Iterator[None]:
    """The file with other bytes for a while."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def told(result: Result, severity: str = "damage") -> list[str]:
    """What was found of this severity."""
    return [one.what for one in result.findings if one.severity == severity]

"""How far each consume group has consumed each queue.

One owner, the coordinator. In memory; on disk as consumerOffset.json (every few seconds, whole) and
a journal of the commits since. A commit is in the journal before it is answered, so a killed
coordinator forgets nothing; a power cut loses at most what was committed since the last table.

A commit may go backwards: a client whose queue was given to it anew may wish so. Commits that would
undo an administrator's reset do not come here (resetrequests.py). Nothing is checked against the
queue's range, as in Apache's broker.

Source: RocketMQ broker/offset/ConsumerOffsetManager; spec features.md section 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from shmq.broker import names, tablebodies
from shmq.broker.tablebodies import OffsetsBody
from shmq.layout.offsetjournal import ALL_QUEUES, JournalEntry
from shmq.store.offsetjournal import OffsetJournal
from shmq.store.tables import TableFile
from shmq.wire.route import DataVersion

QUEUE_ID_MAX: Final = 65_535
_SEPARATOR: Final = "@"


class GroupTopic(NamedTuple):
    """A group and a topic that it consumes."""

    group: str
    topic: str


class Offsets:
    """Committed offsets: next message to consume, by group, topic and queue id."""

    def __init__(
        self, *, file: TableFile, journal: OffsetJournal, wall_ms: Callable[[], int]
    ) -> None:
        self._file = file
        self._journal = journal
        self._wall_ms = wall_ms
        self._pending: list[JournalEntry] = []
        self._table: dict[GroupTopic, dict[int, int]] = {}
        self.version = DataVersion()
        self.unsaved = False
        self.skipped: list[str] = []
        """Keys of the table on disk that name no topic and group; they were left out."""

    # Disk

    def load(self) -> int:
        """Take table and journal from disk; returns how many journal entries were replayed.

        Raises:
            StoreError: the table cannot be read.
        """
        body = self._file.load(lambda data: tablebodies.decode(data, OffsetsBody)) or OffsetsBody()
        self.version = body.data_version
        for key, offsets in body.offset_table.items():
            topic, separator, group = key.partition(_SEPARATOR)
            if separator and _storable(topic) and _storable(group):
                self._table[GroupTopic(group, topic)] = dict(offsets)
            else:
                self.skipped.append(key)
        replayed = self._journal.open(_generation(self.version))
        for entry in replayed:
            self._apply(entry)
        self.unsaved = bool(replayed)
        return len(replayed)

    def write_journal(self) -> None:
        """Put the commits since the last call into the journal, all in one write.

        Raises:
            StoreError: they are not in it; they are kept and tried again with the next call.
        """
        if self._pending:
            self._journal.append(self._pending)
            self._pending = []

    def save(self) -> None:
        """Make the table durable, then empty the journal.

        Raises:
            OSError: the table on disk is the one before, and the journal still has the rest.
        """
        self.version = tablebodies.next_version(self.version, self._wall_ms())
        self._file.replace(tablebodies.encode(self.body()))
        self._journal.clear(_generation(self.version))
        self._pending = []
        self.unsaved = False

    def body(self) -> OffsetsBody:
        """The table in its form on disk and on the wire."""
        table = {
            f"{key.topic}{_SEPARATOR}{key.group}": offsets for key, offsets in self._table.items()
        }
        return OffsetsBody(data_version=self.version, offset_table=table)

    def close(self) -> None:
        """Give the journal's file back."""
        self._journal.close()

    # Reading

    def get(self, group: str, topic: str, queue_id: int) -> int | None:
        """The committed offset, or None when nothing was committed."""
        return self._table.get(GroupTopic(group, topic), {}).get(queue_id)

    def of(self, group: str, topic: str) -> dict[int, int]:
        """A group's committed offsets of a topic, by queue id; a copy."""
        return dict(self._table.get(GroupTopic(group, topic), {}))

    def topics_of(self, group: str) -> list[str]:
        """Topics of which the group has committed offsets, sorted."""
        return sorted(key.topic for key in self._table if key.group == group)

    def groups_of(self, topic: str) -> list[str]:
        """Groups that have committed offsets of the topic, sorted."""
        return sorted(key.group for key in self._table if key.topic == topic)

    def __len__(self) -> int:
        """Number of pairs of group and topic."""
        return len(self._table)

    # Changing

    def commit(self, group: str, topic: str, queue_id: int, offset: int) -> bool:
        """Take a commit; False when it says what is known already."""
        assert 0 <= queue_id <= QUEUE_ID_MAX, "checked by the caller"
        assert offset >= 0, "checked by the caller"
        if self.get(group, topic, queue_id) == offset:
            return False
        self._take(JournalEntry(group, topic, queue_id, offset))
        return True

    def remove_group(self, group: str) -> None:
        """Forget all offsets of a group."""
        for topic in self.topics_of(group):
            self._take(JournalEntry(group, topic, ALL_QUEUES, 0))

    def remove_topic(self, topic: str) -> None:
        """Forget all groups' offsets of a topic."""
        for group in self.groups_of(topic):
            self._take(JournalEntry(group, topic, ALL_QUEUES, 0))

    def _take(self, entry: JournalEntry) -> None:
        self._apply(entry)
        self._pending.append(entry)
        self.unsaved = True

    def _apply(self, entry: JournalEntry) -> None:
        key = GroupTopic(entry.group, entry.topic)
        if entry.queue_id == ALL_QUEUES:
            self._table.pop(key, None)
        else:
            self._table.setdefault(key, {})[entry.queue_id] = entry.queue_offset


def _generation(version: DataVersion) -> int:
    """What orders tables and journals: how often the table was saved."""
    return max(0, version.counter)


def _storable(name: str) -> bool:
    """Whether a journal entry may carry this name."""
    return 0 < len(name.encode()) <= names.GROUP_TOPIC_LENGTH_MAX

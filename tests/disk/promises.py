"""What a broker promised, and when: each promise with the number of disk changes made by then.

A power cut after n changes must leave all that was promised up to then; what was promised later may
be there or not, as long as nothing contradicts it.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

Queue: TypeAlias = tuple[str, int]
"""Topic and queue id."""
TopicRow: TypeAlias = tuple[int, int, int]
"""Read queues, write queues, permissions."""


class Message(NamedTuple):
    """A message as its producer knows it."""

    queue: Queue
    queue_offset: int
    physical_offset: int
    body: bytes


class Found(NamedTuple):
    """A store as it was recovered."""

    end: int
    log_record_count: int
    min_offsets: Mapping[Queue, int]
    messages: Mapping[Queue, list[Message]]
    topics: Mapping[str, TopicRow]
    offsets: Mapping[Queue, int]


@dataclass
class Promises:
    """All that one broker promised, in order."""

    safe: list[tuple[int, Message]] = field(default_factory=list)
    """Acknowledged for ever: FLUSHED_OFFSET is past it."""
    appended: list[Message] = field(default_factory=list)
    """Acknowledged with ASYNC_FLUSH: they outlive a kill, not a power cut."""
    sent: set[Message] = field(default_factory=set)
    """Whatever was appended; after a power cut another message may have the same place."""
    shown: list[tuple[int, Queue, int]] = field(default_factory=list)
    """Max offsets that consumers saw; they bind in SYNC_FLUSH only."""
    topic_tables: list[dict[str, TopicRow]] = field(default_factory=lambda: [{}])
    """Every version of the topic table."""
    topics_safe: list[tuple[int, int]] = field(default_factory=list)
    """Index of the version that was on the disk for certain."""
    commits: dict[Queue, list[int | None]] = field(default_factory=dict)
    """Every offset that the one group had, from none on."""
    commits_answered: dict[Queue, int] = field(default_factory=dict)
    """Index of the last commit that was answered with success: it outlives a kill."""
    commits_safe: list[tuple[int, dict[Queue, int]]] = field(default_factory=list)
    """For each queue the index of the commit that was on the disk for certain."""

    def count_at(self, change_count: int) -> int:
        """How many promises bind after so many changes."""
        kept: tuple[list[Any], ...] = (self.safe, self.shown, self.topics_safe, self.commits_safe)
        return sum(bisect_right(row, change_count, key=itemgetter(0)) for row in kept)

    def after(self, change_count: int) -> Promises:
        """What still binds after a power cut, from the first change of the next broker on."""
        later = Promises(
            safe=[(0, message) for when, message in self.safe if when <= change_count],
            sent=set(self.sent),
            shown=[(0, queue, end) for when, queue, end in self.shown if when <= change_count],
            topic_tables=list(self.topic_tables),
            commits={queue: list(row) for queue, row in self.commits.items()},
        )
        later.topics_safe = [(0, self._least_table(change_count))]
        later.commits_safe = [(0, self._least_commits(change_count))]
        return later

    def check_restart(self, found: Found) -> None:
        """Whether a store is one that a kill of all processes may leave: nothing is lost."""
        there = {message for row in found.messages.values() for message in row}
        assert there >= set(self.appended), ("lost", set(self.appended) - there)
        self.check(found, sys.maxsize)
        for queue, index in self.commits_answered.items():
            assert found.offsets.get(queue) in self.commits[queue][index:], ("went back", queue)

    def check(self, found: Found, change_count: int) -> None:
        """Whether a store is one that a power cut after so many changes may leave."""
        self._check_messages(found, change_count)
        self._check_topics(found, change_count)
        self._check_offsets(found, change_count)

    def _check_messages(self, found: Found, change_count: int) -> None:
        for when, message in self.safe:
            if when > change_count:
                break
            assert message.physical_offset < found.end, ("acknowledged message lost", message)
            row = found.messages.get(message.queue, [])
            at = message.queue_offset - found.min_offsets.get(message.queue, 0)
            assert 0 <= at < len(row), ("acknowledged message not in its queue", message)
            assert row[at] == message, ("another message in its place", row[at], message)
        for when, queue, max_offset in self.shown:
            if when > change_count:
                break
            there = found.min_offsets.get(queue, 0) + len(found.messages.get(queue, []))
            assert there >= max_offset, ("consumers saw what is gone", queue, max_offset, there)
        in_queues = 0
        for row in found.messages.values():
            in_queues += len(row)
            for message in row:
                assert message in self.sent, ("nobody sent this", message)
        assert in_queues == found.log_record_count, ("queues are not the log", in_queues, found)

    def _check_topics(self, found: Found, change_count: int) -> None:
        versions = self.topic_tables[self._least_table(change_count) :]
        assert found.topics in versions, ("topic table older than promised", found.topics, versions)

    def _check_offsets(self, found: Found, change_count: int) -> None:
        least = self._least_commits(change_count)
        for queue, history in self.commits.items():
            allowed = history[least.get(queue, 0) :]
            offset = found.offsets.get(queue)
            assert offset in allowed, ("committed offset went back", queue, offset, allowed)
        assert set(found.offsets) <= set(self.commits), ("nobody committed this", found.offsets)

    def _least_table(self, change_count: int) -> int:
        return max((index for when, index in self.topics_safe if when <= change_count), default=0)

    def _least_commits(self, change_count: int) -> dict[Queue, int]:
        least: dict[Queue, int] = {}
        for when, indexes in self.commits_safe:
            if when <= change_count:
                least = indexes
        return least

"""What a serve process knows of topics and groups: copies of the coordinator's tables.

The coordinator sends every change before the answer to the request that caused it, so a client
never sees an older state than the one it was told of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.wire.internal import GroupUpdate, GroupView, ResetView, Sub, TopicUpdate, TopicView


class Views:
    """Topics and groups by name."""

    def __init__(
        self,
        *,
        on_topic: Callable[[TopicView], None],
        on_topic_removed: Callable[[TopicView], None],
    ) -> None:
        self.topics: dict[str, TopicView] = {}
        self.groups: dict[str, GroupView] = {}
        self._subscriptions: dict[str, dict[str, Sub]] = {}
        self.resets: dict[str, dict[tuple[str, int], ResetView]] = {}
        """Resets that wait, by group, then by topic and queue id; no group without any."""
        self._on_topic = on_topic
        self._on_topic_removed = on_topic_removed
        self.complete = False
        self.version = 0
        """Grows with every change; what was concluded from an older one may be wrong."""

    def take_topics(self, update: TopicUpdate) -> None:
        """Apply an update of topics."""
        self.version += 1
        gone = set(update.removed)
        if update.complete:
            self.complete = True
            gone |= set(self.topics) - {view.name for view in update.topics}
        for name in gone:
            view = self.topics.pop(name, None)
            if view is not None:
                self._on_topic_removed(view)
        for view in update.topics:
            self.topics[view.name] = view
            self._on_topic(view)

    def take_groups(self, update: GroupUpdate) -> None:
        """Apply an update of groups."""
        self.version += 1
        if update.complete:
            self.groups.clear()
            self._subscriptions.clear()
            self.resets.clear()
        for name in update.removed:
            self.groups.pop(name, None)
            self._subscriptions.pop(name, None)
            self.resets.pop(name, None)
        for view in update.groups:
            self.groups[view.name] = view
            self._subscriptions[view.name] = {sub.topic: sub for sub in view.subscriptions}
            self.resets.pop(view.name, None)
            if view.resets:
                self.resets[view.name] = {(one.topic, one.queue_id): one for one in view.resets}

    def subscription(self, group: str, topic: str) -> Sub | None:
        """What the group's members said in their heartbeats about a topic."""
        return self._subscriptions.get(group, {}).get(topic)

    def slot(self, topic: str, queue_id: int) -> int | None:
        """Queue table slot of a queue, None when the topic or the queue is not known."""
        view = self.topics.get(topic)
        if view is None or not 0 <= queue_id < len(view.slots):
            return None
        return view.slots[queue_id]

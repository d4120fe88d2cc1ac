"""The topics of this broker: which there are, their queues, and how they come and go.

One owner, the coordinator. The table is topics.json; serve processes and name servers follow it.
A topic's queues get their slots in the queue table before anybody hears of the topic.

Source: RocketMQ broker/topic/TopicConfigManager; spec request-codes.md sections 2 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from shmq.broker import names, tablebodies
from shmq.broker.names import BuiltIn
from shmq.broker.tablebodies import TopicsBody
from shmq.errors import RequestRefused, ShmqError, StoreError
from shmq.store.tables import TableFile
from shmq.wire.codes import Perm, ResponseCode
from shmq.wire.internal import TopicUpdate, TopicView
from shmq.wire.route import DataVersion, TopicConfig

PERM_MAX: Final = 15
UNIT_SUB_FLAG: Final = 2


class Queues(Protocol):
    """What the control plane needs of the queue table."""

    def allocate(self, topic: str, queue_id: int) -> int:
        """The slot of a queue, a new one if it has none; StoreError when the table is full."""

    def slot(self, topic: str, queue_id: int) -> int | None:
        """The slot of a queue, or None."""

    def min_offset(self, slot: int) -> int:
        """Lowest queue offset whose message is kept."""

    def max_offset(self, slot: int) -> int:
        """Queue offset after the newest message."""


class Topics:
    """Topic table with its version, and what changed since others were told."""

    def __init__(
        self,
        *,
        file: TableFile,
        queues: Queues,
        wall_ms: Callable[[], int],
        built_in: Iterable[BuiltIn],
        auto_create: bool,
        queue_nums_max: int,
    ) -> None:
        self._file = file
        self._queues = queues
        self._wall_ms = wall_ms
        self.auto_create = auto_create
        self._queue_nums_max = queue_nums_max
        self._slots: dict[str, list[int]] = {}
        self._changed: set[str] = set()
        self.unsaved = False
        self.version = DataVersion()
        self.configs: dict[str, TopicConfig] = {}
        self.built_in: dict[str, BuiltIn] = {topic.name: topic for topic in built_in}

    # Boot

    def load(self) -> None:
        """Take the table from disk and add the built-in topics that it lacks.

        Raises:
            StoreError: the file cannot be read, a name in it may not become a folder, or there
                are more queues than the queue table has slots.
        """
        body = self._file.load(lambda data: tablebodies.decode(data, TopicsBody)) or TopicsBody()
        self.version = body.data_version
        for name, config in body.topic_config_table.items():
            self._enter(name, _checked(name, config))
        for topic in self.built_in.values():
            if topic.name not in self.configs:
                config = TopicConfig(
                    topic_name=topic.name,
                    read_queue_nums=topic.queue_nums,
                    write_queue_nums=topic.queue_nums,
                    perm=topic.perm,
                )
                self._enter(topic.name, _checked(topic.name, config))
                self._note(topic.name)

    def save(self) -> None:
        """Make the table durable.

        Raises:
            OSError: it is not; the table on disk is the one before.
        """
        self._file.replace(
            tablebodies.encode(
                TopicsBody(data_version=self.version, topic_config_table=self.configs)
            )
        )
        self.unsaved = False

    # Reading

    def get(self, name: str) -> TopicConfig | None:
        """The topic, or None when it is not known."""
        return self.configs.get(name)

    def need(self, name: str) -> TopicConfig:
        """The topic.

        Raises:
            RequestRefused: TOPIC_NOT_EXIST.
        """
        config = self.configs.get(name)
        if config is None:
            raise RequestRefused(
                ResponseCode.TOPIC_NOT_EXIST,
                "the topic does not exist",
                topic=repr(name[: names.GROUP_TOPIC_LENGTH_MAX]),
                hint="create it, or send to it with autoCreateTopicEnable",
            )
        return config

    def has_queue(self, name: str, queue_id: int) -> bool:
        """Whether the topic is known and has this queue, for reading or writing."""
        return 0 <= queue_id < len(self._slots.get(name, ()))

    def offsets(self, name: str, queue_id: int) -> tuple[int, int]:
        """Min and max offset of a queue; (0, 0) for one that is not known."""
        slot = self._queues.slot(name, queue_id)
        if slot is None:
            return 0, 0
        return self._queues.min_offset(slot), self._queues.max_offset(slot)

    def is_system(self, name: str) -> bool:
        """Whether the topic belongs to the system: nobody may change or delete it."""
        return (
            name in names.SYSTEM_TOPICS
            or name in self.built_in
            or name.startswith(names.SYSTEM_PREFIX)
        )

    def system_topics(self) -> list[str]:
        """Names of the system topics, sorted."""
        return sorted(names.SYSTEM_TOPICS | set(self.built_in))

    # Changing

    def create_for_send(self, name: str, *, default_topic: str, queue_nums: int) -> None:
        """Create a topic that a client sends to; nothing to do when it exists already.

        Raises:
            RequestRefused: the name is not allowed, or there is no default topic to inherit from.
        """
        names.check_topic(name)
        if name in self.configs:
            return
        default = self.configs.get(default_topic)
        inherits = default is not None and bool(default.perm & Perm.INHERIT)
        if default_topic == names.AUTO_CREATE_TOPIC and not self.auto_create:
            inherits = False
        if default is None or not inherits:
            raise RequestRefused(
                ResponseCode.TOPIC_NOT_EXIST,
                "the topic does not exist and cannot be created by sending",
                topic=name,
                default_topic=default_topic[: names.GROUP_TOPIC_LENGTH_MAX],
                hint="create it with updateTopic, or set autoCreateTopicEnable=true",
            )
        count = max(1, min(queue_nums, default.write_queue_nums))
        self.put(
            TopicConfig(
                topic_name=name,
                read_queue_nums=count,
                write_queue_nums=count,
                perm=default.perm & ~Perm.INHERIT,
                topic_filter_type=default.topic_filter_type,
            )
        )

    def ensure(self, name: str, *, queue_nums: int, unit_sub: bool = False) -> None:
        """Create a topic of the broker's own making (retry, DLQ) unless it exists.

        Raises:
            RequestRefused: the name is not allowed, or there is no room.
        """
        if name in self.configs:
            return
        names.check_topic(name)
        self.put(
            TopicConfig(
                topic_name=name,
                read_queue_nums=queue_nums,
                write_queue_nums=queue_nums,
                perm=Perm.READ | Perm.WRITE,
                topic_sys_flag=UNIT_SUB_FLAG if unit_sub else 0,
            )
        )

    def put(self, config: TopicConfig) -> None:
        """Create or change a topic; the same again changes nothing.

        Raises:
            RequestRefused: a number is out of range, or the queue table is full.
        """
        for what, value, high in (
            ("readQueueNums", config.read_queue_nums, self._queue_nums_max),
            ("writeQueueNums", config.write_queue_nums, self._queue_nums_max),
            ("perm", config.perm, PERM_MAX),
        ):
            if not 0 <= value <= high:
                raise RequestRefused(
                    ResponseCode.INVALID_PARAMETER,
                    f"{what} is out of range",
                    topic=config.topic_name,
                    found=value,
                    allowed=(0, high),
                )
        if self.configs.get(config.topic_name) == config:
            return
        try:
            self._enter(config.topic_name, config)
        except ShmqError as error:
            raise RequestRefused(ResponseCode.SYSTEM_ERROR, error.what, **error.facts) from error
        self._note(config.topic_name)

    def delete(self, name: str) -> bool:
        """Remove a topic; False when there was none."""
        if self.configs.pop(name, None) is None:
            return False
        del self._slots[name]
        self._note(name)
        return True

    # Telling others

    def take_update(self) -> TopicUpdate | None:
        """What changed since the last call, or None."""
        if not self._changed:
            return None
        changed, self._changed = self._changed, set()
        return TopicUpdate(
            topics=[self.view(name) for name in sorted(changed) if name in self.configs],
            removed=sorted(changed - set(self.configs)),
        )

    def complete_update(self) -> TopicUpdate:
        """All topics."""
        return TopicUpdate(topics=[self.view(name) for name in self.configs], complete=True)

    def view(self, name: str) -> TopicView:
        """What serve needs of one topic."""
        config = self.configs[name]
        return TopicView(
            name=name,
            perm=config.perm,
            read_queue_nums=config.read_queue_nums,
            write_queue_nums=config.write_queue_nums,
            sys_flag=config.topic_sys_flag,
            order=config.order,
            attributes=config.attributes,
            slots=self._slots[name],
        )

    def _enter(self, name: str, config: TopicConfig) -> None:
        count = max(config.read_queue_nums, config.write_queue_nums)
        self._slots[name] = [self._queues.allocate(name, queue_id) for queue_id in range(count)]
        self.configs[name] = config

    def _note(self, name: str) -> None:
        self._changed.add(name)
        self.unsaved = True
        self.version = tablebodies.next_version(self.version, self._wall_ms())


def _checked(name: str, config: TopicConfig) -> TopicConfig:
    if not names.stored_name_is_safe(name):
        raise StoreError(
            "a topic name may not become a folder",
            topic=repr(name),
            allowed=f"{names.ALLOWED}.+, not beginning with a dot",
            length_max=names.GROUP_TOPIC_LENGTH_MAX,
        )
    if config.topic_name == name:
        return config
    return msgspec.structs.replace(config, topic_name=name)

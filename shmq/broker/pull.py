"""Pulls: who may read what, which entries match, and the answer.

    store says                  answer                 next begin offset
    FOUND                       SUCCESS                after the last entry looked at
    NO_MATCHED_MESSAGE          PULL_RETRY_IMMEDIATELY after the last entry looked at
    MESSAGE_WAS_REMOVING        PULL_RETRY_IMMEDIATELY first offset kept
    OFFSET_OVERFLOW_ONE         PULL_NOT_FOUND (held)  the offset asked for
    NO_MESSAGE_IN_QUEUE         PULL_NOT_FOUND (held), PULL_OFFSET_MOVED when not 0
    OFFSET_TOO_SMALL            PULL_OFFSET_MOVED      first offset kept
    OFFSET_OVERFLOW_BADLY       PULL_OFFSET_MOVED      end of the queue
    OFFSET_RESET                PULL_OFFSET_MOVED      what the group was reset to (resetwatch.py)

Source: RocketMQ processor/PullMessageProcessor, store/DefaultMessageStore.getMessage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shmq.errors import RequestRefused, StoreError
from shmq.kernels.pulls import choose, found_frame
from shmq.layout.control import Word
from shmq.layout.cqentry import FILLER_SIZE
from shmq.wire.codes import Perm, ResponseCode
from shmq.wire.pull import SQL92, SUBSCRIBE_ALL, Subscription, parse_subscription

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shmq.broker.views import Views
    from shmq.config import Settings
    from shmq.kernels.pulls import PullReader
    from shmq.reading import LogReader, QueueReader
    from shmq.shm.arena import Arena
    from shmq.wire.internal import GroupView, TopicView
    from shmq.wire.pull import PullHeader

SCAN_MAX: Final = 800
SIZE_MIN: Final = 100
PLANS_MAX: Final = 4096
BROADCASTING: Final = "BROADCASTING"


class GroupUnknown(Exception):
    """The group has no configuration yet; it may be made."""


class PullResult(NamedTuple):
    """An answer to a pull."""

    code: int
    status: str
    next_begin_offset: int
    min_offset: int
    max_offset: int
    suggested_broker_id: int
    body: bytes | bytearray
    message_count: int = 0


class Plan(NamedTuple):
    """What check() once said of a question that wants every message of a topic."""

    group: str
    topic: str
    slots: list[int]
    """By queue id, as far as the queues may be read."""


class FoundFrame(NamedTuple):
    """A whole answer with messages."""

    frame: bytearray
    body_size: int
    message_count: int


class PullService:
    """Answers pulls from the store, as one process sees it."""

    def __init__(
        self,
        *,
        settings: Settings,
        arena: Arena,
        views: Views,
        queue_reader: QueueReader,
        log_reader: LogReader,
    ) -> None:
        self._settings = settings
        self._views = views
        self._queues = arena.queues
        self._queue_reader = queue_reader
        self._log_reader = log_reader
        self._append_offset = arena.reader(Word.APPEND_OFFSET)
        self._memory_total = arena.reader(Word.MEMORY_TOTAL)
        self._parsed: dict[tuple[str, str], Subscription] = {}
        self._plans: dict[bytes, Plan] = {}
        self._plans_version = views.version
        self._offsets = np.zeros(SCAN_MAX, dtype=np.int64)
        self._sizes = np.zeros(SCAN_MAX, dtype=np.int64)

    def reload(self, settings: Settings) -> None:
        """Take the settings anew."""
        self._settings = settings
        self._plans.clear()

    # The short way: pulls like one before, that find messages

    def plan(self, key: bytes) -> Plan | None:
        """What is known of a question (PullReader.key); nothing after a change of the views."""
        if self._plans_version != self._views.version:
            self._plans.clear()
            self._plans_version = self._views.version
        return self._plans.get(key)

    def learn(self, key: bytes, header: PullHeader, subscription: Subscription) -> None:
        """Remember what check() has just said of a question."""
        topic = self._views.topics.get(header.topic)
        if topic is None or not subscription.is_all:
            return
        if header.consumer_group in self._views.resets:
            return
        self.plan(key)
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        slots = topic.slots[: topic.read_queue_nums]
        self._plans[key] = Plan(header.consumer_group, header.topic, slots)

    def find(self, plan: Plan, asked: PullReader) -> FoundFrame | None:
        """The answer to a pull that finds messages; None when it does not, or not by this way."""
        if not 0 <= asked.queue_id < len(plan.slots):
            return None
        slot, offset = plan.slots[asked.queue_id], asked.queue_offset
        low, high = self._queues.min_offset(slot), self._queues.max_offset(slot)
        if not low <= offset < high:
            return None
        try:
            entries = self._queue_reader.entries(
                slot, offset, min(max(1, asked.count_max), SCAN_MAX)
            )
        except StoreError:
            return None  # As below.
        if not len(entries):
            return None
        physical = entries["physical_offset"]
        count_max, size_max = self._limits(
            int(physical[0]), asked.size_max if asked.size_max >= 0 else None
        )
        offsets, sizes = self._offsets, self._sizes
        count, size = choose(
            entries, max(1, min(count_max, len(entries))), size_max, offsets, sizes
        )
        if not count:
            return None
        frame, at = found_frame(
            size,
            binary=asked.binary,
            opaque=asked.opaque,
            next_offset=offset + count,
            min_offset=low,
            max_offset=high,
            broker_id=self._suggest(plan.group, int(physical[-1])),
        )
        try:
            self._log_reader.gather(offsets[:count], sizes[:count], frame, at)
        except StoreError:
            return None  # The long way says why.
        return FoundFrame(frame, size, count)

    # The long way

    def check(self, header: PullHeader) -> tuple[int, Subscription]:
        """Slot and subscription of an allowed pull.

        Raises:
            RequestRefused: with the code that the client knows how to take.
            GroupUnknown: the group must be made first.
        """
        settings = self._settings
        if not settings.broker_permission & Perm.READ:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION,
                "the broker's pulling is forbidden",
                broker_permission=settings.broker_permission,
            )
        group = self._views.groups.get(header.consumer_group)
        if group is None:
            if not settings.auto_create_subscription_group:
                raise RequestRefused(
                    ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
                    "no such group",
                    group=header.consumer_group,
                )
            raise GroupUnknown
        if not group.consume_enable:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION, "the group may not consume", group=group.name
            )
        topic = self._topic(header)
        if header.subscribes:
            subscription = self._parse(header.expression_type, header.subscription)
        else:
            subscription = self._subscribed(header, group, topic)
        return topic.slots[header.queue_id], subscription

    def _topic(self, header: PullHeader) -> TopicView:
        topic = self._views.topics.get(header.topic)
        if topic is None:
            raise RequestRefused(
                ResponseCode.TOPIC_NOT_EXIST,
                "no such topic",
                topic=header.topic,
                hint="it must be created before it is read",
            )
        if not topic.perm & Perm.READ:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION, "the topic may not be read", topic=topic.name
            )
        if not 0 <= header.queue_id < min(topic.read_queue_nums, len(topic.slots)):
            raise RequestRefused(
                ResponseCode.INVALID_PARAMETER,
                "queueId",
                found=header.queue_id,
                allowed=(0, topic.read_queue_nums - 1),
                topic=topic.name,
            )
        return topic

    def _subscribed(self, header: PullHeader, group: GroupView, topic: TopicView) -> Subscription:
        if not group.online:
            raise RequestRefused(
                ResponseCode.SUBSCRIPTION_NOT_EXIST,
                "the group has no member online",
                group=group.name,
            )
        if not group.consume_broadcast_enable and group.message_model == BROADCASTING:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION,
                "the group may not consume by broadcasting",
                group=group.name,
            )
        sub = self._views.subscription(group.name, topic.name)
        if sub is None:
            raise RequestRefused(
                ResponseCode.SUBSCRIPTION_NOT_EXIST,
                "the group does not subscribe the topic",
                group=group.name,
                topic=topic.name,
            )
        # A client that has just changed its subscription may leave out the heartbeat that says so.
        # Where the group wants every tag, nothing is lost by serving it: it filters by itself.
        wants_all = sub.expression_type != SQL92 and sub.sub_string in ("*", "")
        if sub.version < header.subscription_version and not wants_all:
            raise RequestRefused(
                ResponseCode.SUBSCRIPTION_NOT_LATEST,
                "the group's subscription is older",
                group=group.name,
                known=sub.version,
                asked=header.subscription_version,
            )
        return self._parse(sub.expression_type, sub.sub_string)

    def _parse(self, expression_type: str, text: str) -> Subscription:
        if text in ("*", "") and expression_type != SQL92:
            return SUBSCRIBE_ALL
        key = (expression_type, text)
        parsed = self._parsed.get(key)
        if parsed is None:
            parsed = parse_subscription(expression_type, text)
            if len(self._parsed) > 4096:  # noqa: PLR2004  a bound, nothing else
                self._parsed.clear()
            self._parsed[key] = parsed
        return parsed

    def execute(self, header: PullHeader, slot: int, subscription: Subscription) -> PullResult:
        """Read what matches; never waits."""
        offset = header.queue_offset
        low, high = self._queues.min_offset(slot), self._queues.max_offset(slot)
        if high == 0:
            moved = offset != 0
            return PullResult(
                ResponseCode.PULL_OFFSET_MOVED if moved else ResponseCode.PULL_NOT_FOUND,
                "NO_MESSAGE_IN_QUEUE",
                0,
                low,
                high,
                0,
                b"",
            )
        if offset < low:
            return PullResult(
                ResponseCode.PULL_OFFSET_MOVED, "OFFSET_TOO_SMALL", low, low, high, 0, b""
            )
        if offset == high:
            return PullResult(
                ResponseCode.PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE", offset, low, high, 0, b""
            )
        if offset > high:
            return PullResult(
                ResponseCode.PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY", high, low, high, 0, b""
            )
        try:
            return self._read(header, slot, subscription, low=low, high=high)
        except StoreError:
            # SYNC POINT: housekeeping raises a queue's min offset before it deletes files.
            low = self._queues.min_offset(slot)
            if low <= offset:
                raise
            return PullResult(
                ResponseCode.PULL_RETRY_IMMEDIATELY, "MESSAGE_WAS_REMOVING", low, low, high, 0, b""
            )

    def moved_by_reset(self, slot: int, offset: int) -> PullResult:
        """The answer to a pull of a group whose offset was reset."""
        low, high = self._queues.min_offset(slot), self._queues.max_offset(slot)
        return PullResult(ResponseCode.PULL_OFFSET_MOVED, "OFFSET_RESET", offset, low, high, 0, b"")

    def _read(
        self, header: PullHeader, slot: int, subscription: Subscription, *, low: int, high: int
    ) -> PullResult:
        offset = header.queue_offset
        wanted = max(1, header.count_max)
        scan = min(wanted if subscription.is_all else max(wanted, SCAN_MAX), SCAN_MAX)
        entries = self._queue_reader.entries(slot, offset, scan)
        if not len(entries):
            return PullResult(
                ResponseCode.PULL_NOT_FOUND, "OFFSET_FOUND_NULL", offset, low, high, 0, b""
            )
        offsets = entries["physical_offset"].astype(np.int64)
        sizes = entries["size"].astype(np.int64)
        suggested = self._suggest(header.consumer_group, int(offsets[-1]))
        # A repaired queue may hold fillers; most hold none, and then nothing is to be picked.
        if subscription.is_all and sizes.min() > 0 and sizes.max() < FILLER_SIZE:
            picked = None
        else:
            picked = self._pick(entries, sizes, subscription)
            offsets, sizes = offsets[picked], sizes[picked]
        count = self._count(header, offsets, sizes, wanted)
        if count == 0:
            return PullResult(
                ResponseCode.PULL_RETRY_IMMEDIATELY,
                "NO_MATCHED_MESSAGE",
                offset + len(entries),
                low,
                high,
                suggested,
                b"",
            )
        seen = count if picked is None else int(picked[count - 1]) + 1
        if count == len(sizes):
            seen = len(entries)
        offsets, sizes = offsets[:count], sizes[:count]
        body = bytearray(int(sizes.sum()))
        self._log_reader.gather(offsets, sizes, body, 0)
        return PullResult(
            ResponseCode.SUCCESS, "FOUND", offset + seen, low, high, suggested, body, count
        )

    @staticmethod
    def _pick(
        entries: NDArray[np.void], sizes: NDArray[np.int64], subscription: Subscription
    ) -> NDArray[np.intp]:
        """Places of the entries that have a message, and one that may be wanted."""
        hit = (sizes > 0) & (sizes != FILLER_SIZE)
        if not subscription.is_all:
            codes = np.fromiter(subscription.codes, dtype=np.int64)
            hit &= np.isin(entries["tags_code"].astype(np.int64), codes)
        return np.flatnonzero(hit)

    def _count(
        self,
        header: PullHeader,
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        wanted: int,
    ) -> int:
        """How many of the matching records go into one answer; at least one if there is any."""
        if not len(sizes):
            return 0
        count_max, size_max = self._limits(int(offsets[0]), header.size_max)
        fitting = int(sizes.cumsum().searchsorted(size_max, side="right"))
        return max(1, min(fitting, wanted, count_max, len(sizes)))

    def _limits(self, first: int, asked_size_max: int | None) -> tuple[int, int]:
        """Most records and most bytes of an answer whose first record is at offset `first`."""
        settings = self._settings
        size_max = settings.max_transfer_bytes_on_message_in_memory
        count_max = settings.max_transfer_count_on_message_in_memory
        if self._is_cold(first):
            size_max = settings.max_transfer_bytes_on_message_in_disk
            count_max = settings.max_transfer_count_on_message_in_disk
        if asked_size_max is not None:
            size_max = min(size_max, max(SIZE_MIN, asked_size_max))
        return count_max, size_max

    def _is_cold(self, offset: int) -> bool:
        """Whether a record lies so far back that it is thought to be out of memory."""
        limit = self._memory_total.load() * self._settings.access_message_in_memory_max_ratio // 100
        return limit > 0 and self._append_offset.load() - offset > limit

    def _suggest(self, group_name: str, offset: int) -> int:
        """Broker id that the consumer should ask next (the 40 % rule)."""
        if not self._settings.slave_read_enable:
            return 0
        group = self._views.groups.get(group_name)
        if group is None:  # It was deleted while the pull waited.
            return 0
        if self._is_cold(offset):
            return group.which_broker_when_consume_slowly
        return group.broker_id

    def matches_any(self, slot: int, first: int, subscription: Subscription) -> tuple[bool, int]:
        """Whether an entry from `first` on matches, and the offset up to which was looked."""
        entries = self._queue_reader.entries(slot, first, SCAN_MAX)
        if subscription.is_all:
            return len(entries) > 0, first
        codes = np.fromiter(subscription.codes, dtype=np.int64)
        hit = np.isin(entries["tags_code"].astype(np.int64), codes)
        return bool(hit.any()), first + len(entries)

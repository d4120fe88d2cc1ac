"""A consumer's place in its group: which queues it reads, and the offsets that are committed.

    join:       routes -> heartbeat to every broker -> rebalance
    rebalance:  members of the group (38) -> the same division by everybody -> queues given back are
                committed and dropped, new ones begin at the committed offset (14), else by `start`
    leave:      commit -> good-bye (35), on which the broker tells the others to rebalance

A queue's commit offset is the end of what was acknowledged; while everything given out is
acknowledged, it is the end of what was looked at, with the messages that nobody subscribed to.

An operator may reset the group's offsets: by 220, and by the answer to a pull where the broker sees
pulls. What was given before counts no more then, and the new offset is committed at once: until
that, or a pull from there, the broker takes no commit of the queue.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from shmq.client import admin
from shmq.client.allocate import allocate
from shmq.client.batch import QUEUE_OFFSET, RETRY_PREFIX, Batch
from shmq.client.flow import Cancelled, start, together
from shmq.client.model import ALL_TAGS, Queue, When
from shmq.client.queuestate import QueueState
from shmq.client.reading import PullPath
from shmq.client.route import Route, check, text_list
from shmq.errors import (
    ClientError,
    Closed,
    ConfigError,
    InvalidMessage,
    NotConnected,
    RequestRefused,
    TopicNotFound,
)
from shmq.wire.codes import RequestCode
from shmq.wire.pull import TAG, Subscription, parse_tags

if TYPE_CHECKING:
    from shmq.client.core import Core
    from shmq.client.transport import ReaderPath

Start: TypeAlias = Literal["first", "last"] | When
Model: TypeAlias = Literal["clustering", "broadcasting"]
Topics: TypeAlias = str | Iterable[str] | Mapping[str, str]

CALL_TIMEOUT: Final = 5.0
AGAIN_INTERVAL: Final = 1.0
"""Pause before the next rebalance when one could not be finished."""
START_NAMES: Final = {
    "first": "CONSUME_FROM_FIRST_OFFSET",
    "last": "CONSUME_FROM_LAST_OFFSET",
}

_log: Final = logging.getLogger("shmq.client")


def subscriptions_of(topics: Topics, tags: str) -> dict[str, Subscription]:
    """Subscriptions by topic.

    Raises:
        InvalidMessage: an expression cannot be read.
        ConfigError: there is no topic.
    """
    if isinstance(topics, str):
        wanted = {topics: tags}
    elif isinstance(topics, Mapping):
        wanted = {topic: text or ALL_TAGS for topic, text in topics.items()}
    else:
        wanted = dict.fromkeys(topics, tags)
    if not wanted:
        raise ConfigError("no topic to subscribe to")
    try:
        return {topic: parse_tags(text) for topic, text in wanted.items()}
    except RequestRefused as error:
        raise InvalidMessage(error.what, **error.facts) from None


class Membership:
    """One consumer of a group, without the waiting."""

    def __init__(
        self,
        core: Core,
        *,
        group: str,
        subscriptions: dict[str, Subscription],
        begin: Start,
        batch: int,
        model: Model,
        commit_interval: float,
        queues: Sequence[Queue] | None,
    ) -> None:
        _check(group, begin, batch, model)
        self.core = core
        self.group = group
        self.manual = None if queues is None else sorted(set(queues))
        self._begin = begin
        self._model = model
        self._commit_interval = commit_interval
        self.retry_topic = ""
        subscriptions = dict(subscriptions)
        if self.manual is None and model == "clustering":
            self.retry_topic = RETRY_PREFIX + group
            subscriptions[self.retry_topic] = parse_tags(ALL_TAGS)
        self._subscriptions = subscriptions
        self._version = int(time.time() * 1000)
        self.path: ReaderPath = self._new_path(batch)
        self.lock = threading.Lock()
        self.states: dict[Queue, QueueState] = {}
        self._turn = 0
        self._put_back: deque[tuple[QueueState, Batch, int]] = deque()
        self._rebalancing = False
        self._again = False
        self._missing: set[str] = set()
        self.closed = False

    def _new_path(self, batch: int) -> ReaderPath:
        core = self.core
        if core.link is None:
            return PullPath(
                core,
                group=self.group,
                subscriptions=self._subscriptions,
                version=self._version,
                count_max=batch,
                on_moved=self._moved,
            )
        from shmq.client.nativepath import NativeReaderPath  # noqa: PLC0415  it needs numpy

        return NativeReaderPath(
            core,
            core.link,
            group=self.group,
            subscriptions=self._subscriptions,
            version=self._version,
            count_max=batch,
            on_moved=self._moved,
        )

    # For the application's threads

    def take(self) -> tuple[QueueState, Batch] | None:
        """The next batch of any queue, each in turn. Never waits."""
        with self.lock:
            while self._put_back:
                state, batch, epoch = self._put_back.popleft()
                if not state.released and state.epoch == epoch:
                    return state, batch
            states = list(self.states.values())
            count = len(states)
            for number in range(count):
                index = (self._turn + number) % count
                state = states[index]
                taken = self._take_of(state)
                if taken is not None:
                    self._turn = index + 1
                    return state, taken
        return None

    def _take_of(self, state: QueueState) -> Batch | None:
        try:
            batch = state.reader.take()
            if batch is not None:
                state.given = batch.next_offset
                batch.acknowledge = partial(state.acknowledge, state.epoch)
        except BaseException:  # A signal: what was taken must come again.
            state.reader.seek(state.given)
            raise
        return batch

    def put_back(self, state: QueueState, batch: Batch, epoch: int) -> None:
        """The rest of a batch that is not iterated any more: the next take() gives it.

        Without a lock: an iterator may be dropped at any instruction, also where that lock is held.
        """
        batch.acknowledge = partial(state.acknowledge, epoch)
        self._put_back.append((state, batch, epoch))

    def read_again(self, state: QueueState, batch: Batch) -> None:
        """A batch's first messages were deleted before anybody looked at them.

        Its queue is read again from there: its reader goes on with the first that is kept.
        """
        first = int(batch.column(QUEUE_OFFSET)[0])
        with self.lock:
            if not state.released:
                state.reader.seek(first)
                state.given = first

    def position(self, queue: Queue) -> int:
        """Offset of the next message that take() will give of a queue.

        Raises:
            InvalidMessage: the queue is not read by this consumer now.
        """
        with self.lock:
            wanted = self.state_of(queue)
            for state, batch, epoch in self._put_back:
                if state is wanted and state.epoch == epoch:
                    return batch[0].queue_offset
            return wanted.reader.next_offset

    def seek(self, queue: Queue, offset: int) -> None:
        """Go on at this offset.

        Raises:
            InvalidMessage: the queue is not read by this consumer now.
        """
        with self.lock:
            self.state_of(queue)
            self._seek(queue, offset)
        self.path.wake()

    def _seek(self, queue: Queue, offset: int) -> None:
        state = self.states[queue]
        state.epoch += 1
        state.reader.seek(offset)
        state.given = state.acked = offset
        state.committed = None
        state.reset_offset = None

    def state_of(self, queue: Queue) -> QueueState:
        """State of a queue that this consumer reads.

        Raises:
            InvalidMessage: it does not.
        """
        state = self.states.get(queue)
        if state is None:
            raise InvalidMessage("the queue is not this consumer's", queue=queue, group=self.group)
        return state

    # Joining and leaving

    async def join(self) -> None:
        """Become a member and get queues, or begin with those that were named.

        Raises:
            NotConnected: nobody could be reached.
        """
        if self._commit_interval > 0 and self._model == "clustering":
            self.core.timers.after(self._commit_interval, self._commit_due)
        if self.manual is not None:
            for outcome in await together([self._take_on(queue) for queue in self.manual]):
                if isinstance(outcome, Exception):
                    raise outcome
            return
        for topic in self._subscriptions:
            try:
                await self.core.routes.for_reading(topic, fresh=True)
            except TopicNotFound:
                continue  # It may come; rebalance() looks for it again.
        # Where no topic has a route yet, the brokers must know of the group all the same.
        if not self.core.routes.brokers():
            await self._any_route()
        with self.lock:
            self._rebalancing = True  # What brokers say from now on makes one more run, no second.
        self.core.add_member(self)
        await self.core.heartbeat()
        await self._rebalance_all()

    async def _any_route(self) -> None:
        masters = await self.core.routes.directory.masters()
        self.core.routes.add_brokers(masters)

    async def leave(self) -> None:
        """Commit, and be no member any more."""
        with self.lock:
            self.closed = True
            states = list(self.states.values())
            for state in states:
                state.reader.stop()
        self.path.wake()
        try:
            await self._commit(states)
        except ClientError as error:
            _log.warning("offsets of %s not committed at the end: %s", self.group, error)
        with self.lock:
            for state in states:
                state.released = True
            self.states.clear()
        if self.manual is None:
            self.core.remove_member(self)
            await self.core.leave(self.group, consumer=True)

    def heartbeat_data(self) -> dict[str, Any]:
        """Its part of a heartbeat."""
        where = START_NAMES.get(str(self._begin), "CONSUME_FROM_TIMESTAMP")
        return {
            "consumeFromWhere": where,
            "consumeType": "CONSUME_PASSIVELY",
            "groupName": self.group,
            "messageModel": self._model.upper(),
            "subscriptionDataSet": [
                {
                    "classFilterMode": False,
                    "codeSet": sorted(one.codes),
                    "expressionType": TAG,
                    "subString": one.text,
                    "subVersion": self._version,
                    "tagsSet": list(one.tags),
                    "topic": topic,
                }
                for topic, one in self._subscriptions.items()
            ],
            "unitMode": False,
        }

    # Rebalance

    def rebalance_soon(self) -> None:
        """Look at the division anew; several wishes while one runs make one more run.

        Never two at once: the one that asked earlier would undo what the other has found.
        """
        if self.manual is not None:
            return
        with self.lock:
            if self.closed:
                return
            if self._rebalancing:
                self._again = True
                return
            self._rebalancing = True
        start(self._rebalance_all())

    async def _rebalance_all(self) -> None:
        done = False
        try:
            while True:
                with self.lock:
                    self._again = False
                done = await self._rebalance_once()
                with self.lock:
                    if not self._again or self.closed:
                        self._rebalancing = False
                        break
        except BaseException:
            with self.lock:
                self._rebalancing = False
            raise
        if not done and not self.closed:
            self.core.timers.after(AGAIN_INTERVAL, self.rebalance_soon)

    async def _rebalance_once(self) -> bool:
        """Whether every topic could be divided."""
        outcomes = await together([self._rebalance_topic(topic) for topic in self._subscriptions])
        failures = [one for one in outcomes if isinstance(one, Exception)]
        for failure in failures:
            if isinstance(failure, (Cancelled, Closed)):
                return True
            _log.info("rebalance of %s not finished: %s", self.group, failure)
        return not failures and all(outcomes)

    async def _rebalance_topic(self, topic: str) -> bool:
        try:
            route = await self.core.routes.for_reading(topic)
        except TopicNotFound:
            if topic == self.retry_topic:
                return True  # It comes when the first message is sent back; routes are looked at.
            if topic not in self._missing:
                self._missing.add(topic)
                _log.warning("%s waits for the topic %s, which does not exist", self.group, topic)
            return False
        if self._model == "broadcasting":
            mine = list(route.read_queues)
        else:
            members = await self._members(route)
            mine = allocate(route.read_queues, members, self.core.client_id)
        return await self._take_over(topic, mine)

    async def _members(self, route: Route) -> list[str]:
        """Client ids of the group, from any broker of the topic: all know all."""
        names = list(route.brokers)
        random.shuffle(names)
        error: ClientError = NotConnected("no broker in the route", topic=route.topic)
        for name in names:
            try:
                connection = self.core.pool.get(route.reader(name, 0))
                frame = await connection.ask(
                    RequestCode.GET_CONSUMER_LIST_BY_GROUP,
                    {"consumerGroup": self.group},
                    timeout=CALL_TIMEOUT,
                )
                check(frame, "members of the group not told", group=self.group, broker=name)
            except (Cancelled, Closed):
                raise
            except ClientError as failure:
                error = failure
                continue
            return text_list(frame.body, "consumerIdList")
        raise error

    async def _take_over(self, topic: str, mine: list[Queue]) -> bool:
        """Give back what is not ours any more, begin with what is new."""
        wanted = set(mine)
        with self.lock:
            lost = [
                state
                for queue, state in self.states.items()
                if queue.topic == topic and queue not in wanted
            ]
            for state in lost:
                state.released = True
                state.reader.stop()
                del self.states[state.queue]
            new = [queue for queue in mine if queue not in self.states]
        if lost:
            try:
                await self._commit(lost)
            except ClientError as error:
                _log.info("offsets of queues given back not committed: %s", error)
        outcomes = await together([self._take_on(queue) for queue in new])
        if lost or new:
            self.path.wake()
        failures = [one for one in outcomes if isinstance(one, Exception)]
        if failures:
            raise failures[0]
        return True

    async def _take_on(self, queue: Queue) -> None:
        offset, committed = await self._first_offset(queue)
        with self.lock:
            if not self.closed and queue not in self.states:
                reader = self.path.open(queue, offset)
                self.states[queue] = QueueState(queue, reader, offset, committed)

    async def _first_offset(self, queue: Queue) -> tuple[int, int | None]:
        """Where to begin, and what is committed."""
        if self._model == "clustering":
            committed = await admin.committed_offset(self.core, self.group, queue)
            if committed is not None:
                return committed, committed
        begin = self._begin
        if queue.topic == self.retry_topic or begin == "first":
            return await admin.min_offset(self.core, queue), None
        if begin == "last":
            return await admin.max_offset(self.core, queue), None
        return await admin.search_offset(self.core, queue, begin), None

    # What operators want

    def places(self, topic: str) -> list[tuple[Queue, int]]:
        """How far it has come with its queues of a topic: what it commits."""
        with self.lock:
            states = [state for state in self.states.values() if state.queue.topic == topic]
            return [(state.queue, state.commit_offset) for state in states]

    def reset(self, topic: str, offsets: dict[tuple[str, int], int], number: int) -> None:
        """An operator has set the group's offsets; what was said before changes nothing."""
        with self.lock:
            states = [
                self._reset(queue, offset, number)
                for (broker, queue_id), offset in offsets.items()
                if self._is_news(queue := Queue(topic, broker, queue_id), number)
            ]
        self._confirm(states)

    def _moved(self, queue: Queue, offset: int, number: int) -> None:
        """A pull was answered with another offset, by a reset if there is a number."""
        states: list[QueueState] = []
        with self.lock:
            if queue not in self.states:
                return
            if number and self._is_news(queue, number):
                states = [self._reset(queue, offset, number)]
            elif number:
                self.states[queue].reader.seek(offset)
            else:
                self._seek(queue, offset)
        self._confirm(states)

    def _is_news(self, queue: Queue, number: int) -> bool:
        state = self.states.get(queue)
        return state is not None and (number == 0 or number != state.reset_number)

    def _reset(self, queue: Queue, offset: int, number: int) -> QueueState:
        self._seek(queue, offset)
        state = self.states[queue]
        state.reset_number = number
        state.reset_offset = offset
        _log.info("%s was reset to offset %d for %s", queue, offset, self.group)
        return state

    def _confirm(self, states: list[QueueState]) -> None:
        self.path.wake()
        if states:
            start(self._commit(states), self._committed)

    # Commits

    async def commit(self) -> None:
        """Tell the brokers what was acknowledged.

        Raises:
            ClientError: one could not be told.
        """
        with self.lock:
            states = list(self.states.values())
        await self._commit(states)

    def _commit_due(self) -> None:
        if self.closed or self.core.closed:
            return
        start(self.commit(), self._committed)
        self.core.timers.after(self._commit_interval, self._commit_due)

    def _committed(self, outcome: Exception | None) -> None:
        if isinstance(outcome, Exception):
            _log.info("offsets of %s not committed: %s", self.group, outcome)

    async def _commit(self, states: list[QueueState]) -> None:
        if self._model == "broadcasting":
            return
        reset = [state for state in states if state.reset_offset is not None]
        if reset:  # Before that, the broker would not take what comes after.
            await self._commit_all(reset)
        await self._commit_all(states)

    async def _commit_all(self, states: list[QueueState]) -> None:
        due = [(state, state.commit_offset, state.epoch) for state in states]
        works = [
            self._commit_one(state, offset, epoch)
            for state, offset, epoch in due
            if offset != state.committed
        ]
        for outcome in await together(works):
            if isinstance(outcome, Exception):
                raise outcome

    async def _commit_one(self, state: QueueState, offset: int, epoch: int) -> None:
        queue = state.queue
        route = await self.core.routes.for_reading(queue.topic)
        endpoint = route.reader(queue.broker, 0)
        frame = await self.core.pool.get(endpoint).ask(
            RequestCode.UPDATE_CONSUMER_OFFSET,
            {
                "consumerGroup": self.group,
                "topic": queue.topic,
                "queueId": str(queue.queue_id),
                "commitOffset": str(offset),
            },
            timeout=CALL_TIMEOUT,
        )
        check(frame, "offset not committed", queue=queue, group=self.group, offset=offset)
        if epoch == state.epoch:
            state.committed = offset
            state.reset_offset = None


def _check(group: str, begin: Start, batch: int, model: str) -> None:
    if not group:
        raise ConfigError("a consumer needs a group")
    if isinstance(begin, str) and begin not in START_NAMES:
        raise ConfigError("start", found=begin, allowed='"first", "last", a datetime or ms')
    if batch < 1:
        raise ConfigError("batch", found=batch, allowed="1 or more")
    if model not in get_args(Model):
        raise ConfigError("model", found=model, allowed=get_args(Model))

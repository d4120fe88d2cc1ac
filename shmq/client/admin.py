"""What a client can ask and change about topics and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from shmq.client.flow import Work, run, together
from shmq.client.model import Queue, When, milliseconds
from shmq.client.route import Route, check, text_list
from shmq.errors import NotConnected, Refused, Timeout, TopicNotFound
from shmq.wire.codes import Perm, RequestCode, ResponseCode
from shmq.wire.frame import Frame

if TYPE_CHECKING:
    from shmq.client.address import Endpoint
    from shmq.client.core import Core

CALL_TIMEOUT: Final = 5.0
SHOWN_TIMEOUT: Final = 10.0
"""How long a new topic may take until the name servers show it."""
LOOK_INTERVAL: Final = 0.05
QUEUES: Final = 8
HIDDEN_PREFIXES: Final = ("%RETRY%", "%DLQ%", "rmq_sys_", "RMQ_SYS_")
READ_WRITE: Final = Perm.READ | Perm.WRITE

T = TypeVar("T")


async def topics(core: Core) -> list[str]:
    """Names of the topics that applications have made."""
    directory = core.routes.directory
    found = set(await directory.topics())
    for endpoint in (await directory.masters()).values():
        frame = await core.pool.get(endpoint).ask(
            RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER, timeout=CALL_TIMEOUT
        )
        found.difference_update(text_list(check(frame, "topics not told").body, "topicList"))
    return sorted(topic for topic in found if not topic.startswith(HIDDEN_PREFIXES))


async def create_topic(core: Core, topic: str, *, queues: int, perm: Perm) -> None:
    """Make a topic on every master, or change it, and wait until it is shown."""
    core.preparer.check_topic(topic)
    masters = await _some_masters(core)
    ext = {
        "topic": topic,
        "defaultTopic": "TBW102",
        "readQueueNums": str(queues),
        "writeQueueNums": str(queues),
        "perm": str(int(perm)),
        "topicFilterType": "SINGLE_TAG",
        "topicSysFlag": "0",
        "order": "false",
    }
    await _on_all(core, masters, RequestCode.UPDATE_AND_CREATE_TOPIC, ext, "topic not created")
    left = SHOWN_TIMEOUT
    while True:
        core.routes.forget(topic)
        try:
            route = await core.routes.for_reading(topic)
        except TopicNotFound:
            shown = -1
        else:
            shown = min(len(route.read_queues), len(route.write_queues))
        if shown == queues * len(masters) or (shown >= 0 and perm & READ_WRITE != READ_WRITE):
            return
        left -= LOOK_INTERVAL
        if left <= 0:
            raise Timeout(
                "the new topic is not shown by the name servers",
                topic=topic,
                queues_shown=max(shown, 0),
                queues_made=queues * len(masters),
                brokers=",".join(map(str, masters.values())),
            )
        await core.timers.sleep(LOOK_INTERVAL)


async def _some_masters(core: Core) -> dict[str, Endpoint]:
    """All masters; waits for a broker that has just been started and registers soon."""
    left = SHOWN_TIMEOUT
    while not (masters := await core.routes.directory.masters()):
        left -= LOOK_INTERVAL
        if left <= 0:
            raise NotConnected("no broker is registered", address=core.options.address.text)
        await core.timers.sleep(LOOK_INTERVAL)
    return masters


async def delete_topic(core: Core, topic: str) -> None:
    """Remove a topic from all brokers and name servers."""
    core.preparer.check_topic(topic)
    masters = await core.routes.directory.masters()
    ext = {"topic": topic}
    await _on_all(core, masters, RequestCode.DELETE_TOPIC_IN_BROKER, ext, "topic not deleted")
    await core.routes.directory.forget_topic(topic)
    core.routes.forget(topic)


async def _on_all(
    core: Core, masters: dict[str, Endpoint], code: int, ext: dict[str, str], what: str
) -> None:
    async def one(name: str, endpoint: Endpoint) -> None:
        frame = await core.pool.get(endpoint).ask(code, ext, timeout=CALL_TIMEOUT)
        check(frame, what, broker=name, address=endpoint)

    for outcome in await together([one(*item) for item in masters.items()]):
        if isinstance(outcome, Exception):
            raise outcome


async def queues_of(core: Core, topic: str) -> list[Queue]:
    """Queues that a topic can be read from."""
    route = await core.routes.for_reading(topic, fresh=True)
    return list(route.read_queues)


async def ask_offset(core: Core, queue: Queue, code: int, **more: str) -> int:
    """A number that a broker tells about a queue."""
    route = await core.routes.for_reading(queue.topic)
    endpoint = await _master_of(core, route, queue)
    ext = {"topic": queue.topic, "queueId": str(queue.queue_id), **more}
    frame = await core.pool.get(endpoint).ask(code, ext, timeout=CALL_TIMEOUT)
    return offset_in(check(frame, "offset not told", queue=queue, address=endpoint))


async def _master_of(core: Core, route: Route, queue: Queue) -> Endpoint:
    if queue not in route.read_queues:
        route = await core.routes.for_reading(queue.topic, fresh=True)
        if queue not in route.read_queues:
            raise TopicNotFound("no such queue", queue=queue, queues=len(route.read_queues))
    return route.reader(queue.broker, 0)


def offset_in(frame: Frame) -> int:
    """The offset in an answer."""
    try:
        return int(frame.header.ext["offset"])
    except (KeyError, ValueError):
        raise Refused(
            "answer without an offset", code=ResponseCode.SYSTEM_ERROR, remark=str(frame.header.ext)
        ) from None


async def committed_offset(core: Core, group: str, queue: Queue) -> int | None:
    """How far a group has consumed a queue by what it has committed; None: it has not."""
    route = await core.routes.for_reading(queue.topic)
    frame = await core.pool.get(route.reader(queue.broker, 0)).ask(
        RequestCode.QUERY_CONSUMER_OFFSET,
        {
            "consumerGroup": group,
            "topic": queue.topic,
            "queueId": str(queue.queue_id),
            "setZeroIfNotFound": "false",
        },
        timeout=CALL_TIMEOUT,
    )
    if frame.header.code == ResponseCode.QUERY_NOT_FOUND:
        return None
    return offset_in(check(frame, "committed offset not told", queue=queue, group=group))


async def min_offset(core: Core, queue: Queue) -> int:
    """The first offset that a queue still has."""
    return await ask_offset(core, queue, RequestCode.GET_MIN_OFFSET)


async def max_offset(core: Core, queue: Queue) -> int:
    """The offset that the next message of a queue will have."""
    return await ask_offset(core, queue, RequestCode.GET_MAX_OFFSET)


async def offsets(core: Core, queue: Queue) -> tuple[int, int]:
    """First offset of a queue, and the one after its last."""
    return await min_offset(core, queue), await max_offset(core, queue)


async def search_offset(core: Core, queue: Queue, when: When) -> int:
    """Offset of the first message that was stored at that moment or later; else the queue's end."""
    return await ask_offset(
        core,
        queue,
        RequestCode.SEARCH_OFFSET_BY_TIMESTAMP,
        timestamp=str(milliseconds(when)),
        boundaryType="LOWER",
    )


class Admin:
    """Part of the client: topics and queues."""

    @property
    def core(self) -> Core:
        """What the client is made of."""
        raise NotImplementedError

    def topics(self) -> list[str]:
        """Names of the topics that applications have made."""
        return self._run(topics(self.core))

    def create_topic(self, topic: str, *, queues: int = QUEUES, perm: Perm = READ_WRITE) -> None:
        """Make a topic with so many queues on every broker, or change it.

        Returns when brokers and name servers show it.

        Raises:
            Refused: a broker would not; says why.
        """
        self._run(create_topic(self.core, topic, queues=queues, perm=perm))

    def delete_topic(self, topic: str) -> None:
        """Remove a topic from all brokers and name servers."""
        self._run(delete_topic(self.core, topic))

    def queues(self, topic: str) -> list[Queue]:
        """Queues that a topic can be read from.

        Raises:
            TopicNotFound: there is no such topic.
        """
        return self._run(queues_of(self.core, topic))

    def offsets(self, queue: Queue) -> tuple[int, int]:
        """First offset that a queue still has, and the one that its next message will have."""
        return self._run(offsets(self.core, queue))

    def search_offset(self, queue: Queue, when: When) -> int:
        """Offset of the first message stored at that moment or later; else the queue's end."""
        return self._run(search_offset(self.core, queue, when))

    @staticmethod
    def _run(work: Work[T]) -> T:
        return run(work)

"""A control plane on a folder: the real tables, files and journal; time is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shmq.broker import names
from shmq.broker.control import Control, Sending
from shmq.broker.groups import Groups
from shmq.broker.offsets import Offsets
from shmq.broker.plane import Identity, Plane
from shmq.broker.resets import Resets
from shmq.broker.topics import Topics
from shmq.layout import queuetable as layout
from shmq.shm.queuetable import QueueTable
from shmq.store.disk import DISK, Disk
from shmq.store.offsetjournal import OffsetJournal
from shmq.store.tables import TableFile
from shmq.wire import internal, jsonish
from shmq.wire.codes import RequestCode

OFFSETS_INTERVAL_MS = 5000
QUEUES_MAX = 4096


class ControlRoom:
    """One coordinator's state; a second one on the same folder is its successor."""

    def __init__(
        self,
        folder: Path,
        *,
        auto_create: bool = True,
        queues_max: int = QUEUES_MAX,
        queues: QueueTable | None = None,
        built_in: Sequence[names.BuiltIn] | None = None,
        disk: Disk = DISK,
    ) -> None:
        """`queues` is a queue table that others use too, instead of one with `queues_max` slots."""
        self.queues = queues or _queue_table(queues_max)
        self.folder = folder
        self.now_ms = 1_000_000
        self.in_memory = True
        self.tokens = 0
        self.closed = False
        self.plane = Plane(
            identity=Identity(cluster_name="C", broker_name="B", address="127.0.0.1:10911"),
            topics=Topics(
                file=TableFile(folder / "topics.json", disk=disk),
                queues=self.queues,
                wall_ms=self.wall_ms,
                built_in=names.built_in_topics(
                    broker_name="B", cluster_name="C", auto_create=auto_create, trace=False
                )
                if built_in is None
                else built_in,
                auto_create=auto_create,
                queue_nums_max=1024,
            ),
            groups=Groups(
                file=TableFile(folder / "subscriptionGroup.json", disk=disk),
                wall_ms=self.wall_ms,
                auto_create=auto_create,
            ),
            offsets=Offsets(
                file=TableFile(folder / "consumerOffset.json", disk=disk),
                journal=OffsetJournal(folder / "offsets.journal", disk=disk),
                wall_ms=self.wall_ms,
            ),
            resets=Resets(file=TableFile(folder / "offsetReset.json"), wall_ms=self.wall_ms),
            offset_at=self.offset_at,
            first_is_in_memory=lambda _topic, _queue_id: self.in_memory,
            wall_ms=self.wall_ms,
        )
        self.plane.topics.load()
        self.plane.groups.load()
        self.replayed = self.plane.offsets.load()
        self.plane.resets.load()
        self.plane.resume_resets()
        self.control = Control(self.plane, offsets_interval_ms=OFFSETS_INTERVAL_MS)

    def offset_at(self, topic: str, queue_id: int, timestamp: int) -> int:
        """Every ms has one message of each queue, the first at 0."""
        low, high = self.plane.topics.offsets(topic, queue_id)
        return min(max(timestamp, low), high)

    def wall_ms(self) -> int:
        """Time of day."""
        return 1_700_000_000_000 + self.now_ms

    # What serve processes do

    def send(self, message: internal.Message, *, serve: int = 0) -> None:
        """Hand a message in; nothing comes out before settle()."""
        self.control.receive(serve, message, now_ms=self.now_ms)

    def settle(self) -> list[Sending]:
        """What goes out."""
        return self.control.settle(now_ms=self.now_ms)

    def pass_time(self, milliseconds: int) -> list[Sending]:
        """Let time pass, with a tick at the end of it; what goes out."""
        self.now_ms += milliseconds
        self.control.tick(now_ms=self.now_ms)
        return self.settle()

    def ask(
        self,
        code: int,
        ext: dict[str, str] | None = None,
        body: Any = None,
        *,
        serve: int = 0,
        connection: int = 1,
        oneway: bool = False,
        language: str = "OTHER",
    ) -> int:
        """Ask as a client would; the token by which the reply is known."""
        self.tokens += 1
        self.send(
            internal.Ask(
                token=self.tokens,
                connection=connection,
                peer=f"127.0.0.1:{5000 + connection}",
                code=code,
                ext=ext or {},
                body=b"" if body is None else jsonish.dumps(body),
                oneway=oneway,
                language=language,
                version=513,
            ),
            serve=serve,
        )
        return self.tokens

    def reply(self, code: int, *args: Any, **more: Any) -> internal.Reply:
        """Ask, settle, and give the one reply."""
        token = self.ask(code, *args, **more)
        (found,) = [reply for reply in replies(self.settle()) if reply.token == token]
        return found

    def heartbeat(
        self,
        client_id: str,
        *groups: str,
        connection: int = 1,
        serve: int = 0,
        topics: dict[str, str] | None = None,
        model: str = "CLUSTERING",
        producers: tuple[str, ...] = (),
        version: int = 1,
        language: str = "OTHER",
    ) -> int:
        """A heartbeat with consumers of `groups`; its token."""
        subscriptions = [
            {
                "topic": topic,
                "subString": expression,
                "subVersion": version,
                "expressionType": "TAG",
                "tagsSet": [] if expression == "*" else expression.split("||"),
                "codeSet": [],
            }
            for topic, expression in (topics or {"T": "*"}).items()
        ]
        body = {
            "clientID": client_id,
            "producerDataSet": [{"groupName": name} for name in producers],
            "consumerDataSet": [
                {
                    "groupName": name,
                    "consumeType": "CONSUME_PASSIVELY",
                    "messageModel": model,
                    "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
                    "subscriptionDataSet": subscriptions,
                }
                for name in groups
            ],
        }
        return self.ask(
            RequestCode.HEART_BEAT, {}, body, connection=connection, serve=serve, language=language
        )

    def members(self, group: str) -> list[str] | None:
        """The list that a client gets (38); None when it is refused."""
        reply = self.reply(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": group})
        return jsonish.loads(reply.body)["consumerIdList"] if reply.code == 0 else None

    def create_topic(self, name: str, *, queues: int = 4, default: str = "TBW102") -> int:
        """Create by sending; the reply's code."""
        self.tokens += 1
        self.send(internal.CreateTopic(self.tokens, name, default, queues))
        (reply,) = replies(self.settle())
        return reply.code

    def close(self) -> None:
        """Give the journal's file back."""
        if not self.closed:
            self.closed = True
            self.plane.offsets.close()


def _queue_table(slots_max: int) -> QueueTable:
    table = memoryview(bytearray(layout.segment_size(slots_max)))
    hot = memoryview(bytearray(layout.hot_size(slots_max, 1)))
    QueueTable.format(table, slots_max=slots_max, hot_entries=1)
    return QueueTable(table, hot)


def replies(sendings: list[Sending]) -> list[internal.Reply]:
    """The replies among what goes out."""
    return [one.message for one in sendings if isinstance(one.message, internal.Reply)]


def pushes(sendings: list[Sending]) -> list[tuple[int, int, dict[str, str]]]:
    """Pushes among what goes out: (serve, connection, fields); all must be 40."""
    found = [
        (one.serve_index, one.message) for one in sendings if isinstance(one.message, internal.Push)
    ]
    assert all(push.code == RequestCode.NOTIFY_CONSUMER_IDS_CHANGED for _, push in found)
    return [(serve, push.connection, push.ext) for serve, push in found]

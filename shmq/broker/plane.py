"""The state behind all control-plane requests, and what follows from changing it.

Plane holds the tables; the families of requests (topicrequests.py, grouprequests.py,
clientrequests.py, offsetrequests.py, resetrequests.py) are functions of a Plane and a Request;
control.py chooses among them. What others must hear is collected here and sent by the coordinator:
pushes to clients, connections to close, groups that changed, events for the log.

After a restart of the coordinator the members of the groups come back one by one, as the serve
processes replay their heartbeats. `Rebuild` remembers who was there: while a group's members are
not all back, nobody is told of a change and no list of members is given, so that no consumer takes
a queue from one that is only late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from shmq.broker.calls import Calls
from shmq.broker.clients import (
    BROADCASTING,
    CONSUME_ACTIVELY,
    ClientInfo,
    Clients,
    ConnectionId,
    OnlineGroup,
)
from shmq.broker.clients import Subscription as ClientSubscription
from shmq.broker.groups import Groups
from shmq.broker.locks import Locks
from shmq.broker.offsets import Offsets
from shmq.broker.resets import Resets
from shmq.broker.topics import Topics
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.internal import GroupUpdate, GroupView, Push


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a client."""

    code: int
    connection: ConnectionId
    peer: str
    ext: Mapping[str, str]
    body: bytes = b""
    version: int = 0
    language: str = "OTHER"
    now_ms: int

    def client(self, client_id: str) -> ClientInfo:
        """Who asks."""
        return ClientInfo(
            client_id=client_id, peer=self.peer, language=self.language, version=self.version
        )


class Answer(NamedTuple):
    """What a request is answered with."""

    code: int = ResponseCode.SUCCESS
    remark: str | None = None
    ext: dict[str, str] = {}  # noqa: RUF012 (a NamedTuple's default, never changed)
    body: bytes = b""


OK = Answer()
Handler = Callable[["Plane", Request], Answer | None]
"""None: not now; the request is asked again with the next tick."""


class Event(NamedTuple):
    """Something for the log."""

    level: str
    name: str
    facts: dict[str, object]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this broker is."""

    cluster_name: str
    broker_name: str
    address: str
    """"host:port" as clients reach it."""


class RememberedGroup(msgspec.Struct, array_like=True):
    """A group online, as the coordinator's predecessor knew it."""

    name: str
    consume_type: str
    message_model: str
    consume_from_where: str
    client_ids: list[str]
    subscriptions: list[ClientSubscription]
    fingerprint: int


class Rebuild:
    """Which members are still to come back after a restart."""

    def __init__(self, remembered: list[RememberedGroup], *, until_ms: int) -> None:
        self.until_ms = until_ms
        self.expected = {group.name: sorted(set(group.client_ids)) for group in remembered}

    def waits_for(self, group: str, clients: Clients) -> bool:
        """Whether members of this group are missing."""
        return not set(self.expected.get(group, ())) <= set(clients.client_ids(group))


class Plane:
    """The tables of the control plane, and what is to be told because of their changes."""

    def __init__(
        self,
        *,
        identity: Identity,
        topics: Topics,
        groups: Groups,
        offsets: Offsets,
        resets: Resets,
        config_text: Callable[[], str] = str,
        runtime_info: Callable[[], dict[str, str]] = dict,
        first_is_in_memory: Callable[[str, int], bool],
        ask_cleaning: Callable[[int], None] = lambda _code: None,
        offset_at: Callable[[str, int, int], int],
        wall_ms: Callable[[], int],
        server_side_resets: bool = True,
    ) -> None:
        """`offset_at` finds the first message of a topic's queue that was stored at a time, ms."""
        self.identity = identity
        self.topics = topics
        self.groups = groups
        self.offsets = offsets
        self.resets = resets
        self.server_side_resets = server_side_resets
        self.offset_at = offset_at
        self.clients = Clients()
        self.calls = Calls()
        self.locks = Locks()
        self.config_text = config_text
        self.runtime_info = runtime_info
        self.first_is_in_memory = first_is_in_memory
        self.ask_cleaning = ask_cleaning
        """Has housekeeping delete what a request of this code is about."""
        self.wall_ms = wall_ms
        self.started_wall_ms = wall_ms()
        self.pushes: list[tuple[ConnectionId, Push]] = []
        self.disconnects: list[ConnectionId] = []
        self.events: list[Event] = []
        self.members_changed = False
        self._rebuild: Rebuild | None = None
        self._disagreeing: set[str] = set()

    def event(self, level: str, name: str, **facts: object) -> None:
        """Note something for the log."""
        self.events.append(Event(level, name, facts))

    def resume_resets(self) -> None:
        """Begin with the resets that a predecessor left; the tables were loaded before.

        What it has for their queues is from before the reset, or from after it was adopted.
        """
        for group, topic, queue_id, reset in self.resets.all():
            self.offsets.commit(group, topic, queue_id, reset.offset)

    def adopted(
        self, group: str, topic: str, queue_id: int, number: int, *, pulls_at_ms: int | None = None
    ) -> None:
        """A consumer goes on from a reset: it waits no longer, and commits count again.

        `pulls_at_ms`: a pull has shown it, at that time.
        """
        if self.resets.adopt(group, topic, queue_id, number):
            self.groups.changed.add(group)
            online = self.clients.groups.get(group)
            pulls = online is not None and online.consume_type == CONSUME_ACTIVELY
            if pulls_at_ms is not None and pulls:
                self.resets.settle(group, topic, queue_id, now_ms=pulls_at_ms)
            self.event(
                "info", "reset.adopted", group=group, topic=topic, queue_id=queue_id, number=number
            )

    # Members

    def membership_changed(self, group: str) -> None:
        """Tell the members of a group (40), unless they are only coming back."""
        self.members_changed = True
        self.groups.changed.add(group)
        rebuild = self._rebuild
        if rebuild is not None and group in rebuild.expected:
            if rebuild.waits_for(group, self.clients):
                return
            if rebuild.expected.pop(group) == self.clients.client_ids(group):
                return
        self._notify(group)

    def members_are_late(self, group: str) -> bool:
        """Whether members of the group are still expected back after a restart."""
        rebuild = self._rebuild
        return (
            rebuild is not None
            and group in rebuild.expected
            and rebuild.waits_for(group, self.clients)
        )

    def _notify(self, group: str) -> None:
        online = self.clients.groups.get(group)
        config = self.groups.get(group)
        if online is None or online.message_model == BROADCASTING:
            return
        if config is not None and not config.notify_consumer_ids_changed_enable:
            return
        self.remind(group, online.members)

    def remind(self, group: str, connections: Iterable[ConnectionId]) -> None:
        """Have members of a group rebalance (40)."""
        for connection in connections:
            push = Push(
                connection.connection,
                RequestCode.NOTIFY_CONSUMER_IDS_CHANGED,
                {"consumerGroup": group},
            )
            self.pushes.append((connection, push))

    def watch_agreement(self, group: str) -> None:
        """Say in the log when members of a group begin or cease to subscribe differently."""
        online = self.clients.groups.get(group)
        disagree = online is not None and online.members_disagree()
        if disagree == (group in self._disagreeing):
            return
        if online is not None and disagree:
            self._disagreeing.add(group)
            self.event(
                "warning",
                "subscriptions.differed",
                group=group,
                subscriptions=sorted(
                    {(m.client.client_id, *sorted(m.terms)) for m in online.members.values()}
                )[:10],
                hint="members of one group must subscribe the same, else messages are not consumed",
            )
        else:
            self._disagreeing.discard(group)
            self.event("info", "subscriptions.agreed", group=group)

    # Restart

    def remember(self) -> list[RememberedGroup]:
        """Who is online, for a successor of this process."""
        return [
            RememberedGroup(
                name=group.name,
                consume_type=group.consume_type,
                message_model=group.message_model,
                consume_from_where=group.consume_from_where,
                client_ids=self._ids_to_remember(group),
                subscriptions=list(group.subscriptions.values()),
                fingerprint=group.fingerprint,
            )
            for group in self.clients.groups.values()
        ]

    def recall(self, remembered: list[RememberedGroup], *, until_ms: int) -> None:
        """Begin as a successor: the groups are online, their members are expected back."""
        self._rebuild = Rebuild(remembered, until_ms=until_ms)
        for group in remembered:
            self.clients.groups[group.name] = OnlineGroup(
                group.name,
                group.consume_type,
                group.message_model,
                group.consume_from_where,
                subscriptions={sub.topic: sub for sub in group.subscriptions},
                fingerprint=group.fingerprint,
            )
            self.groups.changed.add(group.name)

    def _ids_to_remember(self, group: OnlineGroup) -> list[str]:
        late = self._rebuild.expected.get(group.name, []) if self._rebuild else []
        return sorted({*late, *group.client_ids()})

    # Time

    def tick(self, *, now_ms: int) -> None:
        """What follows from time alone: expired locks and clients, members that stayed away."""
        self.groups.changed.update(self.locks.expire(now_ms=now_ms))
        self.resets.tick(now_ms=now_ms)
        self.calls.tick(now_ms=now_ms)
        lost: set[str] = set()
        for connection in self.clients.silent(now_ms=now_ms):
            self.event("info", "client.expired", connection=connection)
            self.disconnects.append(connection)
            lost.update(self.clients.remove(connection))
        for group in sorted(lost):
            self.membership_changed(group)
        if self._rebuild is not None and now_ms >= self._rebuild.until_ms:
            self._end_rebuild(self._rebuild)

    def _end_rebuild(self, rebuild: Rebuild) -> None:
        self._rebuild = None
        for group, expected in rebuild.expected.items():
            present = self.clients.client_ids(group)
            self.event(
                "info", "members.not_returned", group=group, expected=expected, present=present
            )
            if not present:
                self.clients.groups.pop(group, None)
            self.membership_changed(group)

    # Telling serve

    def take_group_update(self, *, now_ms: int) -> GroupUpdate | None:
        """What changed of the groups since the last call, or None."""
        if not self.groups.changed:
            return None
        changed, self.groups.changed = self.groups.changed, set()
        return GroupUpdate(
            groups=[
                self.group_view(name, now_ms=now_ms)
                for name in sorted(changed)
                if name in self.groups.configs
            ],
            removed=sorted(changed - set(self.groups.configs)),
        )

    def complete_group_update(self, *, now_ms: int) -> GroupUpdate:
        """All groups."""
        return GroupUpdate(
            groups=[self.group_view(name, now_ms=now_ms) for name in self.groups.configs],
            complete=True,
        )

    def group_view(self, name: str, *, now_ms: int) -> GroupView:
        """What serve needs of one group."""
        config = self.groups.configs[name]
        online = self.clients.groups.get(name)
        return GroupView(
            name=name,
            consume_enable=config.consume_enable,
            consume_broadcast_enable=config.consume_broadcast_enable,
            broker_id=config.broker_id,
            which_broker_when_consume_slowly=config.which_broker_when_consume_slowly,
            message_model=online.message_model if online else "",
            consume_type=online.consume_type if online else "",
            retry_queue_nums=config.retry_queue_nums,
            retry_max_times=config.retry_max_times,
            online=online is not None,
            subscriptions=[sub.sub() for sub in online.subscriptions.values()] if online else [],
            holds_locks=self.locks.holds(name, now_ms=now_ms),
            resets=self.resets.of_group(name),
        )

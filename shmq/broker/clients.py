"""Who is online: producers and consumers by their connections, and what the groups subscribe.

A connection is (serve index, number in that serve). A client heartbeats on one connection to this
broker for all its groups; a consume group is online while it has a member. Its subscriptions are
those of its newest heartbeats, by the rules of Apache's broker:

- a topic that is new is added, one with a newer version replaced, one that is missing removed;
- a new member, or a topic added or removed, is a change that the members are told of (40).

So members that subscribe different topics take them away from each other and lose messages
silently; members_disagree() tells.

Source: RocketMQ broker/client/{ConsumerManager,ConsumerGroupInfo,ProducerManager}.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from shmq.units import MINUTE_MS
from shmq.wire.internal import Sub

EXPIRY_MS: Final = 2 * MINUTE_MS
BROADCASTING: Final = "BROADCASTING"
CONSUME_ACTIVELY: Final = "CONSUME_ACTIVELY"
"""Type of pull consumers."""


class ConnectionId(NamedTuple):
    """A client's connection: the serve process that owns it, and its number there."""

    serve_index: int
    connection: int


class ClientInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of itself with each request."""

    client_id: str
    peer: str
    language: str
    version: int


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription of one topic as the client sent it."""

    topic: str
    sub_string: str
    expression_type: str
    tags: tuple[str, ...]
    codes: tuple[int, ...]
    version: int
    class_filter_mode: bool = False

    def sub(self) -> Sub:
        """What serve needs of it."""
        return Sub(
            self.topic, self.expression_type, self.sub_string, list(self.codes), self.version
        )


class ConsumerData(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer of a heartbeat."""

    group: str
    consume_type: str
    message_model: str
    consume_from_where: str
    unit_mode: bool
    subscriptions: dict[str, Subscription] | None
    """None: the client did not send them again (heartbeat V2), keep what is known."""


class Member(msgspec.Struct):
    """A client in a group."""

    client: ClientInfo
    heard_ms: int
    terms: frozenset[tuple[str, str, str]] = frozenset()
    """Its own subscriptions: topic, expression type, expression."""


class OnlineGroup(msgspec.Struct):
    """A consume group that has members."""

    name: str
    consume_type: str
    message_model: str
    consume_from_where: str
    members: dict[ConnectionId, Member] = {}
    subscriptions: dict[str, Subscription] = {}
    fingerprint: int = 0

    def client_ids(self) -> list[str]:
        """Ids of the members, sorted, each once."""
        return sorted({member.client.client_id for member in self.members.values()})

    def members_disagree(self) -> bool:
        """Whether two members subscribe differently."""
        return len({member.terms for member in self.members.values() if member.terms}) > 1


class Registered(NamedTuple):
    """What a heartbeat did to a group."""

    membership_changed: bool
    view_changed: bool
    """Something that serve processes know of the group has changed."""


class Clients:
    """All producers and consumers online."""

    def __init__(self) -> None:
        self.groups: dict[str, OnlineGroup] = {}
        self.producers: dict[str, dict[ConnectionId, Member]] = {}
        self._consumer_groups_of: dict[ConnectionId, set[str]] = {}
        self._producer_groups_of: dict[ConnectionId, set[str]] = {}

    # Heartbeats

    def register_producer(
        self, connection: ConnectionId, group: str, client: ClientInfo, *, now_ms: int
    ) -> None:
        """Enter or refresh a producer."""
        self.producers.setdefault(group, {})[connection] = Member(client, now_ms)
        self._producer_groups_of.setdefault(connection, set()).add(group)

    def register_consumer(
        self, connection: ConnectionId, data: ConsumerData, client: ClientInfo, *, now_ms: int
    ) -> Registered:
        """Enter or refresh a consumer and its subscriptions."""
        group = self.groups.get(data.group)
        is_new_group = group is None
        if group is None:
            group = OnlineGroup(
                data.group, data.consume_type, data.message_model, data.consume_from_where
            )
            self.groups[data.group] = group
        terms_changed = (group.consume_type, group.message_model) != (
            data.consume_type,
            data.message_model,
        )
        group.consume_type = data.consume_type
        group.message_model = data.message_model
        group.consume_from_where = data.consume_from_where
        member = group.members.get(connection)
        is_new_member = member is None or member.client.client_id != client.client_id
        if member is None:
            member = group.members[connection] = Member(client, now_ms)
        member.client, member.heard_ms = client, now_ms
        self._consumer_groups_of.setdefault(connection, set()).add(data.group)
        topics_changed = replaced = False
        if data.subscriptions is not None:
            member.terms = frozenset(
                (sub.topic, sub.expression_type, sub.sub_string)
                for sub in data.subscriptions.values()
            )
            topics_changed, replaced = _subscribe(group, data.subscriptions)
        return Registered(
            membership_changed=is_new_member or topics_changed,
            view_changed=is_new_group or terms_changed or topics_changed or replaced,
        )

    def fingerprint_changed(self, group: str, fingerprint: int) -> bool:
        """Remember the fingerprint of a V2 heartbeat; whether the group's last was another."""
        online = self.groups.get(group)
        if online is None:
            return False
        changed = online.fingerprint not in (0, fingerprint)
        online.fingerprint = fingerprint
        return changed

    # Departures

    def unregister_consumer(self, connection: ConnectionId, group: str) -> bool:
        """Remove this connection from a group; False when it was no member."""
        online = self.groups.get(group)
        if online is None or online.members.pop(connection, None) is None:
            return False
        _forget(self._consumer_groups_of, connection, group)
        if not online.members:
            del self.groups[group]
        return True

    def unregister_producer(self, connection: ConnectionId, group: str) -> bool:
        """Remove this connection from a producer group; False when it was not in it."""
        members = self.producers.get(group)
        if members is None or members.pop(connection, None) is None:
            return False
        _forget(self._producer_groups_of, connection, group)
        if not members:
            del self.producers[group]
        return True

    def remove(self, connection: ConnectionId) -> list[str]:
        """Remove a closed connection; returns the consume groups that lost a member."""
        for group in sorted(self._producer_groups_of.get(connection, ())):
            self.unregister_producer(connection, group)
        lost = sorted(self._consumer_groups_of.get(connection, ()))
        for group in lost:
            self.unregister_consumer(connection, group)
        return lost

    def connections_of(self, serve_index: int) -> list[ConnectionId]:
        """Connections of one serve process that have heartbeated."""
        known = self._consumer_groups_of.keys() | self._producer_groups_of.keys()
        return sorted(connection for connection in known if connection.serve_index == serve_index)

    def silent(self, *, now_ms: int) -> list[ConnectionId]:
        """Connections with a group that was not heartbeated for EXPIRY_MS."""
        found: set[ConnectionId] = set()
        tables = [*self.producers.values(), *(group.members for group in self.groups.values())]
        for members in tables:
            found |= {
                connection
                for connection, member in members.items()
                if now_ms - member.heard_ms > EXPIRY_MS
            }
        return sorted(found)

    # Reading

    def client_ids(self, group: str) -> list[str]:
        """Ids of a group's members, sorted; empty when it is offline."""
        online = self.groups.get(group)
        return online.client_ids() if online else []

    def groups_subscribing(self, topic: str) -> list[str]:
        """Groups online that subscribe the topic, sorted."""
        return sorted(name for name, group in self.groups.items() if topic in group.subscriptions)


def _subscribe(group: OnlineGroup, subscriptions: dict[str, Subscription]) -> tuple[bool, bool]:
    """Apply a member's subscriptions; (topics added or removed, a subscription replaced)."""
    topics_changed = replaced = False
    for topic, subscription in subscriptions.items():
        known = group.subscriptions.get(topic)
        if known is None:
            topics_changed = True
        elif subscription.version > known.version:
            replaced = True
        else:
            continue
        group.subscriptions[topic] = subscription
    for topic in [topic for topic in group.subscriptions if topic not in subscriptions]:
        del group.subscriptions[topic]
        topics_changed = True
    return topics_changed, replaced


def _forget(groups_of: dict[ConnectionId, set[str]], connection: ConnectionId, group: str) -> None:
    groups = groups_of.get(connection, set())
    groups.discard(group)
    if not groups:
        groups_of.pop(connection, None)

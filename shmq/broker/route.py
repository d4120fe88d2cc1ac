"""Route table of a name server: which brokers live, and which topics they serve.

    cluster --> broker names --> BrokerData: broker id -> address
    topic   --> broker name  --> QueueData: queues and permission
    broker  (cluster, address) --> LiveBroker: last sign of life, data version, connection

A broker is live from its registration until it says good-bye, its registering connection closes,
or nothing was heard of it for its heartbeat timeout. Topics are taken from the master of a name,
or, when it has none and its slaves may act for it, from the slave with the lowest id. They are
rewritten only when the data version differs, so that a wiped write permission survives the
periodic registrations.

Nothing here reads a clock, opens a socket or waits. Who must be told that the lowest broker id of
a name has changed (905) is left in a list for the owner to take.

Source: Apache RocketMQ namesrv/routeinfo/RouteInfoManager.java.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from shmq.errors import RequestRefused
from shmq.units import MINUTE_MS
from shmq.wire import route as bodies
from shmq.wire.codes import Perm, ResponseCode

MASTER_ID: Final = 0
HEARTBEAT_TIMEOUT_MS: Final = 2 * MINUTE_MS
BROKERS_MAX: Final = 4096
QUEUE_DATAS_MAX: Final = 1_000_000
NAME_LENGTH_MAX: Final = 255
SYNC_MEMBER_GROUP_PREFIX: Final = "rmq_sys_SYNC_BROKER_MEMBER_"
UNIT_FLAG: Final = 1
UNIT_SUB_FLAG: Final = 2


class BrokerKey(NamedTuple):
    """What tells one broker process from another."""

    cluster: str
    address: str


class Member(NamedTuple):
    """One broker as its own requests name it."""

    cluster: str
    name: str
    address: str
    broker_id: int

    @property
    def key(self) -> BrokerKey:
        """Key of this broker among the live ones."""
        return BrokerKey(self.cluster, self.address)


class LiveBroker(msgspec.Struct):
    """A broker that has registered and not yet left."""

    member: Member
    heard_ms: int
    heartbeat_timeout_ms: int
    data_version: bodies.DataVersion
    connection: int
    ha_address: str


class Registration(msgspec.Struct, kw_only=True):
    """All that a REGISTER_BROKER request says."""

    member: Member
    ha_address: str
    connection: int
    body: bodies.RegisterBody
    heartbeat_timeout_ms: int | None = None
    enable_acting_master: bool | None = None
    """None: an old broker that does not know of acting masters."""
    zone_name: str | None = None


class MasterView(NamedTuple):
    """Where the master of a broker is; both empty when the asker is the master or there is none."""

    address: str = ""
    ha_address: str = ""


class MinBrokerIdChange(NamedTuple):
    """To be sent to `addresses`: the lowest broker id of a name is another one now."""

    addresses: tuple[str, ...]
    broker_name: str
    min_broker_id: int
    min_broker_address: str
    offline_broker_address: str | None
    ha_broker_address: str | None


class RouteTable:
    """Brokers by cluster, name and id; topics by name and broker; signs of life."""

    def __init__(
        self, *, brokers_max: int = BROKERS_MAX, queue_datas_max: int = QUEUE_DATAS_MAX
    ) -> None:
        self._brokers_max = brokers_max
        self._queue_datas_max = queue_datas_max
        self._clusters: dict[str, set[str]] = {}
        self._brokers: dict[str, bodies.BrokerData] = {}
        self._topics: dict[str, dict[str, bodies.QueueData]] = {}
        self._mappings: dict[str, dict[str, dict[str, object]]] = {}
        self._live: dict[BrokerKey, LiveBroker] = {}
        self._filter_servers: dict[BrokerKey, list[str]] = {}
        self._queue_datas_count = 0
        self._changes: list[MinBrokerIdChange] = []

    # Registration

    def register(
        self, registration: Registration, *, now_ms: int, delete_missing_topics: bool = False
    ) -> MasterView:
        """Enter or refresh a broker and take over its topics.

        Raises:
            RequestRefused: a first registration with one topic only, a name that is too long, or
                more brokers or topics than this name server may hold.
        """
        member = registration.member
        table = registration.body.topic_config_serialize_wrapper
        self._check_room(member, table)
        broker = self._brokers.get(member.name)
        previous_ids = sorted(broker.broker_addrs) if broker else []
        known_id = broker is not None and broker.broker_addrs.get(member.broker_id)
        if broker is not None and self._is_outranked(registration, broker):
            self._live.pop(member.key, None)
            return MasterView()
        if not known_id and len(table.topic_config_table) == 1:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "register broker failed: the first registration must hold two topics or more",
                broker_name=member.name,
                broker_addr=member.address,
                topics=1,
            )
        broker = self._enter(registration)
        self._take_topics(
            registration, broker, first=not known_id, delete_missing=delete_missing_topics
        )
        self._note_life(registration, now_ms)
        if previous_ids and member.broker_id < previous_ids[0]:
            self._note_change(broker, offline_address=None, ha_address=registration.ha_address)
        return self._master_for(member, broker)

    def _check_room(self, member: Member, table: bodies.TopicTable) -> None:
        for name in (member.cluster, member.name, member.address, *table.topic_config_table):
            _check_name(name)
        if member.key not in self._live and len(self._live) >= self._brokers_max:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "register broker failed: too many brokers",
                brokers_max=self._brokers_max,
            )
        room = self._queue_datas_max - self._queue_datas_count
        new_count = sum(
            member.name not in self._topics.get(topic, {}) for topic in table.topic_config_table
        )
        if new_count > room:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "register broker failed: too many topics",
                new_topics=new_count,
                room=room,
                queue_datas_max=self._queue_datas_max,
            )

    def _is_outranked(self, registration: Registration, broker: bodies.BrokerData) -> bool:
        """Whether another live broker holds this id with a higher state version."""
        member = registration.member
        holder_address = broker.broker_addrs.get(member.broker_id)
        if holder_address is None or holder_address == member.address:
            return False
        holder = self._live.get(BrokerKey(member.cluster, holder_address))
        if holder is None:
            return False
        wrapper = registration.body.topic_config_serialize_wrapper
        return holder.data_version.state_version > wrapper.data_version.state_version

    def _enter(self, registration: Registration) -> bodies.BrokerData:
        member = registration.member
        self._clusters.setdefault(member.cluster, set()).add(member.name)
        broker = self._brokers.get(member.name)
        if broker is None:
            broker = bodies.BrokerData(broker_name=member.name, cluster=member.cluster)
            self._brokers[member.name] = broker
        broker.enable_acting_master = bool(registration.enable_acting_master)
        broker.zone_name = UNSET if registration.zone_name is None else registration.zone_name
        # One address has one id: a slave that became master moves.
        for broker_id, address in list(broker.broker_addrs.items()):
            if address == member.address and broker_id != member.broker_id:
                del broker.broker_addrs[broker_id]
        broker.broker_addrs[member.broker_id] = member.address
        return broker

    def _take_topics(
        self,
        registration: Registration,
        broker: bodies.BrokerData,
        *,
        first: bool,
        delete_missing: bool,
    ) -> None:
        member = registration.member
        is_master = member.broker_id == MASTER_ID
        is_prime_slave = (
            registration.enable_acting_master is not None
            and not is_master
            and member.broker_id == min(broker.broker_addrs)
        )
        if not is_master and not is_prime_slave:
            return
        wrapper = registration.body.topic_config_serialize_wrapper
        changed = first or self.is_changed(member.key, wrapper.data_version)
        if delete_missing and not wrapper.topic_queue_mapping_info_map:
            for topic in self._topics_of_broker(member.name) - set(wrapper.topic_config_table):
                self._remove_queue_data(topic, member.name)
        read_only = is_prime_slave and broker.enable_acting_master
        for name, config in wrapper.topic_config_table.items():
            if not changed and member.name in self._topics.get(name, {}):
                continue
            perm = config.perm & ~Perm.WRITE if read_only else config.perm
            self._put_queue_data(
                name,
                bodies.QueueData(
                    broker_name=member.name,
                    perm=perm,
                    read_queue_nums=config.read_queue_nums,
                    topic_sys_flag=config.topic_sys_flag,
                    write_queue_nums=config.write_queue_nums,
                ),
            )
        if changed:
            for name, mapping in wrapper.topic_queue_mapping_info_map.items():
                self._mappings.setdefault(name, {})[member.name] = mapping

    def _note_life(self, registration: Registration, now_ms: int) -> None:
        member = registration.member
        timeout_ms = registration.heartbeat_timeout_ms
        self._live[member.key] = LiveBroker(
            member=member,
            heard_ms=now_ms,
            heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS if timeout_ms is None else timeout_ms,
            data_version=registration.body.topic_config_serialize_wrapper.data_version,
            connection=registration.connection,
            ha_address=registration.ha_address,
        )
        if registration.body.filter_server_list:
            self._filter_servers[member.key] = registration.body.filter_server_list
        else:
            self._filter_servers.pop(member.key, None)

    def _master_for(self, member: Member, broker: bodies.BrokerData) -> MasterView:
        master_address = broker.broker_addrs.get(MASTER_ID)
        if member.broker_id == MASTER_ID or master_address is None:
            return MasterView()
        master = self._live.get(BrokerKey(member.cluster, master_address))
        if master is None:
            return MasterView()
        return MasterView(address=master_address, ha_address=master.ha_address)

    def register_topic(self, topic: str, queue_datas: list[bodies.QueueData]) -> None:
        """Add queues of one topic; those of brokers that are not registered are left out."""
        known = [queues for queues in queue_datas if queues.broker_name in self._brokers]
        room = self._queue_datas_max - self._queue_datas_count
        _check_name(topic)
        if len(known) > room:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "register topic failed: too many topics",
                new_topics=len(known),
                room=room,
                queue_datas_max=self._queue_datas_max,
            )
        for queues in known:
            self._put_queue_data(topic, queues)

    # Life and death

    def heard(self, key: BrokerKey, *, now_ms: int) -> None:
        """Note a sign of life; of a broker that never registered it is ignored."""
        broker = self._live.get(key)
        if broker is not None:
            broker.heard_ms = now_ms

    def is_changed(self, key: BrokerKey, version: bodies.DataVersion) -> bool:
        """Whether the topics of this broker are unknown here or of another version."""
        return self.data_version(key) != version

    def data_version(self, key: BrokerKey) -> bodies.DataVersion | None:
        """Version of the topics that this broker last registered; None when it is not live."""
        broker = self._live.get(key)
        return None if broker is None else broker.data_version

    def expire(self, *, now_ms: int) -> list[LiveBroker]:
        """Remove and return the brokers that were silent for longer than they promised."""
        silent = [
            broker
            for broker in self._live.values()
            if broker.heard_ms + broker.heartbeat_timeout_ms < now_ms
        ]
        self.unregister([broker.member for broker in silent])
        return silent

    def connection_closed(self, connection: int) -> list[Member]:
        """Remove and return the brokers whose last registration came over this connection."""
        gone = [broker.member for broker in self._live.values() if broker.connection == connection]
        self.unregister(gone)
        return gone

    def unregister(self, members: list[Member]) -> None:
        """Take brokers out, and the topics that no broker serves any more."""
        removed: set[str] = set()
        reduced: set[str] = set()
        for member in members:
            self._live.pop(member.key, None)
            self._filter_servers.pop(member.key, None)
            if self._leave(member):
                removed.add(member.name)
            else:
                reduced.add(member.name)
        for topic in list(self._topics):
            for name in removed & self._topics[topic].keys():
                self._remove_queue_data(topic, name)
        for name in reduced - removed:
            self._wipe_for_acting_master(name)

    def _leave(self, member: Member) -> bool:
        """Take one broker out of its name; True when the name is empty now."""
        broker = self._brokers.get(member.name)
        if broker is None:
            return True
        lowest_id = min(broker.broker_addrs)
        for broker_id, address in list(broker.broker_addrs.items()):
            if address == member.address:
                del broker.broker_addrs[broker_id]
        if broker.broker_addrs:
            if min(broker.broker_addrs) != lowest_id:
                self._note_change(broker, offline_address=member.address, ha_address=None)
            return False
        del self._brokers[member.name]
        for cluster, names in list(self._clusters.items()):
            names.discard(member.name)
            if not names:
                del self._clusters[cluster]
        return True

    def _wipe_for_acting_master(self, name: str) -> None:
        broker = self._brokers.get(name)
        if broker is None or not broker.enable_acting_master or MASTER_ID in broker.broker_addrs:
            return
        for queue_datas in self._topics.values():
            if name in queue_datas:
                queue_datas[name].perm &= ~Perm.WRITE

    def _note_change(
        self, broker: bodies.BrokerData, *, offline_address: str | None, ha_address: str | None
    ) -> None:
        lowest_id = min(broker.broker_addrs)
        told = [
            address
            for broker_id, address in sorted(broker.broker_addrs.items())
            if offline_address is not None
            or len(broker.broker_addrs) == 1
            or broker_id != lowest_id
        ]
        self._changes.append(
            MinBrokerIdChange(
                addresses=tuple(told),
                broker_name=broker.broker_name,
                min_broker_id=lowest_id,
                min_broker_address=broker.broker_addrs[lowest_id],
                offline_broker_address=offline_address,
                ha_broker_address=ha_address,
            )
        )

    def take_changes(self) -> list[MinBrokerIdChange]:
        """Changes of lowest broker ids since the last call."""
        changes, self._changes = self._changes, []
        return changes

    # Topics

    def _put_queue_data(self, topic: str, queues: bodies.QueueData) -> None:
        by_name = self._topics.setdefault(topic, {})
        self._queue_datas_count += queues.broker_name not in by_name
        by_name[queues.broker_name] = queues

    def _remove_queue_data(self, topic: str, name: str) -> None:
        by_name = self._topics.get(topic, {})
        if by_name.pop(name, None) is not None:
            self._queue_datas_count -= 1
        mappings = self._mappings.get(topic, {})
        mappings.pop(name, None)
        if not by_name:
            self._topics.pop(topic, None)
        if not mappings:
            self._mappings.pop(topic, None)

    def _topics_of_broker(self, name: str) -> set[str]:
        return {topic for topic, queue_datas in self._topics.items() if name in queue_datas}

    def delete_topic(self, topic: str, *, cluster: str | None = None) -> None:
        """Forget a topic, everywhere or on the brokers of one cluster."""
        names = set(self._topics.get(topic, {}))
        if cluster:
            names &= self._clusters.get(cluster, set())
        for name in names:
            self._remove_queue_data(topic, name)

    def wipe_write_perm(self, name: str) -> int:
        """Take the write permission from all topics of a broker name; the count of topics."""
        topics = self._topics_of_broker(name)
        for topic in topics:
            self._topics[topic][name].perm &= ~Perm.WRITE
        return len(topics)

    def add_write_perm(self, name: str) -> int:
        """Make all topics of a broker name readable and writable; the count of topics."""
        topics = self._topics_of_broker(name)
        for topic in topics:
            self._topics[topic][name].perm = Perm.READ | Perm.WRITE
        return len(topics)

    # Answers

    def route(
        self, topic: str, *, support_acting_master: bool = False
    ) -> bodies.TopicRouteData | None:
        """Where a topic lives; None when no registered broker serves it."""
        queue_datas = self._topics.get(topic)
        if not queue_datas:
            return None
        brokers = [self._brokers[name] for name in sorted(queue_datas) if name in self._brokers]
        if not brokers:
            return None
        found = bodies.TopicRouteData(
            broker_datas=[_sorted_copy(broker) for broker in brokers],
            queue_datas=[queue_datas[name] for name in sorted(queue_datas)],
        )
        for broker in brokers:
            for address in broker.broker_addrs.values():
                servers = self._filter_servers.get(BrokerKey(broker.cluster, address))
                if servers:
                    found.filter_server_table[address] = servers
        if topic in self._mappings:
            found.topic_queue_mapping_by_broker = self._mappings[topic]
        if support_acting_master and not topic.startswith(SYNC_MEMBER_GROUP_PREFIX):
            _present_acting_masters(found)
        return found

    def cluster_info(self) -> bodies.ClusterInfo:
        """All brokers and clusters."""
        return bodies.ClusterInfo(
            broker_addr_table={
                name: _sorted_copy(broker) for name, broker in sorted(self._brokers.items())
            },
            cluster_addr_table={
                cluster: sorted(names) for cluster, names in sorted(self._clusters.items())
            },
        )

    def members(self, *, cluster: str, name: str) -> bodies.BrokerMemberGroup:
        """Addresses of one broker name; none when it is unknown."""
        broker = self._brokers.get(name)
        addresses = {} if broker is None else dict(sorted(broker.broker_addrs.items()))
        return bodies.BrokerMemberGroup(broker_addrs=addresses, broker_name=name, cluster=cluster)

    def live(self) -> list[LiveBroker]:
        """Every live broker."""
        return list(self._live.values())

    def topics(self) -> list[str]:
        """Names of all topics."""
        return sorted(self._topics)

    def topics_of_cluster(self, cluster: str) -> list[str]:
        """Names of the topics that live on brokers of one cluster."""
        names = self._clusters.get(cluster, set())
        return [topic for topic in self.topics() if names & self._topics[topic].keys()]

    def system_topics(self) -> tuple[list[str], str]:
        """Names of clusters and brokers, which are topics too; and the address of a broker."""
        names: list[str] = []
        for cluster in sorted(self._clusters):
            names += [cluster, *sorted(self._clusters[cluster])]
        for name in sorted(self._brokers):
            addresses = self._brokers[name].broker_addrs
            return names, addresses[min(addresses)]
        return names, ""

    def topics_by_flags(self, *, unit: bool | None, unit_sub: bool | None) -> list[str]:
        """Names of the topics whose unit flags are as asked; None: either."""
        found = []
        for topic in self.topics():
            flags = next(iter(self._topics[topic].values())).topic_sys_flag
            if unit is not None and bool(flags & UNIT_FLAG) != unit:
                continue
            if unit_sub is not None and bool(flags & UNIT_SUB_FLAG) != unit_sub:
                continue
            found.append(topic)
        return found


def _check_name(name: str) -> None:
    """Refuse what no cluster, broker, address or topic can be called."""
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        raise RequestRefused(
            ResponseCode.SYSTEM_ERROR,
            "register failed: a name is empty, too long or not printable",
            name=ascii(name[:NAME_LENGTH_MAX]),
            length=len(name),
            length_max=NAME_LENGTH_MAX,
        )


def _sorted_copy(broker: bodies.BrokerData) -> bodies.BrokerData:
    return msgspec.structs.replace(broker, broker_addrs=dict(sorted(broker.broker_addrs.items())))


def _present_acting_masters(route: bodies.TopicRouteData) -> None:
    """Show the lowest slave as id 0 where a master is gone and the topic is read-only."""
    queue_datas = {queues.broker_name: queues for queues in route.queue_datas}
    for broker in route.broker_datas:
        addresses = broker.broker_addrs
        if not addresses or MASTER_ID in addresses or not broker.enable_acting_master:
            continue
        if not queue_datas[broker.broker_name].perm & Perm.WRITE:
            lowest_address = addresses.pop(min(addresses))
            broker.broker_addrs = {MASTER_ID: lowest_address, **addresses}

"""What each request to a name server means: one table from request code to answer.

The object holds the route table and the key-value settings. It reads no clock, opens no socket and
writes no file: the time of each request, the number of its connection and the function that keeps
the key-value settings are handed in. What has to be sent to brokers without being asked (905) is
taken with `take_notices()`.

    from clients     105 route, 106 clusters, 206 224 304 311 312 313 lists of topics
    from brokers     103 register, 104 leave, 322 data version, 904 heartbeat, 217 one topic,
                     901 members
    from operators   100 101 102 219 key-value settings, 205 327 write permission, 216 delete
                     topic, 318 319 options of this name server

Source: Apache RocketMQ namesrv/processor/{ClientRequest,Default}RequestProcessor.java,
namesrv/kvconfig/KVConfigManager.java, namesrv/route/ZoneRouteRPCHook.java.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from shmq.broker.route import (
    BrokerKey,
    LiveBroker,
    Member,
    MinBrokerIdChange,
    Registration,
    RouteTable,
)
from shmq.errors import ProtocolError, RequestRefused, StoreError
from shmq.units import SECOND_MS
from shmq.wire import route as bodies
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import Header, answer

ORDER_TOPIC_CONFIG: Final = "ORDER_TOPIC_CONFIG"
ZONE_NAME: Final = "__ZONE_NAME"
ZONE_MODE: Final = "__ZONE_MODE"
CRC_MASK: Final = 0x7FFFFFFF
KV_COUNT_MAX: Final = 100_000
KV_TEXT_LENGTH_MAX: Final = 64 * 1024

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
_NUMBER: Final = re.compile(r"-?[0-9]{1,19}")

KvTable = dict[str, dict[str, str]]
Answer = tuple[Header, bytes]


class Options(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Options of a name server, by the names that Apache's has; 318 changes them until it ends."""

    order_message_enable: bool = False
    return_order_topic_config_to_broker: bool = True
    enable_all_topic_list: bool = True
    enable_topic_list: bool = True
    notify_min_broker_id_changed: bool = False
    support_acting_master: bool = False
    delete_topic_with_broker_registration: bool = False
    need_wait_for_service: bool = False
    wait_seconds_for_service: int = 45


OPTIONS_BLACK_LIST: Final = frozenset(
    {
        "configBlackList",
        "configStorePath",
        "kvConfigPath",
        "rocketmqHome",
        "bindAddress",
        "listenPort",
    }
)


class Notice(NamedTuple):
    """A one-way request that this name server has to send to the broker at `address`."""

    address: str
    header: Header


class Request(NamedTuple):
    """A request as the methods below get it."""

    header: Header
    body: bytes
    connection: int
    now_ms: int

    def text(self, name: str) -> str:
        """A field that must be there."""
        value = self.header.ext.get(name)
        if value is None:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "a field of the request is missing",
                field=name,
                found=sorted(self.header.ext),
            )
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """A field that is decimal text; refused when it is missing without a default."""
        if default is not None and not self.header.ext.get(name):
            return default
        value = self.text(name)
        if _NUMBER.fullmatch(value) is None or not INT64_MIN <= int(value) <= INT64_MAX:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "a field of the request is not a number",
                field=name,
                found=value[:80],
                allowed=(INT64_MIN, INT64_MAX),
            )
        return int(value)

    def truth(self, name: str) -> bool:
        """A field that is "true" in any case of letters, or else counts as false."""
        return self.header.ext.get(name, "").lower() == "true"

    def member(self) -> Member:
        """The broker that sent the request."""
        return Member(
            cluster=self.text("clusterName"),
            name=self.text("brokerName"),
            address=self.text("brokerAddr"),
            broker_id=self.number("brokerId"),
        )

    def done(self, body: bytes = b"", ext: dict[str, str] | None = None) -> Answer:
        """A success with the given body and fields."""
        return answer(self.header, ResponseCode.SUCCESS, ext=ext), body


class NameServer:
    """Routes and key-value settings, asked by requests."""

    def __init__(
        self,
        *,
        save_kv: Callable[[KvTable], None],
        kv: KvTable | None = None,
        routes: RouteTable | None = None,
        options: Options | None = None,
        started_ms: int = 0,
    ) -> None:
        self.routes = RouteTable() if routes is None else routes
        self.options = Options() if options is None else options
        self._kv: KvTable = {} if kv is None else kv
        self._save_kv = save_kv
        self._started_ms = started_ms
        self._notices: list[Notice] = []
        self._by_code: dict[int, Callable[[Request], Answer]] = {
            RequestCode.PUT_KV_CONFIG: self._put_kv,
            RequestCode.GET_KV_CONFIG: self._get_kv,
            RequestCode.DELETE_KV_CONFIG: self._delete_kv,
            RequestCode.GET_KVLIST_BY_NAMESPACE: self._list_kv,
            RequestCode.REGISTER_BROKER: self._register,
            RequestCode.UNREGISTER_BROKER: self._unregister,
            RequestCode.BROKER_HEARTBEAT: self._heartbeat,
            RequestCode.QUERY_DATA_VERSION: self._query_data_version,
            RequestCode.REGISTER_TOPIC_IN_NAMESRV: self._register_topic,
            RequestCode.GET_BROKER_MEMBER_GROUP: self._member_group,
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self._route,
            RequestCode.GET_BROKER_CLUSTER_INFO: self._cluster_info,
            RequestCode.WIPE_WRITE_PERM_OF_BROKER: self._wipe_write_perm,
            RequestCode.ADD_WRITE_PERM_OF_BROKER: self._add_write_perm,
            RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: self._all_topics,
            RequestCode.DELETE_TOPIC_IN_NAMESRV: self._delete_topic,
            RequestCode.GET_TOPICS_BY_CLUSTER: self._topics_by_cluster,
            RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS: self._system_topics,
            RequestCode.GET_UNIT_TOPIC_LIST: self._unit_topics,
            RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST: self._unit_sub_topics,
            RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST: self._unit_sub_ununit_topics,
            RequestCode.UPDATE_NAMESRV_CONFIG: self._update_options,
            RequestCode.GET_NAMESRV_CONFIG: self._show_options,
        }

    def process(self, header: Header, body: bytes, *, connection: int, now_ms: int) -> Answer:
        """Answer one request; whoever owns the connection drops answers to one-way requests."""
        method = self._by_code.get(header.code)
        if method is None:
            return _refusal(
                header,
                ResponseCode.REQUEST_CODE_NOT_SUPPORTED,
                f" request type {header.code} not supported",
            )
        try:
            return method(Request(header, body, connection, now_ms))
        except RequestRefused as error:
            return _refusal(header, error.code, str(error))
        except (ProtocolError, StoreError) as error:
            return _refusal(header, ResponseCode.SYSTEM_ERROR, str(error))

    def connection_closed(self, connection: int) -> list[Member]:
        """Remove and return the brokers that registered over this connection."""
        gone = self.routes.connection_closed(connection)
        self._collect_notices()
        return gone

    def expire(self, *, now_ms: int) -> list[LiveBroker]:
        """Remove and return the brokers of which nothing was heard; close their connections."""
        silent = self.routes.expire(now_ms=now_ms)
        self._collect_notices()
        return silent

    def take_notices(self) -> list[Notice]:
        """What has to be sent to brokers, since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def _collect_notices(self) -> None:
        changes = self.routes.take_changes()
        if not self.options.notify_min_broker_id_changed:
            return
        for change in changes:
            header = _notice_header(change)
            self._notices += [Notice(address, header) for address in change.addresses]

    # Brokers

    def _register(self, request: Request) -> Answer:
        ext = request.header.ext
        expected_crc = request.number("bodyCrc32", 0)
        computed_crc = zlib.crc32(request.body) & CRC_MASK
        if expected_crc not in (0, computed_crc):
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "crc32 not match",
                header_crc=expected_crc,
                body_crc=computed_crc,
                body_size=len(request.body),
            )
        body = bodies.decode_register_body(
            request.body, version=request.header.version, compressed=request.truth("compressed")
        )
        timeout_ms = request.number("heartbeatTimeoutMillis", -1)
        acting = request.truth("enableActingMaster") if "enableActingMaster" in ext else None
        master = self.routes.register(
            Registration(
                member=request.member(),
                ha_address=request.text("haServerAddr"),
                connection=request.connection,
                body=body,
                heartbeat_timeout_ms=timeout_ms if timeout_ms > 0 else None,
                enable_acting_master=acting,
                zone_name=ext.get(ZONE_NAME),
            ),
            now_ms=request.now_ms,
            delete_missing_topics=self.options.delete_topic_with_broker_registration,
        )
        self._collect_notices()
        fields = {}
        if master.address:
            fields = {"haServerAddr": master.ha_address, "masterAddr": master.address}
        order = self._kv.get(ORDER_TOPIC_CONFIG)
        if order is None or not self.options.return_order_topic_config_to_broker:
            return request.done(ext=fields)
        return request.done(bodies.encode(bodies.KVTable(table=order)), fields)

    def _unregister(self, request: Request) -> Answer:
        self.routes.unregister([request.member()])
        self._collect_notices()
        return request.done()

    def _heartbeat(self, request: Request) -> Answer:
        key = BrokerKey(request.text("clusterName"), request.text("brokerAddr"))
        self.routes.heard(key, now_ms=request.now_ms)
        return request.done()

    def _query_data_version(self, request: Request) -> Answer:
        key = BrokerKey(request.text("clusterName"), request.text("brokerAddr"))
        known = self.routes.data_version(key)
        changed = known != bodies.decode(request.body, bodies.DataVersion)
        self.routes.heard(key, now_ms=request.now_ms)
        body = b"" if known is None else bodies.encode(known)
        return request.done(body, {"changed": "true" if changed else "false"})

    def _register_topic(self, request: Request) -> Answer:
        data = bodies.decode(request.body, bodies.TopicRouteData)
        self.routes.register_topic(request.text("topic"), data.queue_datas)
        return request.done()

    def _member_group(self, request: Request) -> Answer:
        group = self.routes.members(
            cluster=request.text("clusterName"), name=request.text("brokerName")
        )
        return request.done(bodies.encode(bodies.MemberGroupBody(broker_member_group=group)))

    # Clients

    def _route(self, request: Request) -> Answer:
        waited_ms = request.now_ms - self._started_ms
        if (
            self.options.need_wait_for_service
            and waited_ms < self.options.wait_seconds_for_service * SECOND_MS
        ):
            raise RequestRefused(ResponseCode.SYSTEM_ERROR, "name server not ready")
        topic = request.text("topic")
        route = self.routes.route(topic, support_acting_master=self.options.support_acting_master)
        if route is None:
            raise RequestRefused(
                ResponseCode.TOPIC_NOT_EXIST,
                f"No topic route info in name server for the topic: {topic}; create the topic, "
                "or check that its broker registers with this name server",
            )
        if self.options.order_message_enable:
            order = self._kv.get(ORDER_TOPIC_CONFIG, {}).get(topic)
            if order is not None:
                route.order_topic_conf = order
        zone = request.header.ext.get(ZONE_NAME, "").strip()
        if zone and request.truth(ZONE_MODE):
            _keep_zone(route, zone)
        return request.done(bodies.encode(route))

    def _cluster_info(self, request: Request) -> Answer:
        return request.done(bodies.encode(self.routes.cluster_info()))

    # Topics

    def _all_topics(self, request: Request) -> Answer:
        if not self.options.enable_all_topic_list:
            raise RequestRefused(ResponseCode.SYSTEM_ERROR, "disable")
        return _topic_list(request, self.routes.topics())

    def _topics_by_cluster(self, request: Request) -> Answer:
        self._need_topic_list()
        return _topic_list(request, self.routes.topics_of_cluster(request.text("cluster")))

    def _system_topics(self, request: Request) -> Answer:
        topics, address = self.routes.system_topics()
        return _topic_list(request, topics, address)

    def _unit_topics(self, request: Request) -> Answer:
        self._need_topic_list()
        return _topic_list(request, self.routes.topics_by_flags(unit=True, unit_sub=None))

    def _unit_sub_topics(self, request: Request) -> Answer:
        self._need_topic_list()
        return _topic_list(request, self.routes.topics_by_flags(unit=None, unit_sub=True))

    def _unit_sub_ununit_topics(self, request: Request) -> Answer:
        self._need_topic_list()
        return _topic_list(request, self.routes.topics_by_flags(unit=False, unit_sub=True))

    def _need_topic_list(self) -> None:
        if not self.options.enable_topic_list:
            raise RequestRefused(ResponseCode.SYSTEM_ERROR, "disable")

    def _delete_topic(self, request: Request) -> Answer:
        cluster = request.header.ext.get("clusterName") or None
        self.routes.delete_topic(request.text("topic"), cluster=cluster)
        return request.done()

    def _wipe_write_perm(self, request: Request) -> Answer:
        count = self.routes.wipe_write_perm(request.text("brokerName"))
        return request.done(ext={"wipeTopicCount": str(count)})

    def _add_write_perm(self, request: Request) -> Answer:
        count = self.routes.add_write_perm(request.text("brokerName"))
        return request.done(ext={"addTopicCount": str(count)})

    # Key-value settings

    def _put_kv(self, request: Request) -> Answer:
        namespace, key, value = (request.text(name) for name in ("namespace", "key", "value"))
        longest = max(len(namespace), len(key), len(value))
        count = sum(len(table) for table in self._kv.values())
        if not namespace or not key or longest > KV_TEXT_LENGTH_MAX or count >= KV_COUNT_MAX:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "key-value setting refused: empty name, too long or too many",
                longest=longest,
                length_max=KV_TEXT_LENGTH_MAX,
                count=count,
                count_max=KV_COUNT_MAX,
            )
        self._keep_kv({**self._kv, namespace: {**self._kv.get(namespace, {}), key: value}})
        return request.done()

    def _get_kv(self, request: Request) -> Answer:
        namespace, key = request.text("namespace"), request.text("key")
        value = self._kv.get(namespace, {}).get(key)
        if value is None:
            raise RequestRefused(
                ResponseCode.QUERY_NOT_FOUND,
                f"No config item, Namespace: {namespace} Key: {key}",
            )
        return request.done(ext={"value": value})

    def _delete_kv(self, request: Request) -> Answer:
        namespace, key = request.text("namespace"), request.text("key")
        if key in self._kv.get(namespace, {}):
            left = {name: text for name, text in self._kv[namespace].items() if name != key}
            self._keep_kv({**self._kv, namespace: left})
        return request.done()

    def _keep_kv(self, changed: KvTable) -> None:
        """Save first: what was confirmed is on disk, and a failed save changes nothing."""
        self._save_kv(changed)
        self._kv = changed

    def _list_kv(self, request: Request) -> Answer:
        namespace = request.text("namespace")
        table = self._kv.get(namespace)
        if table is None:
            raise RequestRefused(
                ResponseCode.QUERY_NOT_FOUND, f"No config item, Namespace: {namespace}"
            )
        return request.done(bodies.encode(bodies.KVTable(table=table)))

    # Options

    def _update_options(self, request: Request) -> Answer:
        pairs = _parse_properties(request.body)
        black = sorted(pairs.keys() & OPTIONS_BLACK_LIST)
        if black:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION, "Can not update config in black list.", found=black
            )
        known = _option_names()
        unknown = sorted(pairs.keys() - known.keys())
        if unknown:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "no option of the name server",
                found=unknown,
                allowed=sorted(known),
            )
        merged = {**msgspec.to_builtins(self.options), **pairs}
        try:
            self.options = msgspec.convert(merged, Options, strict=False)
        except msgspec.ValidationError as error:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR, "value of an option", cause=str(error)
            ) from None
        return request.done()

    def _show_options(self, request: Request) -> Answer:
        lines = [
            f"{name}={str(value).lower()}\n"
            for name, value in msgspec.to_builtins(self.options).items()
        ]
        return request.done("".join(lines).encode())


def _option_names() -> dict[str, str]:
    """Names of options as they stand in requests, each with the name of its field."""
    return {field.encode_name: field.name for field in msgspec.structs.fields(Options)}


def _parse_properties(text: bytes) -> dict[str, str]:
    """Pairs of a Java properties text, as far as operators' tools write it."""
    try:
        lines = text.decode().splitlines()
    except UnicodeDecodeError as error:
        raise RequestRefused(
            ResponseCode.SYSTEM_ERROR, "string2Properties error", cause=str(error)
        ) from None
    pairs = {}
    for line in lines:
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        name, equals, value = stripped.partition("=")
        if not equals:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR, "string2Properties error", found=stripped[:80]
            )
        pairs[name.strip()] = value.strip()
    return pairs


def _topic_list(request: Request, topics: list[str], address: str = "") -> Answer:
    body = bodies.TopicList(topic_list=topics)
    if address:
        body.broker_addr = address
    return request.done(bodies.encode(body))


def _keep_zone(route: bodies.TopicRouteData, zone: str) -> None:
    """Leave out of a route the brokers that name another zone."""
    kept = [broker for broker in route.broker_datas if broker.zone_name in (msgspec.UNSET, zone)]
    gone = [broker for broker in route.broker_datas if broker not in kept]
    names = {broker.broker_name for broker in kept}
    route.broker_datas = kept
    route.queue_datas = [queues for queues in route.queue_datas if queues.broker_name in names]
    for broker in gone:
        for address in broker.broker_addrs.values():
            route.filter_server_table.pop(address, None)


def _notice_header(change: MinBrokerIdChange) -> Header:
    ext = {
        "minBrokerId": str(change.min_broker_id),
        "brokerName": change.broker_name,
        "minBrokerAddr": change.min_broker_address,
    }
    if change.offline_broker_address is not None:
        ext["offlineBrokerAddr"] = change.offline_broker_address
    if change.ha_broker_address is not None:
        ext["haBrokerAddr"] = change.ha_broker_address
    return Header(code=RequestCode.NOTIFY_MIN_BROKER_ID_CHANGE, flag=2, ext=ext)


def _refusal(header: Header, code: int, remark: str) -> Answer:
    return answer(header, code, remark=remark), b""

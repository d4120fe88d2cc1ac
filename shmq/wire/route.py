"""Bodies that carry routes: what a broker registers and what a name server answers.

All are JSON. The fields stand in alphabetical order, as Java writes them, so that an answer of
ours has the bytes of an answer of Apache's; broker ids are quoted keys, and nothing is blank (the
Go client cuts the raw text at ',' and ':'). On input everything that the two fastjson generations
write is taken (see wire/jsonish.py), nulls count as absent and unknown fields are ignored.

    request                         body in                 body out
    103 REGISTER_BROKER             RegisterBody            KVTable
    105 GET_ROUTEINFO_BY_TOPIC      -                       TopicRouteData
    106 GET_BROKER_CLUSTER_INFO     -                       ClusterInfo
    217 REGISTER_TOPIC_IN_NAMESRV   TopicRouteData          -
    219 GET_KVLIST_BY_NAMESPACE     -                       KVTable
    322 QUERY_DATA_VERSION          DataVersion             DataVersion
    901 GET_BROKER_MEMBER_GROUP     -                       MemberGroupBody
    206, 224, 304, 311..313         -                       TopicList

A compressed register body is a zlib stream of the following, integers big-endian:

    size  field                                    repeated
     4+n  DataVersion as JSON                      once
       4  topic count
     4+n  "name read write perm filter attributes" for each topic; attributes are JSON
     4+n  list of filter servers as JSON           once
       4  mapping count                            from version V5_0_0 on
     4+n  TopicQueueMappingInfo as JSON            for each mapping

Source: Apache RocketMQ remoting/protocol/{route,body,header/namesrv}.
"""

from __future__ import annotations

import struct
import zlib
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shmq.errors import ProtocolError
from shmq.units import MiB
from shmq.wire import jsonish

VERSION_MODERN_BODY: Final = 37
"""First version (V3_0_11) whose register body wraps the topic table; before it is the body."""
VERSION_STATIC_TOPICS: Final = 413
"""First version (V5_0_0) whose compressed register body ends with static-topic mappings."""
INFLATED_SIZE_MAX: Final = 64 * MiB

_INT: Final = struct.Struct(">i")
_TOPIC_FIELDS_MIN: Final = 5

# Java's ranges: a larger number would be taken in and then could not be written out again.
Int32: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

T = TypeVar("T")


class DataVersion(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Version of a topic table; two are equal when all three numbers are."""

    counter: Int64 = 0
    state_version: Int64 = 0
    timestamp: Int64 = 0


class TopicConfig(msgspec.Struct, kw_only=True, rename="camel"):
    """A topic as its broker has it."""

    attributes: dict[str, str] = {}
    order: bool = False
    perm: Int32 = 6
    read_queue_nums: Int32 = 16
    topic_filter_type: str | Int32 = "SINGLE_TAG"
    topic_name: str = ""
    topic_sys_flag: Int32 = 0
    write_queue_nums: Int32 = 16


class TopicTable(msgspec.Struct, kw_only=True, rename="camel"):
    """Topics of a broker with their version: the broker's topics.json, and part of RegisterBody."""

    data_version: DataVersion = DataVersion()
    mapping_data_version: DataVersion = DataVersion()
    topic_config_table: dict[str, TopicConfig] = {}
    topic_queue_mapping_detail_map: dict[str, Any] = {}
    topic_queue_mapping_info_map: dict[str, dict[str, Any]] = {}


class RegisterBody(msgspec.Struct, kw_only=True, rename="camel"):
    """What a broker tells a name server about itself."""

    filter_server_list: list[str] = []
    topic_config_serialize_wrapper: TopicTable = msgspec.field(default_factory=TopicTable)


class QueueData(msgspec.Struct, kw_only=True, rename="camel"):
    """The queues of one topic on the brokers of one name."""

    broker_name: str
    perm: Int32 = 6
    read_queue_nums: Int32 = 16
    topic_sys_flag: Int32 = 0
    write_queue_nums: Int32 = 16


class BrokerData(msgspec.Struct, kw_only=True, rename="camel"):
    """The brokers of one name: a master (id 0) and its slaves."""

    broker_addrs: dict[Int64, str] = {}
    broker_name: str
    cluster: str = ""
    enable_acting_master: bool = False
    zone_name: str | UnsetType = UNSET


class TopicRouteData(msgspec.Struct, kw_only=True, rename="camel"):
    """Where a topic can be sent to and pulled from."""

    broker_datas: list[BrokerData] = []
    filter_server_table: dict[str, list[str]] = {}
    order_topic_conf: str | UnsetType = UNSET
    queue_datas: list[QueueData] = []
    topic_queue_mapping_by_broker: dict[str, dict[str, Any]] | UnsetType = UNSET


class ClusterInfo(msgspec.Struct, kw_only=True, rename="camel"):
    """All brokers by name, and the names by cluster."""

    broker_addr_table: dict[str, BrokerData] = {}
    cluster_addr_table: dict[str, list[str]] = {}


class TopicList(msgspec.Struct, kw_only=True, rename="camel"):
    """Names of topics; `broker_addr` only in the answer to 304."""

    broker_addr: str | UnsetType = UNSET
    topic_list: list[str] = []


class KVTable(msgspec.Struct, kw_only=True, rename="camel"):
    """One namespace of the key-value settings that a name server keeps."""

    table: dict[str, str] = {}


class BrokerMemberGroup(msgspec.Struct, kw_only=True, rename="camel"):
    """Addresses of the brokers of one name in one cluster."""

    broker_addrs: dict[Int64, str] = {}
    broker_name: str
    cluster: str


class MemberGroupBody(msgspec.Struct, kw_only=True, rename="camel"):
    """Answer to 901."""

    broker_member_group: BrokerMemberGroup


def encode(body: msgspec.Struct) -> bytes:
    """Compact JSON of a body: keys quoted, integer keys too, absent fields left out."""
    return msgspec.json.encode(body)


def decode(data: bytes, kind: type[T]) -> T:
    """A body of the given kind; empty data gives the kind's defaults.

    Raises:
        ProtocolError: not JSON of any kind that peers write, or a field has another type.
    """
    plain = jsonish.loads(data) if data else {}
    if plain is None:
        plain = {}
    return _convert(plain, kind)


def decode_register_body(data: bytes, *, version: int, compressed: bool) -> RegisterBody:
    """The body of a REGISTER_BROKER request in whichever of its three layouts it came.

    Raises:
        ProtocolError: the body is not in the layout that `version` and `compressed` name.
    """
    if version < VERSION_MODERN_BODY:
        return RegisterBody(topic_config_serialize_wrapper=decode(data, TopicTable))
    if compressed:
        return _decode_compressed(data, version)
    return decode(data, RegisterBody)


def encode_compressed_register_body(body: RegisterBody) -> bytes:
    """A register body in its compressed layout, for a request of version V5_0_0 or later.

    It carries neither the sys flag of a topic nor whether it is ordered.
    """
    table = body.topic_config_serialize_wrapper
    parts = [_piece(encode(table.data_version)), _INT.pack(len(table.topic_config_table))]
    for name, topic in table.topic_config_table.items():
        words = (name, topic.read_queue_nums, topic.write_queue_nums, topic.perm)
        attributes = msgspec.json.encode(topic.attributes).decode()
        line = " ".join([*map(str, words), str(topic.topic_filter_type), attributes])
        parts.append(_piece(line.encode()))
    parts.append(_piece(msgspec.json.encode(body.filter_server_list)))
    mappings = table.topic_queue_mapping_info_map.values()
    parts.append(_INT.pack(len(mappings)))
    parts += [_piece(msgspec.json.encode(mapping)) for mapping in mappings]
    return zlib.compress(b"".join(parts))


def _piece(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


def _convert(plain: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(_without_nulls(plain), kind, strict=False, str_keys=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ProtocolError(
            "body has another shape", body=kind.__name__, cause=str(error)
        ) from None


def _without_nulls(value: Any) -> Any:
    """The same value where a null is as good as nothing, which is how Java reads it."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item is not None]
    return value


class _Pieces:
    """Length-prefixed pieces of an inflated register body, front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self) -> int:
        """The next integer, which is a size or a count and so never negative."""
        if self._position + _INT.size > len(self._data):
            raise ProtocolError("register body ends early", size=len(self._data))
        value: int = _INT.unpack_from(self._data, self._position)[0]
        self._position += _INT.size
        left = len(self._data) - self._position
        if not 0 <= value <= left:
            raise ProtocolError("size in register body", found=value, allowed=(0, left))
        return value

    def piece(self) -> bytes:
        """The next bytes with their size before them."""
        start = self._position + _INT.size
        self._position = start + self.number()
        return self._data[start : self._position]

    @property
    def left(self) -> int:
        """How many bytes are not yet read."""
        return len(self._data) - self._position


def _decode_compressed(data: bytes, version: int) -> RegisterBody:
    pieces = _Pieces(_inflate(data))
    table = TopicTable(data_version=decode(pieces.piece(), DataVersion))
    for _ in range(pieces.number()):
        topic = _decode_topic_line(pieces.piece())
        table.topic_config_table[topic.topic_name] = topic
    filter_servers = pieces.piece()
    servers = decode(filter_servers, list[str]) if filter_servers else []
    if version >= VERSION_STATIC_TOPICS and pieces.left:
        for _ in range(pieces.number()):
            mapping = decode(pieces.piece(), dict[str, Any])
            table.topic_queue_mapping_info_map[str(mapping.get("topic", ""))] = mapping
    return RegisterBody(filter_server_list=servers, topic_config_serialize_wrapper=table)


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, INFLATED_SIZE_MAX)
    except zlib.error as error:
        raise ProtocolError("register body is not a zlib stream", cause=str(error)) from None
    if not stream.eof:
        raise ProtocolError(
            "compressed register body is cut or too large",
            inflated_size=len(inflated),
            inflated_size_max=INFLATED_SIZE_MAX,
        )
    return inflated


def _decode_topic_line(line: bytes) -> TopicConfig:
    """A topic from its text form; sys flag and order are not carried there."""
    try:
        words = line.decode().split(" ", _TOPIC_FIELDS_MIN)
        if len(words) < _TOPIC_FIELDS_MIN:
            raise ProtocolError("topic line", found=words, fields_min=_TOPIC_FIELDS_MIN)
        name, read, write, perm, kind = words[:_TOPIC_FIELDS_MIN]
        attributes = words[_TOPIC_FIELDS_MIN] if len(words) > _TOPIC_FIELDS_MIN else ""
        return TopicConfig(
            topic_name=name,
            read_queue_nums=int(read),
            write_queue_nums=int(write),
            perm=int(perm),
            topic_filter_type=kind,
            attributes=decode(attributes.encode(), dict[str, str]),
        )
    except ValueError as error:
        raise ProtocolError("topic line", found=line[:80], cause=str(error)) from None

"""The name server's table of requests, asked with requests and nothing else."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shmq.broker.nameserver import KvTable, NameServer, Options
from shmq.broker.route import RouteTable
from shmq.errors import StoreError
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.header import Header

FRAMES = Path(__file__).parents[2] / "golden" / "data" / "frames"
SECOND = 1000


def golden(name: str) -> Frame:
    decoder = FrameDecoder()
    decoder.feed((FRAMES / name).read_bytes())
    frame = decoder.next_frame()
    assert frame is not None
    return frame


class World:
    """A name server, its saved key-value settings, a clock, and short forms of requests."""

    def __init__(self, *, routes: RouteTable | None = None, **options: Any) -> None:
        self.saved: list[KvTable] = []
        self.now_ms = 1_000_000
        self.connection = 1
        self.server = NameServer(
            save_kv=self.saved.append,
            routes=routes,
            options=Options(**options),
            started_ms=self.now_ms,
        )

    def ask(self, code: int, body: bytes = b"", /, **ext: str) -> tuple[Header, bytes]:
        """Answer to a request over the present connection."""
        header = Header(code=code, opaque=77, ext=ext)
        answer, data = self.server.process(
            header, body, connection=self.connection, now_ms=self.now_ms
        )
        assert (answer.opaque, answer.is_response) == (77, True)
        return answer, data

    def json(self, code: int, body: bytes = b"", /, **ext: str) -> Any:
        """Body of a successful answer."""
        answer, data = self.ask(code, body, **ext)
        assert answer.code == ResponseCode.SUCCESS, answer.remark
        return json.loads(data)

    def register(
        self,
        name: str = "b",
        broker_id: int = 0,
        *,
        address: str | None = None,
        cluster: str = "c",
        topics: Mapping[str, int | dict[str, Any]] | None = None,
        counter: int = 0,
        state_version: int = 0,
        connection: int = 1,
        old: bool = False,
        acting: bool = False,
        **ext: str,
    ) -> tuple[Header, bytes]:
        """Answer to the registration of a broker over `connection`."""
        self.connection = connection
        address = address or f"{name}:{10911 + broker_id}"
        topics = {"T": 6, "U": 6} if topics is None else topics
        body = register_body(topics, counter=counter, state_version=state_version)
        if not old:
            ext["enableActingMaster"] = "true" if acting else "false"
        return self.ask(
            RequestCode.REGISTER_BROKER,
            body,
            brokerName=name,
            brokerAddr=address,
            clusterName=cluster,
            haServerAddr=address + "0",
            brokerId=str(broker_id),
            bodyCrc32=str(zlib.crc32(body) & 0x7FFFFFFF),
            compressed="false",
            **ext,
        )

    def route(self, topic: str = "T", **ext: str) -> Any:
        """Route of a topic that must have one."""
        return self.json(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic=topic, **ext)

    def addresses(self, topic: str = "T") -> dict[str, dict[str, str]]:
        """Addresses by id, of each broker name in a route."""
        brokers = self.route(topic)["brokerDatas"]
        return {broker["brokerName"]: broker["brokerAddrs"] for broker in brokers}

    def perms(self, topic: str = "T") -> dict[str, int]:
        """Permission at each broker name in a route."""
        return {data["brokerName"]: data["perm"] for data in self.route(topic)["queueDatas"]}

    def has_route(self, topic: str = "T") -> bool:
        """Whether a topic has a route."""
        answer, _ = self.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic=topic)
        assert answer.code in (ResponseCode.SUCCESS, ResponseCode.TOPIC_NOT_EXIST)
        return answer.code == ResponseCode.SUCCESS

    def unregister(self, name: str = "b", broker_id: int = 0) -> None:
        """Say good-bye for a broker."""
        answer, _ = self.ask(
            RequestCode.UNREGISTER_BROKER,
            brokerName=name,
            brokerAddr=f"{name}:{10911 + broker_id}",
            clusterName="c",
            brokerId=str(broker_id),
        )
        assert answer.code == ResponseCode.SUCCESS


def register_body(
    topics: Mapping[str, int | dict[str, Any]], *, counter: int = 0, state_version: int = 0
) -> bytes:
    table = {}
    for name, facts in topics.items():
        fields = {"perm": facts} if isinstance(facts, int) else facts
        table[name] = {"topicName": name, "readQueueNums": 4, "writeQueueNums": 4, **fields}
    version = {"counter": counter, "timestamp": 5, "stateVersion": state_version}
    wrapper = {"dataVersion": version, "topicConfigTable": table}
    return json.dumps({"topicConfigSerializeWrapper": wrapper}).encode()


# Golden conversation


def test_golden_broker_is_found_as_apache_finds_it() -> None:
    world = World()
    request = golden("json-103-REGISTER_BROKER-req.bin")
    answer, body = world.server.process(
        request.header, request.body, connection=3, now_ms=world.now_ms
    )
    assert (answer.code, answer.ext, body) == (0, {}, b"")
    expected = golden("json-106-GET_BROKER_CLUSTER_INFO-resp.bin").body
    expected = expected.replace(b"{0:", b'{"0":').replace(b"40911", b"20911")
    _, body = world.ask(RequestCode.GET_BROKER_CLUSTER_INFO)
    assert body == expected
    topic = (
        b'{"queueDatas":[{"brokerName":"golden-a","perm":7,"readQueueNums":8,"writeQueueNums":8}]}'
    )
    world.ask(RequestCode.REGISTER_TOPIC_IN_NAMESRV, topic, topic="FrameT")
    for name in ("json", "binary"):
        asked = golden(f"{name}-105-GET_ROUTEINFO_BY_TOPIC-req.bin")
        _, body = world.server.process(asked.header, b"", connection=4, now_ms=world.now_ms)
        expected = golden("json-105-GET_ROUTEINFO_BY_TOPIC-resp.bin").body
        assert body == expected.replace(b"40911", b"20911")


def test_golden_unknown_topic_is_answered_with_17() -> None:
    world = World()
    asked = golden("json-105-GET_ROUTEINFO_BY_TOPIC-req.bin")
    expected = golden("json-105-GET_ROUTEINFO_BY_TOPIC-resp-code17.bin").header
    answer, body = world.server.process(asked.header, b"", connection=4, now_ms=world.now_ms)
    assert (answer.code, body, answer.opaque) == (expected.code, b"", expected.opaque)
    start = "No topic route info in name server for the topic: FrameT"
    assert answer.remark is not None
    assert expected.remark is not None
    assert answer.remark.startswith(start)
    assert expected.remark.startswith(start)


def test_golden_crc_differs() -> None:
    world = World()
    request = golden("json-103-REGISTER_BROKER-req.bin")
    bent = request.body.replace(b"TBW102", b"TBW103")
    answer, _ = world.server.process(request.header, bent, connection=3, now_ms=0)
    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "crc32 not match" in str(answer.remark)
    request.header.ext["bodyCrc32"] = "0"
    answer, _ = world.server.process(request.header, bent, connection=3, now_ms=0)
    assert answer.code == ResponseCode.SUCCESS


# Registration


def test_master_and_slave_are_one_name() -> None:
    world = World()
    answer, _ = world.register()
    assert answer.ext == {}
    answer, _ = world.register(broker_id=1)
    assert answer.ext == {"haServerAddr": "b:109110", "masterAddr": "b:10911"}
    assert world.addresses() == {"b": {"0": "b:10911", "1": "b:10912"}}
    group = world.json(RequestCode.GET_BROKER_MEMBER_GROUP, clusterName="c", brokerName="b")
    members = {"0": "b:10911", "1": "b:10912"}
    expected = {"brokerAddrs": members, "brokerName": "b", "cluster": "c"}
    assert group == {"brokerMemberGroup": expected}


def test_first_registration_with_one_topic_is_refused() -> None:
    world = World()
    answer, _ = world.register(topics={"T": 6})
    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "register broker failed" in str(answer.remark)
    assert world.json(RequestCode.GET_BROKER_CLUSTER_INFO)["brokerAddrTable"] == {}
    assert world.register(topics={"T": 6, "U": 6})[0].code == 0
    assert world.register(topics={"V": 6}, counter=1)[0].code == 0  # an incremental one
    assert world.has_route("T")
    assert world.has_route("V")
    assert world.register(name="empty", topics={})[0].code == 0


def test_topics_are_rewritten_only_when_the_version_differs() -> None:
    world = World()
    world.register()
    world.register(topics={"T": 4, "U": 4, "New": 6})
    assert world.perms() == {"b": 6}
    assert world.perms("New") == {"b": 6}
    world.register(topics={"T": 4, "U": 4}, counter=1)
    assert world.perms() == {"b": 4}
    assert world.has_route("New")


def test_missing_topics_are_deleted_when_the_option_says_so() -> None:
    world = World(delete_topic_with_broker_registration=True)
    world.register()
    world.register(topics={"U": 6, "V": 6}, counter=1)
    assert not world.has_route("T")
    assert world.has_route("U")


def test_address_under_another_id_moves() -> None:
    world = World()
    world.register(broker_id=1, address="b:1")
    world.register(broker_id=0, address="b:1")
    assert world.addresses() == {"b": {"0": "b:1"}}


def test_id_stays_with_the_higher_state_version() -> None:
    world = World()
    world.register(address="b:1", state_version=2)
    world.register(address="b:2", state_version=1)
    assert world.addresses() == {"b": {"0": "b:1"}}
    world.register(address="b:2", state_version=3)
    assert world.addresses() == {"b": {"0": "b:2"}}


def test_slave_brings_no_topics() -> None:
    world = World()
    world.register()
    world.register(broker_id=1, topics={"S": 6, "T": 6})
    assert not world.has_route("S")


def test_prime_slave_brings_topics_without_write_permission() -> None:
    world = World()
    world.register(broker_id=1, acting=True)
    assert world.perms() == {"b": 4}
    world.register(name="old", broker_id=1, old=True, topics={"O": 6, "P": 6})
    assert not world.has_route("O")


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\ud800"])
def test_names_that_cannot_be(name: str) -> None:
    world = World()
    for change in ({"brokerName": name}, {"clusterName": name}, {"brokerAddr": name}):
        ext = {"brokerName": "b", "clusterName": "c", "brokerAddr": "a:1", "brokerId": "0"}
        body = register_body({"T": 6, "U": 6})
        fields = {**ext, **change, "haServerAddr": "a:2"}
        answer, _ = world.ask(RequestCode.REGISTER_BROKER, body, **fields)
        assert answer.code == ResponseCode.SYSTEM_ERROR
    assert world.register(name="x" * 255, address="a:1")[0].code == 0


@pytest.mark.parametrize("broker_id", ["", "x", "1_0", " 1", "9223372036854775808", "9" * 5000])
def test_broker_ids_that_cannot_be(broker_id: str) -> None:
    world = World()
    body = register_body({"T": 6, "U": 6})
    fields = {"brokerName": "b", "clusterName": "c", "brokerAddr": "a:1", "haServerAddr": "a:2"}
    answer, _ = world.ask(RequestCode.REGISTER_BROKER, body, brokerId=broker_id, **fields)
    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "brokerId" in str(answer.remark)
    answer, _ = world.ask(RequestCode.REGISTER_BROKER, body, **fields)
    assert answer.code == ResponseCode.SYSTEM_ERROR


def test_limits_of_brokers_and_topics() -> None:
    world = World(routes=RouteTable(brokers_max=2, queue_datas_max=5))
    assert world.register(name="a")[0].code == 0
    assert world.register(name="b")[0].code == 0
    answer, _ = world.register(name="c")
    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "brokers_max=2" in str(answer.remark)
    assert world.register(name="a", topics={"T": 6, "V": 6}, counter=1)[0].code == 0
    answer, _ = world.register(name="a", topics={"T": 6, "W": 6}, counter=2)
    assert "queue_datas_max=5" in str(answer.remark)
    world.unregister("b")
    assert world.register(name="a", topics={"T": 6, "W": 6}, counter=2)[0].code == 0


# Life and death


def test_silent_broker_expires() -> None:
    world = World()
    world.register()
    world.register(name="quick", heartbeatTimeoutMillis="10000", connection=9)
    world.now_ms += 10 * SECOND
    assert world.server.expire(now_ms=world.now_ms) == []
    world.now_ms += 1
    (silent,) = world.server.expire(now_ms=world.now_ms)
    assert (silent.member.name, silent.connection) == ("quick", 9)
    world.now_ms += 110 * SECOND
    assert [broker.member.name for broker in world.server.expire(now_ms=world.now_ms)] == ["b"]
    assert not world.has_route()
    assert world.json(RequestCode.GET_BROKER_CLUSTER_INFO) == {
        "brokerAddrTable": {},
        "clusterAddrTable": {},
    }


@pytest.mark.parametrize("code", [RequestCode.BROKER_HEARTBEAT, RequestCode.QUERY_DATA_VERSION])
def test_signs_of_life(code: int) -> None:
    world = World()
    world.register()
    world.now_ms += 120 * SECOND
    member = {"clusterName": "c", "brokerAddr": "b:10911", "brokerName": "b", "brokerId": "0"}
    answer, _ = world.ask(code, b"{}", **member)
    assert answer.code == 0
    world.now_ms += 120 * SECOND
    assert world.server.expire(now_ms=world.now_ms) == []
    world.ask(code, b"{}", **{**member, "brokerAddr": "unknown:1"})
    world.now_ms += 1
    assert len(world.server.expire(now_ms=world.now_ms)) == 1


def test_closed_connection_removes_its_broker_unless_it_registered_again() -> None:
    world = World()
    world.register(connection=1)
    world.register(name="other", connection=2)
    world.register(connection=3)
    assert world.server.connection_closed(1) == []
    assert [member.name for member in world.server.connection_closed(3)] == ["b"]
    assert world.addresses() == {"other": {"0": "other:10911"}}


def test_unregister_drops_topics_with_the_last_member() -> None:
    world = World()
    world.register()
    world.register(broker_id=1)
    world.unregister(broker_id=0)
    assert world.addresses() == {"b": {"1": "b:10912"}}
    assert world.perms() == {"b": 6}
    world.unregister(broker_id=1)
    assert not world.has_route()
    world.unregister(name="never seen")


def test_query_data_version() -> None:
    world = World()
    member = {"clusterName": "c", "brokerAddr": "b:10911", "brokerName": "b", "brokerId": "0"}
    answer, body = world.ask(RequestCode.QUERY_DATA_VERSION, b"{}", **member)
    assert (answer.ext, body) == ({"changed": "true"}, b"")
    world.register(counter=4)
    version = {"counter": 4, "stateVersion": 0, "timestamp": 5}
    for asked, changed in ((version, "false"), ({**version, "counter": 5}, "true")):
        data = json.dumps(asked).encode()
        answer, body = world.ask(RequestCode.QUERY_DATA_VERSION, data, **member)
        assert answer.ext == {"changed": changed}
        assert json.loads(body) == version


# Acting master and notices


def test_acting_master_is_shown_as_master_of_read_only_topics() -> None:
    world = World(support_acting_master=True)
    for broker_id in (0, 1, 2):
        world.register(broker_id=broker_id, acting=True)
    world.unregister(broker_id=0)
    assert world.perms() == {"b": 4}
    assert world.addresses() == {"b": {"0": "b:10912", "2": "b:10913"}}
    info = world.json(RequestCode.GET_BROKER_CLUSTER_INFO)
    assert info["brokerAddrTable"]["b"]["brokerAddrs"] == {"1": "b:10912", "2": "b:10913"}
    world.register(broker_id=0, acting=True, counter=1)
    assert world.perms() == {"b": 6}
    assert world.addresses()["b"]["0"] == "b:10911"


def test_without_the_option_there_is_no_acting_master() -> None:
    world = World()
    for broker_id in (0, 1):
        world.register(broker_id=broker_id, acting=True)
    world.unregister(broker_id=0)
    assert world.addresses() == {"b": {"1": "b:10912"}}


def test_notices_of_the_lowest_id() -> None:
    world = World(notify_min_broker_id_changed=True)
    for broker_id in (0, 1, 2):
        world.register(broker_id=broker_id, connection=broker_id)
    assert world.server.take_notices() == []
    world.server.connection_closed(0)
    notices = world.server.take_notices()
    assert [notice.address for notice in notices] == ["b:10912", "b:10913"]
    header = notices[0].header
    assert (header.code, header.is_oneway) == (905, True)
    assert header.ext == {
        "minBrokerId": "1",
        "brokerName": "b",
        "minBrokerAddr": "b:10912",
        "offlineBrokerAddr": "b:10911",
    }
    world.register(broker_id=0)
    notices = world.server.take_notices()
    assert [notice.address for notice in notices] == ["b:10912", "b:10913"]
    assert notices[0].header.ext["haBrokerAddr"] == "b:109110"
    assert notices[0].header.ext["minBrokerId"] == "0"
    world.unregister(broker_id=2)
    assert world.server.take_notices() == []


def test_notices_are_off_by_default() -> None:
    world = World()
    for broker_id in (0, 1):
        world.register(broker_id=broker_id)
    world.unregister(broker_id=0)
    assert world.server.take_notices() == []


# Topics


def test_write_permission_is_wiped_and_added() -> None:
    world = World()
    world.register(topics={"T": 7, "U": 2})
    world.register(name="other")
    answer, _ = world.ask(RequestCode.WIPE_WRITE_PERM_OF_BROKER, brokerName="b")
    assert answer.ext == {"wipeTopicCount": "2"}
    assert world.perms() == {"b": 5, "other": 6}
    world.register(topics={"T": 7, "U": 2})
    assert world.perms()["b"] == 5
    answer, _ = world.ask(RequestCode.ADD_WRITE_PERM_OF_BROKER, brokerName="b")
    assert answer.ext == {"addTopicCount": "2"}
    assert world.perms() == {"b": 6, "other": 6}
    answer, _ = world.ask(RequestCode.WIPE_WRITE_PERM_OF_BROKER, brokerName="nobody")
    assert answer.ext == {"wipeTopicCount": "0"}


def test_lists_of_topics() -> None:
    world = World()
    flags = {name: {"topicSysFlag": flag} for name, flag in (("N", 0), ("U", 1), ("S", 2))}
    world.register(topics={**flags, "B": {"topicSysFlag": 3}})
    world.register(name="d", cluster="e", topics={"X": 6, "Y": 6})

    def topics(code: int, **ext: str) -> list[str]:
        found: list[str] = world.json(code, **ext)["topicList"]
        return found

    all_topics = ["B", "N", "S", "U", "X", "Y"]
    assert topics(RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER) == all_topics
    assert topics(RequestCode.GET_TOPICS_BY_CLUSTER, cluster="e") == ["X", "Y"]
    assert topics(RequestCode.GET_TOPICS_BY_CLUSTER, cluster="none") == []
    assert topics(RequestCode.GET_UNIT_TOPIC_LIST) == ["B", "U"]
    assert topics(RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST) == ["B", "S"]
    assert topics(RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST) == ["S"]
    system = world.json(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS)
    assert system == {"brokerAddr": "b:10911", "topicList": ["c", "b", "e", "d"]}


def test_lists_can_be_disabled() -> None:
    world = World(enable_all_topic_list=False, enable_topic_list=False)
    for code in (206, 224, 311, 312, 313):
        answer, _ = world.ask(code, cluster="c")
        assert (answer.code, answer.remark) == (ResponseCode.SYSTEM_ERROR, "disable")


def test_topics_are_deleted_everywhere_or_in_one_cluster() -> None:
    world = World()
    world.register()
    world.register(name="d", cluster="e")
    world.ask(RequestCode.DELETE_TOPIC_IN_NAMESRV, topic="T", clusterName="e")
    assert world.perms("T") == {"b": 6}
    world.ask(RequestCode.DELETE_TOPIC_IN_NAMESRV, topic="U")
    assert not world.has_route("U")
    world.ask(RequestCode.DELETE_TOPIC_IN_NAMESRV, topic="T", clusterName="c")
    assert not world.has_route("T")
    assert world.ask(RequestCode.DELETE_TOPIC_IN_NAMESRV, topic="T")[0].code == 0


def test_one_topic_is_registered_for_known_brokers_only() -> None:
    world = World()
    world.register()
    body = b'{"queueDatas":[{"brokerName":"b"},{"brokerName":"ghost"}]}'
    world.ask(RequestCode.REGISTER_TOPIC_IN_NAMESRV, body, topic="New")
    assert world.perms("New") == {"b": 6}
    world.ask(RequestCode.REGISTER_TOPIC_IN_NAMESRV, b"", topic="Empty")
    assert not world.has_route("Empty")


def test_zones() -> None:
    world = World()
    world.register(name="a", __ZONE_NAME="east")
    world.register(name="b", __ZONE_NAME="west")
    world.register(name="c")
    asked = {"__ZONE_NAME": "east", "__ZONE_MODE": "TRUE"}
    route = world.route("T", **asked)
    assert [broker["brokerName"] for broker in route["brokerDatas"]] == ["a", "c"]
    assert [data["brokerName"] for data in route["queueDatas"]] == ["a", "c"]
    assert route["brokerDatas"][0]["zoneName"] == "east"
    assert len(world.route("T", __ZONE_NAME="east")["brokerDatas"]) == 3


def test_static_topic_mappings_are_passed_on() -> None:
    world = World()
    world.register()
    body = json.loads(register_body({"T": 6, "U": 6}, counter=1))
    info = {"T": {"bname": "b", "currIdMap": {"0": 1}, "topic": "T", "totalQueues": 2}}
    body["topicConfigSerializeWrapper"]["topicQueueMappingInfoMap"] = info
    world.ask(
        RequestCode.REGISTER_BROKER,
        json.dumps(body).encode(),
        brokerName="b",
        brokerAddr="b:10911",
        clusterName="c",
        haServerAddr="x:1",
        brokerId="0",
    )
    assert world.route("T")["topicQueueMappingByBroker"] == {"b": info["T"]}
    assert "topicQueueMappingByBroker" not in world.route("U")


def test_answers_are_compact() -> None:
    world = World()
    world.register()
    for code in (105, 106, 206):
        _, body = world.ask(code, topic="T")
        assert b" " not in body


# Key-value settings


def test_key_value_settings() -> None:
    world = World(order_message_enable=True)
    world.register()
    place = {"namespace": "ORDER_TOPIC_CONFIG", "key": "T"}
    assert world.ask(RequestCode.GET_KV_CONFIG, **place)[0].code == ResponseCode.QUERY_NOT_FOUND
    answer, _ = world.ask(RequestCode.GET_KVLIST_BY_NAMESPACE, namespace="ORDER_TOPIC_CONFIG")
    assert answer.code == ResponseCode.QUERY_NOT_FOUND
    assert world.ask(RequestCode.PUT_KV_CONFIG, **place, value="b:4")[0].code == 0
    assert world.ask(RequestCode.GET_KV_CONFIG, **place)[0].ext == {"value": "b:4"}
    listed = world.json(RequestCode.GET_KVLIST_BY_NAMESPACE, namespace="ORDER_TOPIC_CONFIG")
    assert listed == {"table": {"T": "b:4"}}
    assert world.route("T")["orderTopicConf"] == "b:4"
    assert "orderTopicConf" not in world.route("U")
    assert json.loads(world.register()[1]) == {"table": {"T": "b:4"}}
    assert world.ask(RequestCode.DELETE_KV_CONFIG, **place)[0].code == 0
    assert world.ask(RequestCode.DELETE_KV_CONFIG, **place)[0].code == 0
    assert world.saved == [{"ORDER_TOPIC_CONFIG": {"T": "b:4"}}, {"ORDER_TOPIC_CONFIG": {}}]


def test_what_cannot_be_saved_is_not_confirmed() -> None:
    def fail(table: KvTable) -> None:
        raise StoreError("no space left", size=len(table))

    server = NameServer(save_kv=fail)
    ext = {"namespace": "n", "key": "k", "value": "v"}
    header = Header(code=RequestCode.PUT_KV_CONFIG, ext=ext)
    answer, _ = server.process(header, b"", connection=1, now_ms=0)
    assert (answer.code, "no space left" in str(answer.remark)) == (1, True)
    header = Header(code=RequestCode.GET_KV_CONFIG, ext=ext)
    answer, _ = server.process(header, b"", connection=1, now_ms=0)
    assert answer.code == ResponseCode.QUERY_NOT_FOUND


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [("k", "v" * 65536, 0), ("k", "v" * 65537, 1), ("", "v", 1)],
)
def test_limits_of_key_value_settings(key: str, value: str, code: int) -> None:
    world = World()
    answer, _ = world.ask(RequestCode.PUT_KV_CONFIG, namespace="n", key=key, value=value)
    assert answer.code == code


# Options


def test_options_are_shown_and_changed() -> None:
    world = World()
    _, body = world.ask(RequestCode.GET_NAMESRV_CONFIG)
    assert b"orderMessageEnable=false\n" in body
    answer, _ = world.ask(
        RequestCode.UPDATE_NAMESRV_CONFIG, b"# a remark\nsupportActingMaster = true\n"
    )
    assert answer.code == 0
    assert world.server.options.support_acting_master
    _, body = world.ask(RequestCode.GET_NAMESRV_CONFIG)
    assert b"supportActingMaster=true\n" in body


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"kvConfigPath=/etc/passwd\n", ResponseCode.NO_PERMISSION),
        (b"orderMessageEnable=true\nconfigStorePath=x\n", ResponseCode.NO_PERMISSION),
        (b"noSuchOption=1\n", ResponseCode.SYSTEM_ERROR),
        (b"orderMessageEnable=perhaps\n", ResponseCode.SYSTEM_ERROR),
        (b"orderMessageEnable\n", ResponseCode.SYSTEM_ERROR),
        (b"\xff\xfe", ResponseCode.SYSTEM_ERROR),
        (b"", ResponseCode.SUCCESS),
    ],
)
def test_options_that_cannot_be(body: bytes, code: int) -> None:
    world = World()
    answer, _ = world.ask(RequestCode.UPDATE_NAMESRV_CONFIG, body)
    assert answer.code == code
    assert world.server.options == Options()


def test_name_server_may_wait_for_brokers_first() -> None:
    world = World(need_wait_for_service=True, wait_seconds_for_service=10)
    world.register()
    world.now_ms += 10 * SECOND - 1
    answer, _ = world.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic="T")
    assert (answer.code, answer.remark) == (1, "name server not ready")
    world.now_ms += 1
    assert world.has_route()


# Everything else


def test_unknown_request() -> None:
    answer, body = World().ask(10)
    assert (answer.code, answer.remark, body) == (3, " request type 10 not supported", b"")


@pytest.mark.parametrize("code", [100, 101, 102, 103, 104, 105, 205, 216, 217, 219, 224, 322, 901])
def test_missing_fields_are_named(code: int) -> None:
    answer, _ = World().ask(code)
    assert answer.code == ResponseCode.SYSTEM_ERROR
    assert "a field of the request is missing: field=" in str(answer.remark)


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"topicConfigSerializeWrapper":7}', b"\xff"])
def test_broken_registration_is_answered_and_changes_nothing(body: bytes) -> None:
    world = World()
    fields = {"brokerName": "b", "clusterName": "c", "brokerAddr": "a:1", "haServerAddr": "a:2"}
    for compressed in ("true", "false"):
        answer, _ = world.ask(
            RequestCode.REGISTER_BROKER, body, brokerId="0", compressed=compressed, **fields
        )
        assert answer.code == ResponseCode.SYSTEM_ERROR
    assert world.json(RequestCode.GET_BROKER_CLUSTER_INFO)["brokerAddrTable"] == {}

"""Bodies of routes: golden frames in, the same bytes out, and everything cut or bent refused."""

from __future__ import annotations

import json
import struct
import zlib

import pytest

from shmq.errors import ProtocolError
from shmq.wire import route
from shmq.wire.frame import Frame, FrameDecoder
from tests.conftest import GOLDEN_DIR

FRAMES = GOLDEN_DIR / "frames"
V4_9 = 399
V5_0 = 413


def golden(name: str) -> Frame:
    decoder = FrameDecoder()
    decoder.feed((FRAMES / name).read_bytes())
    frame = decoder.next_frame()
    assert frame is not None
    return frame


def piece(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def compressed_body(*, mappings: bytes = b"") -> bytes:
    version = b'{"counter":7,"stateVersion":2,"timestamp":1700000000000}'
    topics = [b'T1 4 8 6 SINGLE_TAG {"a":"b c"}', b"T2 1 1 4 SINGLE_TAG"]
    parts = [piece(version), struct.pack(">i", len(topics)), *map(piece, topics)]
    return b"".join(parts) + piece(b"[]") + mappings


def test_golden_route_is_written_back_byte_for_byte() -> None:
    body = golden("json-105-GET_ROUTEINFO_BY_TOPIC-resp.bin").body
    assert route.encode(route.decode(body, route.TopicRouteData)) == body


def test_golden_cluster_info_is_written_back_with_quoted_ids() -> None:
    body = golden("json-106-GET_BROKER_CLUSTER_INFO-resp.bin").body
    assert b'{0:"' in body
    assert route.encode(route.decode(body, route.ClusterInfo)) == body.replace(b"{0:", b'{"0":')


def test_golden_registration_holds_all_topics() -> None:
    frame = golden("json-103-REGISTER_BROKER-req.bin")
    body = route.decode_register_body(frame.body, version=frame.header.version, compressed=False)
    table = body.topic_config_serialize_wrapper
    plain = json.loads(frame.body)["topicConfigSerializeWrapper"]
    assert table.data_version.timestamp == plain["dataVersion"]["timestamp"]
    assert table.topic_config_table.keys() == plain["topicConfigTable"].keys()
    assert table.topic_config_table["TBW102"].perm == 7
    assert json.loads(route.encode(body)) == json.loads(frame.body)


def test_body_before_version_37_is_the_topic_table_itself() -> None:
    data = b'{"dataVersion":{"counter":3},"topicConfigTable":{"T":{"topicName":"T","perm":4}}}'
    old = route.decode_register_body(data, version=36, compressed=False)
    assert old.topic_config_serialize_wrapper.topic_config_table["T"].perm == 4
    new = route.decode_register_body(data, version=37, compressed=False)
    assert new.topic_config_serialize_wrapper.topic_config_table == {}


def test_compressed_body() -> None:
    mapping = b'{"bname":"b","topic":"T1","totalQueues":8,"currIdMap":{0:1}}'
    tail = struct.pack(">i", 1) + piece(mapping)
    body = route.decode_register_body(
        zlib.compress(compressed_body(mappings=tail)), version=V5_0, compressed=True
    )
    table = body.topic_config_serialize_wrapper
    assert table.data_version == route.DataVersion(
        counter=7, state_version=2, timestamp=1700000000000
    )
    first, second = table.topic_config_table["T1"], table.topic_config_table["T2"]
    assert (first.read_queue_nums, first.write_queue_nums, first.perm) == (4, 8, 6)
    assert first.attributes == {"a": "b c"}
    assert second.attributes == {}
    assert table.topic_queue_mapping_info_map["T1"]["totalQueues"] == 8


def test_compressed_body_of_4_9_has_no_mappings() -> None:
    data = zlib.compress(compressed_body())
    for version in (V4_9, V5_0):
        body = route.decode_register_body(data, version=version, compressed=True)
        assert sorted(body.topic_config_serialize_wrapper.topic_config_table) == ["T1", "T2"]


def test_compressed_body_cut_at_every_byte_is_refused() -> None:
    whole = compressed_body()
    for size in range(len(whole)):
        data = zlib.compress(whole[:size])
        with pytest.raises(ProtocolError):
            route.decode_register_body(data, version=V4_9, compressed=True)
    stream = zlib.compress(whole)
    for size in range(len(stream)):
        with pytest.raises(ProtocolError):
            route.decode_register_body(stream[:size], version=V4_9, compressed=True)


def test_compressed_body_may_not_inflate_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zlib.compress(compressed_body())
    size = len(compressed_body())
    monkeypatch.setattr(route, "INFLATED_SIZE_MAX", size + 1)
    route.decode_register_body(data, version=V4_9, compressed=True)
    monkeypatch.setattr(route, "INFLATED_SIZE_MAX", size - 1)
    with pytest.raises(ProtocolError, match="too large"):
        route.decode_register_body(data, version=V4_9, compressed=True)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{",
        b'{"queueDatas":{}}',
        b'{"queueDatas":[{"perm":"six","brokerName":"b"}]}',
        b'{"queueDatas":[{"perm":2147483648,"brokerName":"b"}]}',
        b'{"queueDatas":[{"perm":1}]}',
        b'{"brokerDatas":[{"brokerName":"b","brokerAddrs":{"zero":"h:1"}}]}',
        b'{"brokerDatas":[{"brokerName":"b","brokerAddrs":{"9223372036854775808":"h:1"}}]}',
    ],
)
def test_bodies_of_another_shape_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        route.decode(data, route.TopicRouteData)


def test_nulls_and_unknown_fields_count_as_absent() -> None:
    data = b'{"orderTopicConf":null,"queueDatas":null,"new":{"x":1},"brokerDatas":[]}'
    assert route.decode(data, route.TopicRouteData) == route.TopicRouteData()
    assert route.decode(b"", route.TopicRouteData) == route.TopicRouteData()
    assert route.decode(b"null", route.KVTable) == route.KVTable()


def test_numbers_may_come_as_text() -> None:
    data = b'{"queueDatas":[{"brokerName":"b","perm":"6","readQueueNums":"3"}]}'
    queues = route.decode(data, route.TopicRouteData).queue_datas[0]
    assert (queues.perm, queues.read_queue_nums) == (6, 3)

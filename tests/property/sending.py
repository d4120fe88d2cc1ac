"""Strategies of send requests, plain, special and broken, and rings that take them."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shmq.layout.ring import ENTRY
from shmq.wire.header import BINARY, JSON, Header, encode_header
from shmq.wire.send import SendHeader, encode_send
from tests.property.hostile import EDGE_NUMBERS, damaged

ENTRIES = 4
DATA_SIZE = 2048
STORE_HOST = b"\x0a\0\0\1"
STORE_PORT = 10911
CLUSTER = "DefaultCluster"
REGION = "DefaultRegion"
FRAME_SIZE_MAX = 100_000
MESSAGE_SIZE_MAX = 600
TOPICS = {"FrameT": [7, 8, 9, 10], "TopicTest": [0], "%RETRY%g": [3, 3], "t" * 127: [5, 6]}
WRITE_QUEUES = {"FrameT": 4, "TopicTest": 1, "%RETRY%g": 2, "t" * 127: 1}


class Ring:
    """The memory of one ring, and the parser of a module that fills it."""

    def __init__(self, module: Any, **changed: Any) -> None:
        sizes = {"entry_count": ENTRIES, "data_size": DATA_SIZE} | changed
        self.entries = np.zeros(sizes["entry_count"], dtype=ENTRY)
        self.data = np.zeros(0 if "data" in changed else sizes["data_size"], dtype=np.uint8)
        parts: dict[str, Any] = {
            "entries": self.entries.view(np.uint8),
            "data": self.data,
            "store_host": STORE_HOST,
            "store_port": STORE_PORT,
            "cluster": CLUSTER.encode(),
            "region": REGION.encode(),
            "trace_on": True,
            "message_size_max": MESSAGE_SIZE_MAX,
            "frame_size_max": FRAME_SIZE_MAX,
        }
        self.parser = module.SendParser(**parts | sizes)
        for topic, slots in TOPICS.items():
            self.parser.put_topic(topic.encode(), slots, WRITE_QUEUES[topic])

    def feed(self, data: bytes, start: int = 0, end: int = -1, **born: Any) -> int:
        """Feed bytes; gives why it stopped."""
        end = len(data) if end < 0 else end
        source: dict[str, Any] = {
            "connection": 5,
            "connection_id": 2**40,
            "born_host": b"\x0a\0\0\2",
            "born_port": 4711,
        }
        stop: int = self.parser.feed(data, start, end, **source | born)
        return stop

    def state(self) -> tuple[Any, ...]:
        """Everything that both must agree on: also what the data of the entries in flight is."""
        parser = self.parser
        in_flight = []
        for sequence in range(parser.reaped, parser.submitted):
            entry = self.entries[sequence % len(self.entries)]
            at = int(entry["data_position"])
            data = self.data[at : at + int(entry["data_size"])].tobytes()
            in_flight.append((entry.tolist(), data))
        return (parser.submitted, parser.reaped, parser.position, parser.frame_size, in_flight)


def frame(header: bytes, body: bytes, serialization: int = JSON) -> bytes:
    """A frame with lengths that fit."""
    sizes = (4 + len(header) + len(body)).to_bytes(4, "big")
    return sizes + (serialization << 24 | len(header)).to_bytes(4, "big") + header + body


UNIQUE = "UNIQ_KEY\x01AC11000112345678\x02"
PROPERTIES = st.one_of(
    st.just(UNIQUE),
    st.just(UNIQUE.removesuffix("\x02")),
    st.sampled_from(["TagA", "标签", "\U0001f600", 'quote"\\/\n\t\x7f\x03']).map(
        lambda tag: f"WAIT\x01true\x02TAGS\x01{tag}\x02{UNIQUE}"
    ),
    st.lists(
        st.sampled_from(
            [
                *(
                    name + "\x01v\x02"
                    for name in (
                        "TAGS", "KEYS", "WAIT", "MSG_REGION", "TRACE_ON", "CLUSTER", "DELAY",
                        "INNER_X", "INNER", "TRAN_MSG", "POP_CK", "__CRC32#", "TIMER_DELAY_MS",
                        "PGROUP", "TIMER_DELAY_SEC", "TIMER_DELIVER_MS", "TIMER_OUT_MS", "UNIQ_KEY",
                        "TAG",
                    )
                ),
                "\x02", "a\x01\x02", "\x01b\x02", "a\x02", "a\x01b\x01c\x02", "a", UNIQUE,
            ]
        ),
        max_size=6,
    ).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=20).map(lambda text: text + "\x02" + UNIQUE),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(
        lambda text: f"k\x01{text}\x02{UNIQUE}"
    ),
    st.sampled_from([1300, 1400, 32_700, 32_766, 32_767, 32_768]).map(
        lambda size: UNIQUE + "A\x01".ljust(size - len(UNIQUE), "b")
    ),
)  # fmt: skip


@st.composite
def plain_headers(draw: st.DrawFn) -> SendHeader:
    """Headers that the kernel may take."""
    return SendHeader(
        producer_group=draw(st.sampled_from(["g", "组"])),
        topic=draw(st.sampled_from([*TOPICS, "FrameT", "FrameT", "Unknown"])),
        default_topic="TBW102",
        default_topic_queue_count=draw(st.sampled_from([4, 0, -1])),
        queue_id=draw(st.integers(0, 4)),
        sys_flag=draw(st.sampled_from([0, 0, 1, 2, 0x100, 4, 8, 0x10, 0x20])),
        born_timestamp=draw(st.integers(0, 10**18)),
        flag=draw(st.integers(-(2**31), 2**31 - 1)),
        properties=draw(PROPERTIES),
        reconsume_times=draw(st.sampled_from([0, 0, 3, 2**31 - 1])),
        max_reconsume_times=draw(st.sampled_from([None, 16, -1])),
        batch=draw(st.sampled_from([False, False, False, True])),
        broker_name=draw(st.sampled_from([None, "broker-a"])),
    )


ODD_VALUES = (
    ["", "-1", "+1", " 1", "01", "1.0", "0x1", "2147483647", "2147483648", "-2147483648",
     "-2147483649", "99999999999", "9" * 18, "9" * 19,
     "1" + "0" * 17, "1" + "0" * 18, "0" * 18 + "1", "0" * 9 + "1", "0" * 10 + "1",
     "-" + "0" * 10, "true", "false", "False", "\x00", "é"]
)  # fmt: skip


@st.composite
def ext_fields(draw: st.DrawFn, code: int) -> dict[str, str]:
    """Ext fields of a send, mostly as a client writes them."""
    ext = encode_send(draw(plain_headers()), code)
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from([*ext, "a", "b", "topic", "AccessKey", "Signature", "x"]))
        change = draw(st.sampled_from(["drop", "set", "set"]))
        if change == "drop":
            ext.pop(key, None)
        else:
            ext[key] = draw(st.sampled_from(ODD_VALUES))
    return ext


def json_text(value: Any, *, loose: bool, ascii_only: bool, rng: random.Random) -> str:
    """JSON with blanks where they may be, and keys in any order."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=ascii_only)

    def blank() -> str:
        return rng.choice(["", "", " ", "\t", "\n", "\r\n "]) if loose else ""

    items = list(value.items())
    if loose:
        rng.shuffle(items)
    parts = [
        f"{blank()}{json.dumps(key, ensure_ascii=False)}{blank()}:{blank()}"
        f"{json_text(part, loose=loose, ascii_only=ascii_only, rng=rng)}{blank()}"
        for key, part in items
    ]
    return "{" + ",".join(parts or [blank()]) + "}"


ODD_MEMBERS: list[tuple[str, Any]] = (
    [
        ("flag", 1), ("flag", 2), ("flag", 3), ("flag", None), ("code", "310"), ("opaque", 2**31),
        ("opaque", -(2**31)), ("opaque", 10**18), ("opaque", 1.5), ("language", None),
        ("language", 3), ("remark", "é"), ("remark", None), ("remark", 1), ("version", 2**31),
        ("version", None), ("version", -(2**31)), ("extFields", None), ("extFields", "x"),
        ("other", True), ("other", {"a": "b"}), ("other", [1]), ("other", 10**19), ("other", None),
        ("other", False), ("other", -0.5), ("serializeTypeCurrentRPC", "JSON"),
    ]
)  # fmt: skip


@st.composite
def json_headers(draw: st.DrawFn) -> bytes:
    """JSON headers of sends: compact, with blanks, with escapes; some with odd members."""
    code = draw(st.sampled_from([310, 310, 10, 320, 11]))
    fields: dict[str, Any] = {
        "code": code,
        "extFields": draw(ext_fields(code)),
        "flag": draw(st.sampled_from([0, 0, 0, 2, 1])),
        "language": "JAVA",
        "opaque": draw(st.integers(-(2**31), 2**31 - 1)),
        "serializeTypeCurrentRPC": "JSON",
        "version": 513,
    }
    if draw(st.integers(0, 3)) == 0:
        name, value = draw(st.sampled_from(ODD_MEMBERS))
        fields[name] = value
    if draw(st.integers(0, 9)) == 0:
        del fields[draw(st.sampled_from(sorted(fields)))]
    return json_text(
        fields,
        loose=draw(st.booleans()),
        ascii_only=draw(st.booleans()),
        rng=random.Random(draw(st.integers(0, 99))),  # noqa: S311  not secret
    ).encode()


@st.composite
def binary_headers(draw: st.DrawFn) -> bytes:
    """Binary headers of sends."""
    code = draw(st.sampled_from([310, 310, 10, 320, 11]))
    header = Header(
        code=code,
        opaque=draw(st.integers(-(2**31), 2**31 - 1)),
        flag=draw(st.sampled_from([0, 0, 0, 2, 1])),
        remark=draw(st.sampled_from([None, None, "é"])),
        ext=draw(ext_fields(code)),
    )
    return encode_header(header, BINARY)


def plain_ext(code: int = 310) -> dict[str, str]:
    """Ext fields of a request that is plain."""
    header = SendHeader(
        producer_group="g",
        topic="FrameT",
        default_topic="TBW102",
        default_topic_queue_count=4,
        queue_id=1,
        sys_flag=0,
        born_timestamp=1_700_000_000_000,
        flag=0,
        properties=UNIQUE,
        max_reconsume_times=16,
    )
    return encode_send(header, code)


def json_frame(ext: Any, code: Any = 310, **members: Any) -> bytes:
    """A request with these ext fields, and with other members of the header set to anything."""
    fields = {"code": code, "extFields": ext, "flag": 0, "opaque": 1, "version": 513} | members
    return frame(json.dumps(fields, ensure_ascii=False).encode(), b"body")


def binary_frame(ext: dict[str, str], code: int = 310) -> bytes:
    """The same in the other serialization."""
    return frame(encode_header(Header(code=code, ext=ext), BINARY), b"body", BINARY)


BODIES = st.binary(min_size=1, max_size=80) | st.sampled_from(
    [b"", b"x" * MESSAGE_SIZE_MAX, b"x" * (MESSAGE_SIZE_MAX + 1)]
)


@st.composite
def request_frames(draw: st.DrawFn) -> bytes:
    """Frames of sends; a damaged header is in a frame with lengths that fit."""
    serialization = draw(st.sampled_from([JSON, BINARY]))
    headers = binary_headers() if serialization == BINARY else json_headers()
    if draw(st.integers(0, 3)) == 0:
        headers = damaged(headers)
    return frame(draw(headers), draw(BODIES), draw(st.sampled_from([serialization] * 19 + [2])))


STREAMS = st.lists(request_frames(), min_size=1, max_size=5).map(b"".join)
SMALL_NUMBERS = EDGE_NUMBERS | st.integers(0, 300)

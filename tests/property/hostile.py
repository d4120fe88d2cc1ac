"""Strategies of input that is nearly right: real frames, records and rings, then damaged."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from shmq.layout import record
from shmq.layout.record import Record

FRAMES_DIR = Path(__file__).parents[1] / "golden" / "data" / "frames"
GOLDEN_FRAMES = tuple(path.read_bytes() for path in sorted(FRAMES_DIR.glob("*.bin")))
GOLDEN_SENDS = tuple(
    path.read_bytes()
    for path in sorted(FRAMES_DIR.glob("*-310-SEND_MESSAGE_V2-[ro][en][eq]*.bin"))
    if "resp" not in path.name
)
assert len(GOLDEN_FRAMES) == 70
assert len(GOLDEN_SENDS) == 6

V4_HOSTS = st.binary(min_size=4, max_size=4)
V6_HOSTS = st.binary(min_size=16, max_size=16)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
EDGE_NUMBERS = st.sampled_from([0, 1, 2, 126, 127, 128, 254, 255, 256, 32766, 32767, 32768, 65535])


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Good bytes with some bytes changed, cut off, put in or doubled."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["set", "set near the head", "bit", "cut", "insert", "number"]))
        if kind == "set":
            data[at] = draw(st.integers(0, 255))
        elif kind == "set near the head":
            data[at % 128 % len(data)] = draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]))
        elif kind == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 9))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            data[at : at + 4] = draw(EDGE_NUMBERS).to_bytes(4, "big")
    return bytes(data)


TAGS = st.sampled_from(["TagA", "标签", "\U0001f600", "a\x01b", "x" * 300])
PROPERTIES = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    TAGS.map(lambda tag: f"KEYS\x01k\x02TAGS\x01{tag}\x02UNIQ_KEY\x01u\x02".encode()),
    st.lists(
        st.sampled_from(
            [
                b"TAGS\x01TagA",
                b"TAGS\x01",
                b"TAGS",
                b"TAGSX\x01y",
                b"A\x01b",
                b"",
                b"TAGS\x01\xed\xa0",
            ]
        ),
        max_size=5,
    ).map(b"\x02".join),
    st.binary(max_size=12).map(lambda tag: b"TAGS\x01" + tag.replace(b"\x02", b"")),
    st.sampled_from([32766, 32767]).map(lambda size: b"A\x01".ljust(size, b"b")),
)
TOPICS = st.sampled_from(
    ["T", "TopicTest", "t" * 127, "t" * 128, "t" * 300, "主题", "%RETRY%group"]
)


@st.composite
def records(draw: st.DrawFn, queue_ids: st.SearchStrategy[int] | None = None) -> Record:
    """Sound records of both versions, with hosts of both kinds."""
    topic = draw(TOPICS)
    born, store = draw(V4_HOSTS | V6_HOSTS), draw(V4_HOSTS | V6_HOSTS)
    sys_flag = draw(st.sampled_from([0, 1, 2, 0x700, 4, 8, 12]))
    sys_flag |= record.BORN_HOST_V6 if len(born) == record.IPV6_SIZE else 0
    sys_flag |= record.STORE_HOST_V6 if len(store) == record.IPV6_SIZE else 0
    v2_needed = record.magic_for(topic) == record.MAGIC_V2
    return Record(
        topic=topic,
        body=draw(st.binary(max_size=200)),
        properties=draw(PROPERTIES),
        queue_id=draw(st.integers(0, 7) if queue_ids is None else queue_ids),
        flag=draw(INT32),
        queue_offset=draw(st.integers(0, 2**40)),
        physical_offset=draw(st.integers(0, 2**50)),
        sys_flag=sys_flag,
        born_timestamp=draw(INT64),
        born_host=born,
        born_port=draw(st.integers(0, 65535)),
        store_timestamp=draw(INT64),
        store_host=store,
        store_port=draw(st.integers(0, 65535)),
        reconsume_times=draw(INT32),
        magic=record.MAGIC_V2 if v2_needed or draw(st.booleans()) else record.MAGIC_V1,
    )


RECORD_BYTES = records().map(record.encode)
BLANKS = st.integers(8, 64).map(lambda size: record.blank(size).ljust(size, b"\0"))

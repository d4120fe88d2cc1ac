"""The compiled path of a send and the general one give the same records and the same answers.

What the compiled parser takes, the general path must take too, with the same bytes: the client's
properties as they came, then MSG_REGION, TRACE_ON and CLUSTER. Only a name
that comes twice is kept twice by the parser, and once, with its last value, by the general path;
every reader takes the last one.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from shmq.broker.sending import Prepared, SendService, TopicUnknown
from shmq.errors import RequestRefused
from shmq.kernels.answers import AnswerBuilder
from shmq.kernels.sends import NEED_MORE, OTHER, SendParser
from shmq.layout import record
from shmq.layout.ring import ANSWER_BINARY, ANSWER_ONEWAY, COMPLETION, ENTRY
from shmq.wire.codes import RequestCode
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.header import BINARY, JSON, Header, answer, encode_frame, encode_header
from shmq.wire.properties import decode_properties
from shmq.wire.send import decode_send, encode_send
from tests.property.hostile import GOLDEN_SENDS, damaged
from tests.unit.broker_reads.sends import (
    BORN_HOST,
    BORN_PORT,
    STORE_HOST,
    STORE_PORT,
    V6_HOST,
    service,
    view,
)
from tests.unit.serve.frames import send_header

ENTRIES = 8
DATA_SIZE = 256 * 1024
BODY_SIZE_MAX = 2000
FRAME_SIZE_MAX = 1 << 20
CONNECTION = 5
CONNECTION_ID = 77
TOPICS = (view("T", 4), view("%|a-_", 1, first_slot=9), view("Narrow", 3, write_queue_nums=1))


class Paths:
    """Both paths, with the same knowledge."""

    def __init__(self, *, store_host: bytes = STORE_HOST, trace_on: bool = True) -> None:
        self.entries = np.zeros(ENTRIES, dtype=ENTRY)
        self.completions = np.zeros(ENTRIES, dtype=COMPLETION)
        self.data = np.zeros(DATA_SIZE, dtype=np.uint8)
        ring: dict[str, Any] = {
            "entries": self.entries.view(np.uint8),
            "data": self.data,
            "entry_count": ENTRIES,
            "data_size": DATA_SIZE,
            "store_host": store_host,
            "store_port": STORE_PORT,
            "region": b"DefaultRegion",
            "trace_on": trace_on,
        }
        self.parser = SendParser(
            **ring, cluster=b"C", message_size_max=BODY_SIZE_MAX, frame_size_max=FRAME_SIZE_MAX
        )
        self.builder = AnswerBuilder(**ring, completions=self.completions.view(np.uint8).data)
        self.service: SendService = service(
            *TOPICS,
            store_host=store_host,
            max_message_size=BODY_SIZE_MAX,
            trace_on=trace_on,
        )
        for topic in TOPICS:
            self.parser.put_topic(topic.name.encode(), topic.slots, topic.write_queue_nums)

    def compiled(self, frame: bytes, born_host: bytes) -> bool:
        """Whether the parser took the frame."""
        why = self.parser.feed(
            frame,
            0,
            len(frame),
            connection=CONNECTION,
            connection_id=CONNECTION_ID,
            born_host=born_host,
            born_port=BORN_PORT,
        )
        assert why in {NEED_MORE, OTHER}
        assert self.parser.position == (len(frame) if why == NEED_MORE else 0)
        return why == NEED_MORE

    def general(self, frame: Frame, born_host: bytes) -> Prepared:
        """What the general path makes of it."""
        return self.service.prepare(
            decode_send(frame.header.code, frame.header.ext),
            frame.body,
            born_host=born_host,
            born_port=BORN_PORT,
        )

    def record(self) -> bytes:
        """Data of the newest entry."""
        entry = self.entries[(self.parser.submitted - 1) % ENTRIES]
        at = int(entry["data_position"])
        return self.data[at : at + int(entry["data_size"])].tobytes()

    def answer(self, physical_offset: int, queue_offset: int) -> Frame:
        """The compiled answer to the newest entry."""
        number = self.parser.submitted - 1
        self.completions[number % ENTRIES] = (0, 0, physical_offset, queue_offset, 5)
        out = bytearray(65_536)
        end, runs = self.builder.build(number, number + 1, 2**62, out)
        assert end == number + 1
        assert [run[:3] for run in runs] == [(CONNECTION, CONNECTION_ID, 0)]
        return decoded(bytes(out[: runs[0][3]]))


def decoded(data: bytes) -> Frame:
    decoder = FrameDecoder(frame_size_max=FRAME_SIZE_MAX)
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    assert decoder.buffered_size == 0
    return frame


NAMES = st.sampled_from(
    ["TAGS", "KEYS", "WAIT", "a", "属性", "MSG_REGION", "TRACE_ON", "CLUSTER", "x" * 40, 'Q\t"\\']
) | st.text(st.characters(exclude_characters="\x01\x02", codec="utf-8"), min_size=1, max_size=6)
VALUES = st.text(st.characters(exclude_characters="\x01\x02", codec="utf-8"), max_size=12) | (
    st.sampled_from(["TagA", "标签", "\U0001f600", "true", "0", "\x00", "/", "x" * 500])
)
SPECIAL = st.sampled_from(
    [
        ("DELAY", "0"),
        ("DELAY", "3"),
        ("TRAN_MSG", "true"),
        ("TRAN_MSG", "false"),
        ("POP_CK", "k"),
        ("TIMER_DELIVER_MS", "9"),
        ("INNER_NUM", "2"),
        ("__CRC32#", "9"),
        ("UNIQ_KEY", "twice"),
    ]
)


def property_texts(*, odd: bool) -> st.SearchStrategy[str]:
    """Properties as clients write them, or as none does."""

    @st.composite
    def texts(draw: st.DrawFn) -> str:
        pairs = draw(st.lists(st.tuples(NAMES, VALUES.filter(bool)), max_size=5))
        unique = draw(st.sampled_from(["A0", "FD" * 16, 'k"\\\n\x7f€']))
        pairs.insert(draw(st.integers(0, len(pairs))), ("UNIQ_KEY", unique))
        if odd:
            pairs.append(draw(SPECIAL | st.tuples(NAMES, VALUES)))
        text = "".join(f"{name}\x01{value}\x02" for name, value in pairs)
        if odd:
            text = draw(
                st.sampled_from(
                    [text, text[:-1], "\x02" + text, text + "\x02", text + "loose", text[3:], ""]
                )
            )
        return text

    return texts()


NUMBERS = st.integers(-(2**31), 2**31 - 1)
ODD_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "topic": st.sampled_from(["Unknown", "%RETRY%g", "", "T\0"]),
    "queue_id": st.sampled_from([1, 3, 4, -1, 2**31 - 1]),
    "sys_flag": st.sampled_from([4, 0x10, 0x20, 0x40, 0x800, -1]),
    "born_timestamp": st.sampled_from([-1, 10**17, 10**18, 10**18 + 1, 2**63 - 1]),
    "reconsume_times": st.sampled_from([2**31 - 1, -1]),
    "max_reconsume_times": st.sampled_from([-1, 2**31 - 1]),
    "batch": st.just(value=True),
    "properties": property_texts(odd=True),
}


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Send requests; half of them plain, the others with something that is not."""
    code = draw(st.sampled_from([RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_MESSAGE]))
    fields: dict[str, Any] = {
        "topic": draw(st.sampled_from(["T", "%|a-_", "Narrow"])),
        "sys_flag": draw(st.sampled_from([0, 1, 2, 3, 0x301])),
        "flag": draw(NUMBERS),
        "born_timestamp": draw(st.integers(0, 2**48)),
        "reconsume_times": draw(st.sampled_from([0, 3])),
        "max_reconsume_times": draw(st.sampled_from([None, 16])),
        "properties": draw(property_texts(odd=False)),
    }
    odd = draw(st.sampled_from(["", "", "field", "field", "ext"]))
    if odd == "field":
        name = draw(st.sampled_from(sorted(ODD_FIELDS)))
        fields[name] = draw(ODD_FIELDS[name])
    ext = encode_send(send_header(**fields), code)
    if odd == "ext":
        key = draw(st.sampled_from(sorted(ext)))
        texts = ["", "+1", " 1", "01", "9" * 30, "true", "0x1", "-0", "٣"]
        value = draw(st.sampled_from([None, *texts]))
        del ext[key]
        if value is not None:
            ext[key] = value
    return Header(
        code,
        draw(NUMBERS),
        draw(st.sampled_from([0, 0, 0, 2])),
        draw(st.sampled_from(["JAVA", "GO", "CPP"])),
        draw(st.integers(0, 999)),
        ext=ext,
    )


def as_frame(header: Header, body: bytes, style: str) -> bytes:
    """The same request as different writers of JSON write it, or in the binary form."""
    if style == "binary":
        return encode_frame(header, body, BINARY)
    if style == "java":
        return encode_frame(header, body, JSON)
    fields = json.loads(encode_header(header, JSON))
    if style == "reversed":
        fields = dict(reversed(fields.items()))
        head = json.dumps(fields, ensure_ascii=False).encode()
    else:
        head = json.dumps(fields, separators=(",", ":")).encode()  # all but ASCII as escapes
    return (
        (4 + len(head) + len(body)).to_bytes(4, "big") + len(head).to_bytes(4, "big") + head + body
    )


STYLES = st.sampled_from(["java", "java", "binary", "ascii", "reversed"])
BODIES = st.binary(min_size=1, max_size=60) | st.sampled_from(
    [b"", bytes(BODY_SIZE_MAX), bytes(BODY_SIZE_MAX + 1)]
)
HOSTS = st.sampled_from([BORN_HOST, V6_HOST])


def same(paths: Paths, frame: bytes, born_host: bytes) -> str:
    """Send a frame down both paths; how it went."""
    taken = paths.compiled(frame, born_host)
    try:
        prepared = paths.general(asked := decoded(frame), born_host)
    except (RequestRefused, TopicUnknown):
        return "taken by the parser alone" if taken else "refused"
    if not taken:
        return "left to the general path"
    entry = paths.entries[(paths.parser.submitted - 1) % ENTRIES]
    ours = record.decode(paths.record())
    theirs = record.decode(prepared.data)
    names = [pair.partition("\x01")[0] for pair in ours.properties.decode().split("\x02")]
    if len(names) == len(set(names)):
        assert paths.record() == prepared.data
    assert decode_properties(ours.properties) == decode_properties(theirs.properties)
    ours.properties = theirs.properties
    assert ours == theirs
    assert int(entry["slot"]) == prepared.slot
    assert int(entry["queue_id"]) == prepared.queue_id
    assert int(entry["tags_code"]) == prepared.tags_code
    assert int(entry["opaque"]) == asked.header.opaque
    flags = ANSWER_ONEWAY * asked.header.is_oneway | ANSWER_BINARY * asked.serialization
    assert int(entry["answer_flags"]) == flags
    if not asked.header.is_oneway:
        ext = paths.service.answer(prepared, physical_offset=2**40 + 9, queue_offset=12)
        expected = encode_frame(answer(asked.header, 0, ext=ext), b"", asked.serialization)
        got = paths.answer(2**40 + 9, 12)
        assert got == decoded(expected)
        assert list(got.header.ext)[:2] == ["queueId", "transactionId"]  # Java's order
    return "taken by both"


@settings(max_examples=400)
@given(headers(), BODIES, STYLES, HOSTS, HOSTS, st.booleans())
def test_same_records_and_answers(  # noqa: PLR0917  drawn, not called
    header: Header,
    body: bytes,
    style: str,
    born_host: bytes,
    store_host: bytes,
    trace_on: bool,  # noqa: FBT001
) -> None:
    paths = Paths(store_host=store_host, trace_on=trace_on)
    how = same(paths, as_frame(header, body, style), born_host)
    event(how)
    assert how != "taken by the parser alone"


@settings(max_examples=200)
@given(damaged(st.sampled_from(GOLDEN_SENDS)))
def test_what_the_parser_takes_of_damaged_frames_is_the_same(frame: bytes) -> None:
    assume(len(frame) >= 8)
    size = len(frame) - 4
    frame = size.to_bytes(4, "big") + frame[4:]
    assume(int.from_bytes(frame[5:8], "big") <= size - 4)
    paths = Paths()
    paths.parser.put_topic(b"FrameT", [0, 1, 2, 3], 4)
    paths.service._views.topics["FrameT"] = view("FrameT")
    if paths.parser.feed(
        frame,
        0,
        len(frame),
        connection=CONNECTION,
        connection_id=CONNECTION_ID,
        born_host=BORN_HOST,
        born_port=BORN_PORT,
    ) == NEED_MORE and paths.parser.position == len(frame):
        again = Paths()
        again.parser.put_topic(b"FrameT", [0, 1, 2, 3], 4)
        again.service._views.topics["FrameT"] = view("FrameT")
        assert same(again, frame, BORN_HOST) == "taken by both"


@pytest.mark.parametrize("style", ["java", "binary", "ascii", "reversed"])
@pytest.mark.parametrize("code", [RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2])
@pytest.mark.parametrize("flag", [0, 2])
def test_plain_sends_take_the_compiled_path(style: str, code: int, flag: int) -> None:
    """The equality above means little if the parser leaves everything to the general path."""
    text = "KEYS\x01键 k\x02UNIQ_KEY\x01FD01\x02WAIT\x01true\x02TAGS\x01\U0001f600\x02"
    header = Header(code, 9, flag, ext=encode_send(send_header(properties=text), code))
    assert same(Paths(), as_frame(header, b"body", style), BORN_HOST) == "taken by both"


@pytest.mark.parametrize("style", ["java", "binary"])
def test_many_in_one_feed(style: str) -> None:
    """Eight frames, each in an entry of its own; the ninth finds the ring full."""
    paths = Paths()
    stream = b""
    for number in range(ENTRIES):
        sent = send_header(queue_id=number % 4, properties=f"UNIQ_KEY\x01U{number}\x02")
        header = Header(310, number, ext=encode_send(sent, 310))
        stream += as_frame(header, b"b%d" % number, style)
    assert paths.compiled(stream, BORN_HOST)
    assert paths.parser.submitted == ENTRIES
    for number in range(ENTRIES):
        paths.completions[number] = (0, 0, 1000 * number, number, 5)
    out = bytearray(65_536)
    end, runs = paths.builder.build(0, ENTRIES, 2**62, out)
    assert (end, len(runs)) == (ENTRIES, 1)
    decoder = FrameDecoder()
    decoder.feed(out[: runs[0][3]])
    for number in range(ENTRIES):
        got = decoder.next_frame()
        assert got is not None
        assert got.header.opaque == number
        assert got.header.ext["transactionId"] == f"U{number}"
        assert got.header.ext["queueOffset"] == str(number)

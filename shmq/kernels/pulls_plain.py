"""Plain twin of pulls.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmq.errors import LayoutError
from shmq.kernels.requestheader_plain import (
    INT32_MAX,
    Header,
    NotPlain,
    number,
    read_binary,
    read_json,
)
from shmq.layout.cqentry import FILLER_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

PULL_MESSAGE: Final = 11
SUBSCRIPTION_BIT: Final = 4
HEADER_SIZE_MAX: Final = 65536
INT64_MAX: Final = 2**63 - 1
DIGITS_MAX: Final = 18
PREFIX_SIZE: Final = 8
SERIALIZATION_BINARY: Final = 1
LANGUAGE_PYTHON: Final = 3
VERSION: Final = 513
BODY_SIZE_MAX: Final = INT32_MAX - 512
TEXTS: Final = ("consumerGroup", "topic", "subscription", "expressionType")
INTS: Final = ("queueId", "maxMsgNums", "sysFlag")
LONGS: Final = ("queueOffset", "commitOffset", "suspendTimeoutMillis", "subVersion")
OPTIONAL: Final = ("maxMsgBytes", "requestSource")
ONCE_ONLY: Final = frozenset((*TEXTS, *INTS, *LONGS, *OPTIONAL))


class PullReader:
    """Reads the headers of plain pulls; see the kernel."""

    def __init__(self) -> None:
        self.opaque = 0
        self.queue_id = 0
        self.queue_offset = 0
        self.count_max = 0
        self.sys_flag = 0
        self.commit_offset = 0
        self.suspend_timeout_ms = 0
        self.size_max = 0
        self.binary = False
        self.key = b""

    def read(self, frame: Buffer) -> bool:
        """Whether `frame`, a whole one, is a plain pull; its fields are then in the attributes."""
        data = bytes(frame)
        header_size = int.from_bytes(data[5:8], "big")
        if (
            len(data) < PREFIX_SIZE
            or data[4] > SERIALIZATION_BINARY
            or header_size > min(HEADER_SIZE_MAX, len(data) - PREFIX_SIZE)
        ):
            return False
        binary = data[4] == SERIALIZATION_BINARY
        try:
            header = (read_binary if binary else read_json)(
                data[PREFIX_SIZE : PREFIX_SIZE + header_size], ONCE_ONLY
            )
            self._take(header, binary=binary)
        except NotPlain:
            return False
        return True

    def _take(self, header: Header, *, binary: bool) -> None:
        ext = header.ext
        if header.code != PULL_MESSAGE or header.flag != 0:
            raise NotPlain
        if not -INT32_MAX - 1 <= header.opaque <= INT32_MAX:
            raise NotPlain
        texts = [ext.get(name, b"") for name in TEXTS]
        if not texts[0] or not texts[1] or (header.json and any(b"\\" in text for text in texts)):
            raise NotPlain
        numbers = {name: number(ext, name, signed=True) for name in INTS}
        for name in LONGS:
            numbers[name] = number(ext, name, signed=True, digits_max=DIGITS_MAX, limit=INT64_MAX)
        for name in OPTIONAL:
            numbers[name] = number(ext, name, signed=True) if ext.get(name) else -1
        if ext.get("maxMsgBytes") and numbers["maxMsgBytes"] < 0:
            raise NotPlain
        self.binary = binary
        self.opaque = header.opaque
        self.queue_id = numbers["queueId"]
        self.queue_offset = numbers["queueOffset"]
        self.count_max = numbers["maxMsgNums"]
        self.sys_flag = numbers["sysFlag"]
        self.commit_offset = numbers["commitOffset"]
        self.suspend_timeout_ms = numbers["suspendTimeoutMillis"]
        self.size_max = numbers["maxMsgBytes"]
        self.key = (
            (b"\x01" if numbers["sysFlag"] & SUBSCRIPTION_BIT else b"\x00")
            + numbers["subVersion"].to_bytes(8, "big", signed=True)
            + b"".join(len(text).to_bytes(4, "big") + text for text in texts)
        )


def choose(
    entries: NDArray[np.void],
    count_max: int,
    size_max: int,
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> tuple[int, int]:
    """How many of the first entries go into one answer, and the bytes of their records."""
    if not 1 <= count_max <= min(len(offsets), len(sizes)):
        raise LayoutError("room for chosen entries", count_max=count_max, room=len(offsets))
    total = count = 0
    for entry in entries[:count_max]:
        size = int(entry["size"])
        if size <= 0 or size == FILLER_SIZE:
            return 0, 0
        if count and total + size > size_max:
            break
        offsets[count], sizes[count] = entry["physical_offset"], size
        total += size
        count += 1
    return count, total


def found_frame(
    body_size: int,
    *,
    binary: bool,
    opaque: int,
    next_offset: int,
    min_offset: int,
    max_offset: int,
    broker_id: int,
) -> tuple[bytearray, int]:
    """Frame of the answer SUCCESS to a pull, but for its body."""
    if not 0 <= body_size <= BODY_SIZE_MAX:
        raise LayoutError("size of a body", size=body_size)
    ext = {
        "suggestWhichBrokerId": broker_id,
        "groupSysFlag": 0,
        "nextBeginOffset": next_offset,
        "maxOffset": max_offset,
        "minOffset": min_offset,
        "topicSysFlag": 0,
    }
    head = _binary(opaque, ext) if binary else _json(opaque, ext)
    kind = (SERIALIZATION_BINARY << 24 if binary else 0) | len(head)
    sizes = (4 + len(head) + body_size).to_bytes(4, "big") + kind.to_bytes(4, "big")
    return bytearray(sizes + head + bytes(body_size)), PREFIX_SIZE + len(head)


def _json(opaque: int, ext: dict[str, int]) -> bytes:
    fields = ",".join(f'"{name}":"{value}"' for name, value in ext.items())
    return (
        f'{{"code":0,"extFields":{{{fields}}},"flag":1,"language":"PYTHON","opaque":{opaque},'
        f'"remark":"FOUND","serializeTypeCurrentRPC":"JSON","version":{VERSION}}}'
    ).encode()


def _binary(opaque: int, ext: dict[str, int]) -> bytes:
    fields = b"".join(
        len(name).to_bytes(2, "big") + name.encode() + len(text).to_bytes(4, "big") + text
        for name, text in ((name, str(value).encode()) for name, value in ext.items())
    )
    return (
        b"\x00\x00"
        + LANGUAGE_PYTHON.to_bytes(1, "big")
        + VERSION.to_bytes(2, "big")
        + opaque.to_bytes(4, "big", signed=True)
        + b"\x00\x00\x00\x01\x00\x00\x00\x05FOUND"
        + len(fields).to_bytes(4, "big")
        + fields
    )

"""Records of the commitlog as items; where the bytes come from is the caller's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shmq.errors import CorruptRecord, ProtocolError
from shmq.layout import record as layout
from shmq.wire.codes import COMPRESSION_MASK, TRANSACTION_MASK, SysFlag
from shmq.wire.messageid import host_text
from shmq.wire.properties import decode_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECORD_MAGICS: Final = {layout.MAGIC_V1: 1, layout.MAGIC_V2: 2}
DAMAGE_SHOWN_MAX: Final = 32
"""Bytes shown of what is no record."""
ZEROS: Final = "zeros: nothing was written from here on"
SINGLE_FLAGS: Final = (
    SysFlag.COMPRESSED,
    SysFlag.MULTI_TAGS,
    SysFlag.BORN_HOST_V6,
    SysFlag.STORE_HOST_V6,
    SysFlag.NEED_UNWRAP,
    SysFlag.INNER_BATCH,
)


def damage(what: object, *, at: int, data: bytes | memoryview = b"") -> dict[str, Any]:
    """The item for bytes that are not what they should be; the last of its file."""
    return {
        "kind": "damage",
        "at": at,
        "what": str(what),
        "bytes": bytes(data[:DAMAGE_SHOWN_MAX]).hex(),
    }


def record_items(
    read: Callable[[int, int], bytes],
    *,
    begin: int,
    end: int,
    first: int,
    physical_start: int | None,
    with_body: bool,
) -> Iterator[dict[str, Any]]:
    """Records that begin at `first` or later, up to `end`, the first non-record or damage.

    Args:
        read: gives `size` bytes at a position, fewer where there are no more.
        begin: position of some record.
        end: exclusive.
        first: any position; where no record begins there, the next one is the first.
        physical_start: physical offset of position 0, or None when nobody knows.
        with_body: the bodies too.
    """
    at = first if begin < first < end and _is_record(read, first, end) else begin
    while at < end:
        start = read(at, layout.BLANK_HEAD_SIZE)
        try:
            size, magic = layout.head(start)
            if (size, magic) == (0, 0):
                yield {"kind": "end", "at": at, "what": ZEROS}
                return
            if magic != layout.BLANK_MAGIC or size < layout.BLANK_HEAD_SIZE or at + size > end:
                _check_head(size, magic, room=end - at)
            if at >= first:
                yield _item(read, at, size, magic, physical_start, with_body=with_body)
        except CorruptRecord as error:
            yield damage(error, at=at, data=read(at, DAMAGE_SHOWN_MAX))
            return
        at += size


def _is_record(read: Callable[[int, int], bytes], at: int, end: int) -> bool:
    try:
        size, magic = layout.head(read(at, layout.BLANK_HEAD_SIZE))
        _check_head(size, magic, room=end - at)
        layout.decode(read(at, size))
    except CorruptRecord:
        return False
    return True


def _check_head(size: int, magic: int, *, room: int) -> None:
    if magic == layout.BLANK_MAGIC:
        raise CorruptRecord("blank size", found=size, allowed=(layout.BLANK_HEAD_SIZE, room))
    if magic not in RECORD_MAGICS:
        raise CorruptRecord("magic", found=f"{magic:#x}", allowed="0xdaa320a7, 0xdaa320ab")
    if not layout.RECORD_SIZE_MIN <= size <= room:
        raise CorruptRecord("record size", found=size, allowed=(layout.RECORD_SIZE_MIN, room))


def _item(
    read: Callable[[int, int], bytes],
    at: int,
    size: int,
    magic: int,
    physical_start: int | None,
    *,
    with_body: bool,
) -> dict[str, Any]:
    if magic == layout.BLANK_MAGIC:
        return {"kind": "blank", "at": at, "size": size}
    found = layout.decode(read(at, size), check_crc=False)
    item: dict[str, Any] = {
        "kind": "record",
        "at": at,
        "physicalOffset": found.physical_offset,
        "size": size,
        "topic": found.topic,
        "queueId": found.queue_id,
        "queueOffset": found.queue_offset,
        "storeTimestamp": found.store_timestamp,
        "bornTimestamp": found.born_timestamp,
        "bornHost": _host(found.born_host, found.born_port),
        "storeHost": _host(found.store_host, found.store_port),
        "flag": found.flag,
        "sysFlag": found.sys_flag,
        "sysFlagNames": sys_flag_names(found.sys_flag),
        "reconsumeTimes": found.reconsume_times,
        "preparedTransactionOffset": found.prepared_transaction_offset,
        "version": RECORD_MAGICS[magic],
        "bodySize": len(found.body),
        "bodyCrc": found.body_crc,
    }
    computed = layout.body_crc(found.body)
    if found.body_crc != computed:
        item["bodyCrcComputed"] = computed
    if physical_start is not None and physical_start + at != found.physical_offset:
        item["physicalOffsetExpected"] = physical_start + at
    item |= _properties(found.properties)
    if with_body:
        item |= _body(found.body)
    return item


def sys_flag_names(flags: int) -> list[str]:
    """Names of what is set in a record's sys flag."""
    names = [str(flag.name) for flag in SINGLE_FLAGS if flags & flag]
    groups = [
        (TRANSACTION_MASK, "TRANSACTION"),
        (COMPRESSION_MASK, "COMPRESSION"),
    ]
    for mask, prefix in groups:
        if flags & mask:
            name = SysFlag(flags & mask).name
            names.append(name if name and "|" not in name else f"{prefix}_{flags & mask:#x}")
    return names


def _host(address: bytes, port: int) -> str:
    text = host_text(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _properties(data: bytes) -> dict[str, Any]:
    try:
        return {"properties": decode_properties(data)}
    except ProtocolError:
        return {"propertiesHex": data.hex()}


def _body(body: bytes) -> dict[str, str]:
    """The body as stored: text where it is text, else hexadecimal."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"bodyHex": body.hex()}
    whole = all(character.isprintable() or character in "\t\r\n" for character in text)
    return {"body": text} if whole else {"bodyHex": body.hex()}

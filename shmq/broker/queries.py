"""Requests that find messages by a key.

    12 QUERY_MESSAGE    by a word of KEYS, by the unique key, or by the tag (indexType T)

The index gives places where a record with this key may be; each record found there is compared
before it is answered, for an index file holds hashes, and may say more than the log still has.

A request's work is bounded: so many entries looked at, records read, bytes answered. What was found
until then is answered.

Source: RocketMQ processor/QueryMessageProcessor, store/index/IndexService.queryOffset; spec
request-codes.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmq.broker.fields import INT_MAX, LONG_MAX, LONG_MIN, flag, need_int, need_text
from shmq.broker.lookups import Found
from shmq.errors import CorruptRecord, ProtocolError, RequestRefused, StoreError
from shmq.layout import record
from shmq.layout.indexfile import FIRST_ENTRY_COUNT, index_key, key_hash, tag_index_key
from shmq.units import SECOND_MS, MiB
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.properties import KEYS, KEYS_SEPARATOR, TAGS, UNIQ_KEY, decode_properties

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shmq.broker.lookups import Handler
    from shmq.config import Settings
    from shmq.layout.record import Record
    from shmq.reading import LogReader
    from shmq.store.indexfiles import IndexFile, IndexReader

SHOWN_MAX: Final = 64
"""Characters of what was asked for that an answer repeats."""
UNIQUE_KEY_QUERY: Final = "_UNIQUE_KEY_QUERY"
TAG_TYPE: Final = "T"
STEPS_MAX: Final = 200_000
"""Index entries that one request looks at: some 10 ms when they are in memory."""
READ_COUNT_MAX: Final = 1_000
READ_SIZE_MAX: Final = 64 * MiB
ANSWER_SIZE_MAX: Final = 8 * MiB
"""A client takes frames of 16 MiB; one message is answered whatever its size is."""


class Queries:
    """Answers queries by key, as one process sees index and log."""

    def __init__(self, *, settings: Settings, index: IndexReader, log_reader: LogReader) -> None:
        self._index = index
        self._log_reader = log_reader
        self.handlers: dict[int, Handler] = {RequestCode.QUERY_MESSAGE: self.query}
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        self._count_max = settings.max_msgs_num_batch
        self._unique_count_max = settings.default_query_max_num

    def query(self, ext: Mapping[str, str]) -> Found:
        """12: the newest records with a key, in the order of the log.

        Raises:
            RequestRefused: no record is found (QUERY_NOT_FOUND), or a field is missing or wrong.
        """
        wanted = _Wanted(ext)
        count_max = need_int(ext, "maxNum", low=0, high=INT_MAX)
        if wanted.unique:
            count_max = self._unique_count_max
        files = self._index.files()
        found = self._find(wanted, files, min(count_max, self._count_max))
        if not found:
            raise RequestRefused(
                ResponseCode.QUERY_NOT_FOUND,
                "no message with this key and store time",
                topic=repr(wanted.topic[:SHOWN_MAX]),
                key=repr(wanted.key[:SHOWN_MAX]),
                times=(wanted.begin, wanted.end),
            )
        newest = files[0].header if files else None
        ext_found = {
            "indexLastUpdateTimestamp": str(newest.end_timestamp if newest else 0),
            "indexLastUpdatePhyoffset": str(newest.end_offset if newest else 0),
        }
        return Found(ext_found, b"".join(found[offset] for offset in sorted(found)))

    def _find(
        self, wanted: _Wanted, files: Sequence[IndexFile], count_max: int
    ) -> dict[int, bytes]:
        """At most `count_max` records by their physical offsets."""
        found: dict[int, bytes] = {}
        seen: set[int] = set()
        read_size = answer_size = 0
        for offset in _offsets(wanted, files):
            if len(found) >= count_max or len(seen) >= READ_COUNT_MAX or read_size > READ_SIZE_MAX:
                break
            if offset in seen:
                continue
            seen.add(offset)
            try:
                data = self._log_reader.whole_record(offset)
            except StoreError:
                continue  # Deleted, or cut off after a crash.
            read_size += len(data)
            if not wanted.is_met_by(data):
                continue
            if found and answer_size + len(data) > ANSWER_SIZE_MAX:
                break
            found[offset] = data
            answer_size += len(data)
        return found


class _Wanted:
    """What a request asks for.

    Raises:
        RequestRefused: a field is missing or wrong, or no record can have such a topic or key.
    """

    def __init__(self, ext: Mapping[str, str]) -> None:
        self.topic = need_text(ext, "topic")
        self.key = need_text(ext, "key")
        size = max(len(self.topic), len(self.key))
        if size > record.PROPERTIES_SIZE_MAX:
            raise RequestRefused(
                ResponseCode.QUERY_NOT_FOUND,
                "no message has so long a topic or key",
                size=size,
                allowed_max=record.PROPERTIES_SIZE_MAX,
            )
        self.begin = need_int(ext, "beginTimestamp", low=LONG_MIN, high=LONG_MAX)
        self.end = need_int(ext, "endTimestamp", low=LONG_MIN, high=LONG_MAX)
        self.unique = flag(ext, UNIQUE_KEY_QUERY)
        self._by_tag = ext.get("indexType") == TAG_TYPE and not self.unique
        hashed = tag_index_key if self._by_tag else index_key
        self.key_hash = key_hash(hashed(self.topic, self.key))

    def is_met_by(self, data: bytes) -> bool:
        """Whether a record has the topic, the key, and a store time within the bounds."""
        try:
            found = record.decode(data, check_crc=False)
            return (
                found.topic == self.topic
                and self.begin <= found.store_timestamp <= self.end
                and self._has_key(found)
            )
        except (CorruptRecord, ProtocolError):
            return False

    def _has_key(self, found: Record) -> bool:
        properties = decode_properties(found.properties)
        if self._by_tag:
            return properties.get(TAGS) == self.key
        if properties.get(UNIQ_KEY) == self.key:
            return True
        return self.key != "" and self.key in properties.get(KEYS, "").split(KEYS_SEPARATOR)


def _offsets(wanted: _Wanted, files: Sequence[IndexFile]) -> Iterator[int]:
    """Where the index says that a record with this key may be, the newest first."""
    left = STEPS_MAX
    for file in files:
        header = file.header
        if header.entry_count <= FIRST_ENTRY_COUNT or header.begin_timestamp > wanted.end:
            continue
        if header.end_timestamp + SECOND_MS <= wanted.begin:
            return  # So do all older files.
        start = 0
        while left > 0:
            offsets, start, steps = file.find(
                wanted.key_hash,
                begin_timestamp=wanted.begin,
                end_timestamp=wanted.end,
                start=start,
                steps_max=left,
            )
            left -= steps
            yield from offsets
            if not start:
                break

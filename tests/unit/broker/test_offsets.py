"""Committed offsets: answered, journalled, saved, and there again after any death."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmq.layout import offsetjournal as layout
from shmq.layout.offsetjournal import JournalEntry
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.internal import Commit
from tests.unit.broker.conftest import MakeRoom
from tests.unit.broker.controlroom import OFFSETS_INTERVAL_MS, ControlRoom, replies


@pytest.fixture
def room(make_room: MakeRoom) -> ControlRoom:
    room = make_room()
    room.create_topic("T", queues=4)
    room.heartbeat("c", "G")
    room.settle()
    return room


def commit(room: ControlRoom, offset: int, *, queue_id: int = 0, group: str = "G") -> int:
    ext = {
        "consumerGroup": group,
        "topic": "T",
        "queueId": str(queue_id),
        "commitOffset": str(offset),
    }
    return room.reply(RequestCode.UPDATE_CONSUMER_OFFSET, ext).code


def query(room: ControlRoom, *, queue_id: int = 0, group: str = "G", **more: str) -> int | None:
    ext = {"consumerGroup": group, "topic": "T", "queueId": str(queue_id), **more}
    reply = room.reply(RequestCode.QUERY_CONSUMER_OFFSET, ext)
    if reply.code == ResponseCode.QUERY_NOT_FOUND:
        return None
    assert reply.code == 0, reply.remark
    return int(reply.ext["offset"])


def test_what_was_committed_is_known(room: ControlRoom) -> None:
    assert query(room) is None
    assert commit(room, 5) == 0
    assert query(room) == 5
    assert query(room, queue_id=1) is None
    assert query(room, group="H") is None
    assert commit(room, 3) == 0
    assert query(room) == 3, "it may go backwards"


def test_a_new_group_begins_at_zero_while_all_is_in_memory(room: ControlRoom) -> None:
    slot = room.queues.slot("T", 0)
    assert slot is not None
    room.queues.max_offsets[slot] = 10
    assert query(room) == 0
    assert query(room, setZeroIfNotFound="false") is None
    room.in_memory = False
    assert query(room) is None
    room.in_memory = True
    room.queues.min_offsets[slot] = 1
    assert query(room) is None


def test_pulls_commit_without_an_answer(room: ControlRoom) -> None:
    entries = [
        ("G", "T", 0, 7),
        ("G", "T", 65_535, 9),
        ("G", "T", 65_536, 1),
        ("G", "T", -1, 1),
        ("G", "T", 1, -1),
        ("X", "T", 1, 1),
        ("G", "X", 1, 1),
    ]
    room.send(Commit(entries))
    assert replies(room.settle()) == []
    assert query(room) == 7
    assert room.plane.offsets.body().offset_table == {"T@G": {0: 7, 65_535: 9}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("commitOffset", "-1"),
        ("commitOffset", str(2**63)),
        ("commitOffset", "x"),
        ("queueId", "-1"),
        ("queueId", "65536"),
        ("topic", "X"),
        ("consumerGroup", "X"),
        ("commitOffset", None),
    ],
)
def test_commits_that_make_no_sense(room: ControlRoom, field: str, value: str | None) -> None:
    ext = {"consumerGroup": "G", "topic": "T", "queueId": "0", "commitOffset": "1"}
    ext = {name: text for name, text in (ext | {field: value}).items() if text is not None}
    assert room.reply(RequestCode.UPDATE_CONSUMER_OFFSET, ext).code != 0
    assert query(room) is None


def test_an_answered_commit_outlives_the_coordinator(
    room: ControlRoom, make_room: MakeRoom
) -> None:
    """It is in the journal; the table is written every few seconds."""
    for offset in range(1, 20):
        commit(room, offset, queue_id=offset % 3)
    again = make_room()
    assert again.replayed == 19
    assert [query(again, queue_id=queue_id) for queue_id in range(3)] == [18, 19, 17]
    assert not (room.folder / "consumerOffset.json").exists()


def test_the_table_is_written_in_time_and_empties_the_journal(
    room: ControlRoom, make_room: MakeRoom
) -> None:
    commit(room, 5)
    room.pass_time(OFFSETS_INTERVAL_MS - 1)
    assert not (room.folder / "consumerOffset.json").exists()
    room.pass_time(1)
    table = jsonish.loads((room.folder / "consumerOffset.json").read_bytes())
    assert table["offsetTable"] == {"T@G": {"0": 5}}
    assert (room.folder / "offsets.journal").read_bytes() == layout.header(1)
    again = make_room()
    assert (again.replayed, query(again)) == (0, 5)


def test_the_journal_cut_at_every_byte(room: ControlRoom, make_room: MakeRoom) -> None:
    for offset in (1, 2, 3):
        commit(room, offset)
    journal = room.folder / "offsets.journal"
    whole = journal.read_bytes()
    size = len(layout.encode(JournalEntry("G", "T", 0, 1), 0))
    assert len(whole) == layout.HEADER_SIZE + 3 * size
    for cut in range(len(whole) + 1):
        journal.write_bytes(whole[:cut])
        again = make_room()
        kept = max(0, cut - layout.HEADER_SIZE) // size
        assert again.replayed == kept, cut
        assert query(again) == (kept or None)
        assert commit(again, 9) == 0
        again.close()
        once_more = make_room()
        assert query(once_more) == 9, "what is committed after a cut is found again"
        once_more.close()


def test_a_journal_that_the_table_has_is_not_replayed(
    room: ControlRoom, make_room: MakeRoom
) -> None:
    """A power cut left the journal as it was before the table, and of it only the first commit."""
    commit(room, 4)
    journal = room.folder / "offsets.journal"
    only_first = journal.read_bytes()
    commit(room, 9)
    room.pass_time(OFFSETS_INTERVAL_MS)
    journal.write_bytes(only_first)
    again = make_room()
    assert (again.replayed, query(again)) == (0, 9)
    assert journal.read_bytes() == layout.header(1)


def test_an_old_journal_is_replayed_and_goes_on(room: ControlRoom, make_room: MakeRoom) -> None:
    journal = room.folder / "offsets.journal"
    journal.write_bytes(layout.OLD_MAGIC + layout.encode(JournalEntry("G", "T", 0, 5), None))
    again = make_room()
    assert (again.replayed, query(again)) == (1, 5)
    commit(again, 6)
    once_more = make_room()
    assert (once_more.replayed, query(once_more)) == (2, 6)
    once_more.pass_time(2 * OFFSETS_INTERVAL_MS)
    assert journal.read_bytes() == layout.header(1)


def test_commits_go_into_a_journal_that_could_not_be_emptied(
    room: ControlRoom, make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come after the table that was written: a successor must see them as such."""
    commit(room, 4)

    def refused(_fd: int, _size: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refused)
        room.pass_time(OFFSETS_INTERVAL_MS)
        assert (room.folder / "consumerOffset.json").exists()
        assert commit(room, 5) == ResponseCode.SYSTEM_ERROR
    assert commit(room, 6) == 0
    assert query(make_room()) == 6


def test_a_damaged_journal_is_kept_aside(room: ControlRoom, make_room: MakeRoom) -> None:
    commit(room, 4)
    journal = room.folder / "offsets.journal"
    data = bytearray(journal.read_bytes())
    data[0] ^= 1
    journal.write_bytes(data)
    again = make_room()
    assert again.replayed == 0
    assert (room.folder / "offsets.journal.damaged-1").read_bytes() == data
    commit(again, 6)
    assert query(make_room()) == 6


def test_what_is_cut_off_a_journal_is_kept_aside(room: ControlRoom, make_room: MakeRoom) -> None:
    commit(room, 4)
    journal = room.folder / "offsets.journal"
    kept = journal.stat().st_size
    commit(room, 5)
    commit(room, 6)
    data = bytearray(journal.read_bytes())
    data[kept] ^= 1
    journal.write_bytes(data)
    again = make_room()
    assert (again.replayed, query(again)) == (1, 4)
    assert (room.folder / "offsets.journal.damaged-1").read_bytes() == data[kept:]


def test_a_removal_is_journalled_too(room: ControlRoom, make_room: MakeRoom) -> None:
    commit(room, 4)
    commit(room, 4, queue_id=1)
    room.plane.offsets.remove_group("G")
    room.settle()
    commit(room, 1, queue_id=1)
    again = make_room()
    assert (query(again), query(again, queue_id=1)) == (None, 1)


def test_a_commit_that_is_not_on_disk_is_not_confirmed(
    room: ControlRoom, make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(room, 1)
    pwrite = os.pwrite
    for partly in (False, True):

        def full(fd: int, data: bytes, at: int, *, partly: bool = partly) -> int:
            if partly:
                return pwrite(fd, data[: len(data) // 2], at)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            assert commit(room, 2 + partly) == ResponseCode.SYSTEM_ERROR
        assert query(make_room()) in (1, 2), "what stands in the journal is whole"
        room.settle()
        assert query(make_room()) == 2 + partly, "it was tried again"


def test_consume_stats(room: ControlRoom) -> None:
    commit(room, 5)
    slot = room.queues.slot("T", 0)
    assert slot is not None
    room.queues.max_offsets[slot] = 12
    reply = room.reply(RequestCode.GET_CONSUME_STATS, {"consumerGroup": "G", "topic": "T"})
    assert b'{"brokerName":"B","queueId":0,"topic":"T"}:{"brokerOffset":12,"consumerOffset":5' in (
        reply.body
    )


def test_apache_tables_are_read(tmp_path: Path, make_room: MakeRoom) -> None:
    """Integer keys without quotes, names of all kinds."""
    (tmp_path / "consumerOffset.json").write_text(
        '{"dataVersion":{"counter":3},"offsetTable":{"T@G":{0:11,1:12},"%RETRY%G@G":{0:3},"x":{0:1}}}'
    )
    room = make_room()
    assert query(room) == 11
    assert query(room, queue_id=1) == 12
    assert room.plane.offsets.skipped == ["x"]

"""Apache's stores, examined: sound as they are, damaged where a byte that is checked is changed."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmq.config import Settings
from shmq.errors import InvalidMessage
from shmq.export import Export, Selection
from shmq.export.message import FORMATS, fields_of
from shmq.units import MiB
from shmq.verify import Result, Severity, find_store, verify
from shmq.verify.store import Store
from shmq.verify.text import findings_text, summary_text
from tests.unit.workers.house import House

QUEUE_FILE_SIZE = 20_000
COVERED = ("size", "magic", "crc", "queueId", "queueOffset", "physicalOffset", "bodySize", "body")
COVERED_TOO = ("topicSize", "topic", "propertiesSize")
MANY = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


class GoldenStore(Protocol):
    """The fixture `golden_store`."""

    root: Path
    manifest: dict[str, Any]


def find_settings(root: Path, *, sizes: bool = True) -> Settings:
    chosen: dict[str, Any] = (
        {
            "mapped_file_size_commit_log": MiB,
            "mapped_file_size_consume_queue": QUEUE_FILE_SIZE,
            "max_hash_slot_num": 100,
            "max_index_num": 400,
        }
        if sizes
        else {}
    )
    return Settings(store_path_root_dir=str(root), **chosen)


def find(root: Path, *, sizes: bool = True) -> Store:
    return find_store(find_settings(root, sizes=sizes), root, root / "commitlog")


def examine(root: Path) -> Result:
    return verify(find(root))


def digests(root: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("sizes", [True, False])
def test_sound_as_they_are(golden_store: GoldenStore, *, sizes: bool) -> None:
    """Also without settings: files tell how large they are."""
    before = digests(golden_store.root)
    found = verify(find(golden_store.root, sizes=sizes), jobs=2)
    assert {one.severity for one in found.findings} == {Severity.INFO}
    assert found.records == len(golden_store.manifest["stored"])
    per_queue = golden_store.manifest["recordsPerQueue"]
    assert found.records - found.entries == (not find(golden_store.root).clean)
    assert found.queues in {len(per_queue), len(per_queue) - 1}
    assert found.index_entries > 3000
    assert digests(golden_store.root) == before
    assert summary_text(found, 1.0).splitlines()[-1].startswith("sound: damage 0, warnings 0")


# Damage


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def flipped(at: int, bit: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def places(stored: dict[str, Any]) -> dict[str, range]:
    """Where the fields of a record lie, from its start."""
    body, topic = stored["storedBodyLen"], len(stored["topic"])
    starts = {
        "size": (0, 4),
        "magic": (4, 4),
        "crc": (8, 4),
        "queueId": (12, 4),
        "queueOffset": (20, 8),
        "physicalOffset": (28, 8),
        "bodySize": (84, 4),
        "body": (88, body),
        "topicSize": (88 + body, 1),
        "topic": (89 + body, topic),
        "propertiesSize": (89 + body + topic, 2),
    }
    return {name: range(at, at + size) for name, (at, size) in starts.items()}


@given(data=st.data())
@MANY
def test_a_flip_in_the_log_is_found(golden_store: GoldenStore, data: st.DataObject) -> None:
    """Every bit of the body and of each field that another place in the store confirms."""
    dispatched = golden_store.manifest["stored"][:1300]
    stored = data.draw(st.sampled_from(dispatched))
    name = data.draw(st.sampled_from(COVERED + COVERED_TOO))
    place = places(stored)[name]
    if not place:
        return
    at = stored["commitlogOffset"] + data.draw(st.sampled_from(place))
    path = golden_store.root / "commitlog" / f"{at - at % MiB:020d}"
    with changed(path, flipped(at % MiB, data.draw(st.integers(0, 7)))):
        assert not examine(golden_store.root).is_sound, (name, at)


@given(data=st.data())
@MANY
def test_a_flip_in_a_queue_is_found(golden_store: GoldenStore, data: st.DataObject) -> None:
    """Also in the zeros after the last entry."""
    path = data.draw(st.sampled_from(sorted((golden_store.root / "consumequeue").glob("*/*/*"))))
    used = len(path.read_bytes().rstrip(b"\0"))
    end = data.draw(st.sampled_from([used, used + 20, QUEUE_FILE_SIZE]))
    at = data.draw(st.integers(0, end - 1))
    with changed(path, flipped(at, data.draw(st.integers(0, 7)))):
        assert not examine(golden_store.root).is_sound, (path, at)


@given(data=st.data())
@MANY
def test_a_flip_in_an_index_is_found(golden_store: GoldenStore, data: st.DataObject) -> None:
    """As damage; after a crash in the newest file, which may be behind, as a warning."""
    path = data.draw(st.sampled_from(sorted((golden_store.root / "index").iterdir())))
    at = data.draw(st.integers(0, 39) | st.integers(0, path.stat().st_size - 1))
    with changed(path, flipped(at, data.draw(st.integers(0, 7)))):
        findings = examine(golden_store.root).findings
        told = {str(one.severity) for one in findings if one.file == f"index/{path.name}"}
        assert told & {"damage", "warning"}, (path, at)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Any change of a file's bytes."""
    at = draw(st.integers(0, MiB))
    size = draw(st.sampled_from([1, 8, 20, 91, 4096, 65536]))
    kind = draw(st.sampled_from(["flip", "zeros", "ones", "cut", "drop", "double", "numbers"]))
    number = draw(
        st.sampled_from([0, 1, 0x7F, 0x80, 0xFFFF, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1])
    )

    def change(data: bytes) -> bytes:
        place = at % (len(data) or 1)
        before, piece, after = data[:place], data[place : place + size], data[place + size :]
        wide = number.to_bytes(8, "big")
        return {
            "flip": before + bytes([byte ^ 1 << at % 8 for byte in piece[:1]]) + piece[1:] + after,
            "zeros": before + bytes(len(piece)) + after,
            "ones": before + b"\xff" * len(piece) + after,
            "cut": before,
            "drop": before + after,
            "double": before + piece + piece + after,
            "numbers": before + wide[: len(piece)] + piece[8:] + after,
        }[kind]

    return change


@given(
    which=st.integers(0, 999),
    topic=st.sampled_from(["GoldenA", "GoldenB", "SCHEDULE_TOPIC_XXXX"]),
    changes=st.lists(damages(), min_size=1, max_size=3),
)
@MANY
def test_any_bytes_are_legal(
    *, golden_store: GoldenStore, which: int, topic: str, changes: list[Callable[[bytes], bytes]]
) -> None:
    """Whatever the files hold, both commands end, and print nothing that a terminal obeys."""
    files = sorted(
        path
        for path in golden_store.root.rglob("*")
        if path.is_file() and path.parent.name != "rocksdbstore"
    )
    path = files[which % len(files)]
    before = path.read_bytes()
    after = before
    for change in changes:
        after = change(after)
    with changed(path, lambda _before: after):
        found = examine(golden_store.root)
        assert all(line.isprintable() for line in findings_text(found.findings))
        is_data = path.parent.name in {"commitlog", "0", "1", "2", "3", "17", "index"}
        if is_data and after and len(after) != len(before):  # An empty last file is allowed.
            assert not found.is_sound
        export = Export(find(golden_store.root), Selection(topic=topic))
        for record, stored in export.records():
            assert record.topic == topic
            for write, *_ in FORMATS.values():
                with contextlib.suppress(InvalidMessage):  # a body that is not compressed at all
                    write(record, stored)
        export.close()


def test_the_advice_is_good(
    tmp_path: Path, unpack_golden_store: Callable[[str, Path], Path]
) -> None:
    """A damaged queue that lies before the checkpoint is built anew as a finding says."""
    root = unpack_golden_store("clean", tmp_path / "store")
    path = root / "consumequeue" / "GoldenA" / "0" / f"{0:020d}"
    path.write_bytes(flipped(0, 0)(path.read_bytes()))
    advice = "remove the queue's folder and the file checkpoint, and put a file named abort into"
    assert any(advice in one.hint for one in examine(root).findings)
    shutil.rmtree(path.parent)
    (root / "checkpoint").unlink()
    (root / "abort").write_text("1")
    with House(root, settings=find_settings(root), clean=False, pool_size=32 * MiB):
        pass
    (root / "abort").unlink()
    found = examine(root)
    assert {one.severity for one in found.findings} == {Severity.INFO}
    assert found.entries == found.records


# Export


def exported(root: Path, **selection: Any) -> list[dict[str, Any]]:
    export = Export(find(root), Selection(**selection))
    found = [fields_of(*one) for one in export.records()]
    export.close()
    assert not export.damaged
    return found


@pytest.mark.parametrize("queues", [True, False])
def test_every_message_with_every_field(golden_store: GoldenStore, *, queues: bool) -> None:
    """By the consumequeues, and the same without them."""
    root = golden_store.root
    folder = root / "consumequeue"
    if not queues:
        folder.rename(root / "hidden")
    try:
        for topic in {one["topic"] for one in golden_store.manifest["stored"]}:
            found = exported(root, topic=topic)
            wanted = [one for one in golden_store.manifest["stored"] if one["topic"] == topic]
            assert [one["physicalOffset"] for one in found] == [
                one["commitlogOffset"] for one in wanted
            ]
            for one, expected in zip(found, wanted, strict=True):
                for name in ("queueId", "queueOffset", "storeTimestamp", "properties", "sysFlag"):
                    assert one[name] == expected[name]
                assert (one["bodyCrc"], one["storeSize"]) == (expected["bodyCRC"], expected["size"])
    finally:
        if not queues:
            (root / "hidden").rename(folder)


def test_bodies_are_as_they_were_sent(golden_store: GoldenStore) -> None:
    """Those too that their sender compressed."""
    sent = {one["msgId"]: one for one in golden_store.manifest["sent"] if one["msgId"]}
    compressed = 0
    seen = set()
    for topic in ("GoldenA", "GoldenB"):
        export = Export(find(golden_store.root), Selection(topic=topic))
        for found, stored in export.records():
            fields = fields_of(found, stored)
            expected = sent.get(fields["msgId"])
            if expected is None or "bodyError" in fields:
                continue
            compressed += found.sys_flag & 1
            body = FORMATS["bodies"][0](found, stored)
            assert hashlib.sha256(body).hexdigest() == expected["bodySha256"]
            seen.add(fields["msgId"])
        export.close()
    assert len(seen) > 100
    assert compressed


def test_by_key_and_time(golden_store: GoldenStore) -> None:
    everything = exported(golden_store.root, topic="GoldenB")
    one = next(one for one in everything if one["keys"])
    key = one["keys"][0]
    wanted = [other for other in everything if key in other["keys"]]
    assert exported(golden_store.root, topic="GoldenB", key=key) == wanted
    for name in ("msgId", "offsetMsgId"):
        assert exported(golden_store.root, topic="GoldenB", key=one[name]) == [one]
    stamps = sorted(one["storeTimestamp"] for one in everything)
    since, until = stamps[100], stamps[-100]
    assert exported(golden_store.root, topic="GoldenB", since_ms=since, until_ms=until) == [
        one for one in everything if since <= one["storeTimestamp"] <= until
    ]
    assert exported(golden_store.root, topic="GoldenB", queue_id=3) == [
        one for one in everything if one["queueId"] == 3
    ]

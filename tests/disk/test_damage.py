"""Damage: a store cut or bent anywhere opens, and keeps what was acknowledged before the damage.

Damage is not a crash: it also hits what was on the disk for certain. What cannot be understood is
put aside, not dropped; a store that cannot be used at all is refused with a StoreError.
SHMQ_DAMAGE_COUNT sets how many bit flips are tried, SHMQ_DAMAGE_EVERY which share of all cuts: 1 is
every byte.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from shmq.errors import ShmqError, StoreError
from shmq.layout import cqentry
from shmq.layout.offsetjournal import HEADER_SIZE as JOURNAL_HEADER_SIZE
from tests.disk.disks import RecordingDisk, tree
from tests.disk.explore import put, share_out
from tests.disk.onebroker import FIRST_MS, LOG_FILE_SIZE, STORE, OneBroker, opened, recover
from tests.disk.powercut import Image
from tests.disk.promises import Found, Message, Promises
from tests.disk.script import first_life, second_life
from tests.unit.workers.house import House

DEFAULT_COUNT: Final = 600
DEFAULT_EVERY: Final = 211
COUNT: Final = int(os.environ.get("SHMQ_DAMAGE_COUNT", DEFAULT_COUNT))
EVERY: Final = int(os.environ.get("SHMQ_DAMAGE_EVERY", DEFAULT_EVERY))
SEED: Final = int(os.environ.get("SHMQ_CRASH_SEED", "1"))
LOG: Final = f"{STORE}/commitlog/"
QUEUES: Final = f"{STORE}/consumequeue/"
TABLES: Final = f"{STORE}/config/"

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120 + COUNT // 10 + 6000 // EVERY)]


class Whole(NamedTuple):
    """A store before it is damaged."""

    image: Image
    found: Found
    sizes: dict[Message, int]


class Damage(NamedTuple):
    """What is done to one file, from byte `at` on."""

    path: str
    at: int
    how: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.path} at {self.at}, {self.how}"


@pytest.fixture(scope="module", params=[True, False], ids=["clean", "crashed"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A store of three log files; after a clean stop, or as it is while a broker runs."""
    root = tmp_path_factory.mktemp("whole")
    disk, promises = RecordingDisk(root), Promises()
    broker = OneBroker(root, disk=disk, promises=promises, sync=True, now_ms=FIRST_MS)
    first_life(broker)
    second_life(broker)
    if request.param:
        assert broker.stop()
    else:
        broker.power_off()
    image = tree(root)
    found = recover(root, sync=True)
    with opened(root, sync=True) as (house, _control):
        sizes = dict(_sizes(house, found))
    return Whole(image, found, sizes)


def _sizes(house: House, found: Found) -> Iterator[tuple[Message, int]]:
    reader = house.queue_reader()
    for queue, row in found.messages.items():
        for message in row:
            slot = house.slot(*queue)
            (entry,) = reader.entries(slot, message.queue_offset, 1).tolist()
            yield message, entry[1]


def cuts(whole: Whole) -> Iterator[Damage]:
    """Every file cut at every byte that holds something, shorter or with zeros after the cut."""
    for path, data in whole.image.items():
        if data:
            for at in range(len(data.rstrip(b"\0"))):
                yield Damage(path, at, "cut", data[:at])
                yield Damage(path, at, "zeros after", data[:at].ljust(len(data), b"\0"))


def flips(whole: Whole, *, count: int, seed: int) -> Iterator[Damage]:
    """Bits that changed, in files as likely as in any other, where they hold something."""
    rng = random.Random(seed)
    files = [(path, data) for path, data in whole.image.items() if data and data.strip(b"\0")]
    for _ in range(count):
        path, data = rng.choice(files)
        at = rng.randrange(len(data.rstrip(b"\0")))
        bent = bytearray(data)
        bent[at] ^= 1 << rng.randrange(8)
        yield Damage(path, at, f"{data[at]:02x} is {bent[at]:02x}", bytes(bent))


def check_damage(root: Path, damage: Damage, whole: Whole) -> int:
    """Damage the store, open it, and look at what is kept and where the rest is."""
    put(root, whole.image | {damage.path: damage.data})
    try:
        with opened(root, sync=True) as (house, _control):
            check_messages(house, damage, whole)
    except StoreError as error:
        if not any(word in str(error) for word in (damage.path.rpartition("/")[2], "topic")):
            raise AssertionError(f"does not name the file: {error}") from error
        return 1
    except ShmqError as error:
        raise AssertionError(f"not a StoreError: {error!r}") from error
    check_aside(root, damage, whole)
    return 1


def check_messages(house: House, damage: Damage, whole: Whole) -> None:
    """All messages before the damage are where they were; with whole log and queues, all are."""
    queues, log = house.queue_reader(), house.log_reader()
    for message, size in whole.sizes.items():
        if not is_before(message, size, damage):
            continue
        slot = house.arena.queues.slot(*message.queue)
        assert slot is not None, ("queue lost", message.queue)
        entries = queues.entries(slot, message.queue_offset, 1)
        assert len(entries), ("entry lost", message)
        offset, stored_size, _code = entries[0].tolist()
        assert (offset, stored_size) == (message.physical_offset, size), message
        assert message.body in bytes(log.record(offset, size)), message


def is_before(message: Message, size: int, damage: Damage) -> bool:
    """Whether a message is complete before the damage, in the log and in its queue."""
    name = int(damage.path.rpartition("/")[2]) if damage.path.startswith((LOG, QUEUES)) else 0
    if damage.path.startswith(LOG):
        return message.physical_offset + size <= name + damage.at
    if damage.path.startswith(QUEUES):
        topic, queue_id = damage.path.removeprefix(QUEUES).split("/")[:2]
        first = (name + damage.at) // cqentry.ENTRY.itemsize
        return message.queue != (topic, int(queue_id)) or message.queue_offset < first
    return True


def check_aside(root: Path, damage: Damage, whole: Whole) -> None:
    """What the log lost is put aside; a table that was given up stands beside the new one."""
    if damage.path.startswith(LOG):
        before = log_bytes(whole.image | {damage.path: damage.data})
        after = log_bytes(tree(root))
        for path in sorted((root / STORE).glob("set-aside/commitlog-*")):
            at = int(path.name.rpartition("-")[2])
            kept = path.read_bytes()
            assert before[at : at + len(kept)] == kept, path
            after = after[:at].ljust(at, b"\0") + kept + after[at + len(kept) :]
        assert after.rstrip(b"\0") == before.rstrip(b"\0"), "bytes of the log are nowhere"
    if damage.path.startswith(TABLES) and len(damage.data.strip(b"\0")) > JOURNAL_HEADER_SIZE:
        copies = [path.read_bytes() for path in (root / TABLES).iterdir()]
        assert any(damage.data in copy or copy in damage.data for copy in copies)


def log_bytes(image: Image) -> bytes:
    """The whole log as one."""
    found = bytearray()
    for path, data in sorted(image.items()):
        if path.startswith(LOG) and data is not None:
            found[int(path.removeprefix(LOG)) :] = data.ljust(LOG_FILE_SIZE, b"\0")
    return bytes(found)


def test_cut_at_every_byte(whole: Whole) -> None:
    all_cuts = list(cuts(whole))
    outcome = share_out(
        lambda: all_cuts[::EVERY],
        lambda root, damage: check_damage(root, damage, whole),
    )
    assert not outcome.failures, str(outcome)


def test_bits_that_changed(whole: Whole) -> None:
    outcome = share_out(
        lambda: flips(whole, count=COUNT, seed=SEED),
        lambda root, damage: check_damage(root, damage, whole),
    )
    assert not outcome.failures, str(outcome)

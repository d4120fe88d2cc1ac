"""Ten thousand damaged frames against a live broker and its name server, over every door."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmq.wire.header import BINARY, INT16_MAX, JSON, encode_frame
from tests.crash.group import Load
from tests.crash.live import Broker
from tests.crash.peer import Peer
from tests.hostile.attack import attack, judge, mutated, nonsense, request
from tests.property.hostile import GOLDEN_FRAMES, damaged

pytestmark = pytest.mark.crash

FRAMES: Final = int(os.environ.get("FUZZ_FRAMES", "10000"))
SEED: Final = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1, 10**9)  # noqa: S311
SHARES: Final = {"tcp": 0.4, "unix": 0.3, "vip": 0.05, "namesrv": 0.25}


def pieces(chance: random.Random, count: int) -> Iterator[bytes]:
    """Half of them damaged in their bytes, half in their meaning."""
    for number in range(count):
        yield mutated(chance) if number % 2 else nonsense(chance)


@pytest.mark.slow
@pytest.mark.timeout(60 + FRAMES // 50)
@pytest.mark.parametrize("door", SHARES)
def test_mutated_golden_frames(broker: Broker, witness: Load, door: str) -> None:
    print(f"CRASH_SEED={SEED}")  # noqa: T201  shown when the test fails
    chance = random.Random(f"{SEED} {door}")  # noqa: S311
    count = int(FRAMES * SHARES[door])
    attacker = attack(broker.address_of(door), pieces(chance, count))
    assert attacker.closed_count + attacker.answered_count == count
    assert attacker.answered_count > count // 4
    assert attacker.closed_count > count // 10


@pytest.mark.parametrize("door", SHARES)
def test_every_whole_request_is_answered_once_or_closes(
    broker: Broker, witness: Load, door: str
) -> None:
    """Whatever it says: the client must not wait for its own timeout."""
    print(f"CRASH_SEED={SEED}")  # noqa: T201  shown when the test fails
    chance = random.Random(f"{SEED} {door}")  # noqa: S311
    peer = Peer(broker.address_of(door))
    answered = 0
    for opaque in range(300):
        header, body = request(chance)
        header = msgspec.structs.replace(header, flag=0, opaque=opaque)
        if "sysFlag" in header.ext:
            header.ext["sysFlag"] = "4"  # A pull that is not held.
        serialization = JSON if header.code > INT16_MAX else chance.choice([JSON, BINARY])
        peer.sock.sendall(encode_frame(header, body, serialization))
        try:
            frame = peer.receive()
        except ConnectionError:
            peer.close()
            peer = Peer(broker.address_of(door))
            continue
        assert frame is not None, f"not answered: {header} {body!r}"
        judge(frame)
        if frame.header.is_response:
            assert frame.header.opaque == opaque, (header, frame)
            answered += 1
    peer.close()
    assert answered > 200


@pytest.mark.slow
@pytest.mark.parametrize("door", ["tcp", "namesrv"])
def test_frames_that_hypothesis_damaged(broker: Broker, witness: Load, door: str) -> None:
    @settings(
        max_examples=max(FRAMES // 50, 10),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(damaged(st.sampled_from(GOLDEN_FRAMES)), min_size=1, max_size=5))
    def run(pieces: list[bytes]) -> None:
        attack(broker.address_of(door), pieces)

    run()

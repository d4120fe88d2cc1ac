"""All peers, in the order of the report: shmq, those that persist, those that do not."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Final

from bench.peers.adapters.aeron import AeronArchive, AeronIpc
from bench.peers.adapters.chronicle import Chronicle
from bench.peers.adapters.iceoryx2 import Iceoryx2Python, Iceoryx2Rust
from bench.peers.adapters.mp_queue import MpQueue
from bench.peers.adapters.nats import Nats, NatsSync
from bench.peers.adapters.redis import RedisAlways, RedisEverySecond, RedisMemory
from bench.peers.adapters.rocketmq import RocketMQ
from bench.peers.adapters.shmq import Shmq, ShmqCopy, ShmqSync
from bench.peers.adapters.zeromq import ZeroMQ
from bench.peers.peer import Peer

PEERS: Final[dict[str, type[Peer]]] = {
    peer.name: peer
    for peer in (
        Shmq,
        ShmqCopy,
        ShmqSync,
        Chronicle,
        AeronArchive,
        RocketMQ,
        Nats,
        NatsSync,
        RedisEverySecond,
        RedisAlways,
        RedisMemory,
        AeronIpc,
        Iceoryx2Rust,
        Iceoryx2Python,
        ZeroMQ,
        MpQueue,
    )
}


def chosen(names: Sequence[str]) -> list[str]:
    """The peers that names mean; `redis*` means all that begin so, no names mean all."""
    if not names:
        return list(PEERS)
    result: list[str] = []
    for name in names:
        fitting = fnmatch.filter(PEERS, name)
        if not fitting:
            msg = f"no peer is named {name!r}; there are {', '.join(PEERS)}"
            raise ValueError(msg)
        result += [peer for peer in fitting if peer not in result]
    return result

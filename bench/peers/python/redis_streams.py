"""Redis Streams: pipelines of XADD, and XREAD."""

from __future__ import annotations

from collections.abc import Sequence

import redis  # type: ignore[import-not-found, unused-ignore]

from bench.peers.python.agent import Body, Options, main

READ_COUNT = 256
BLOCK_MS = 100


class Sender:
    """A pipeline a batch, an XADD a message; both have the answers when they return."""

    def __init__(self, options: Options) -> None:
        self._redis = redis.Redis(unix_socket_path=options.address, protocol=2)
        self._stream = options.stream

    def send_pool(self, bodies: list[bytes]) -> None:
        """A batch."""
        pipeline = self._redis.pipeline(transaction=False)
        for body in bodies:
            pipeline.xadd(self._stream, {b"b": body})
        pipeline.execute()

    def send_one(self, body: bytes) -> None:
        """One message."""
        self._redis.xadd(self._stream, {b"b": body})

    def flush(self) -> None:
        """All answers are there."""

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


class Receiver:
    """XREAD from the last id on."""

    def __init__(self, options: Options) -> None:
        self._redis = redis.Redis(unix_socket_path=options.address, protocol=2)
        self._stream = options.stream
        self._last: bytes | str = "0"

    def receive(self) -> Sequence[Body]:
        """What has come."""
        found = self._redis.xread({self._stream: self._last}, count=READ_COUNT, block=BLOCK_MS)
        if not found:
            return []
        entries = found[0][1]
        self._last = entries[-1][0]
        return [fields[b"b"] for _id, fields in entries]

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()


if __name__ == "__main__":
    main(Sender, Receiver)

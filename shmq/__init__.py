"""shmq: a message broker for one high-throughput host, in RocketMQ's protocol and store format.

The client library's names are here too: `shmq.connect()`, `shmq.Message`, `shmq.aio.connect()`.
They are imported when they are first used, so that the broker does without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmq.client import (
        Client,
        Consumer,
        Message,
        Producer,
        Queue,
        SendResult,
        SendStatus,
        aio,
        connect,
    )

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Consumer",
    "Message",
    "Producer",
    "Queue",
    "SendResult",
    "SendStatus",
    "__version__",
    "aio",
    "connect",
]


def __getattr__(name: str) -> Any:
    """A name of the client library."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  as the library itself

    if name == "aio":
        return import_module("shmq.client.aio")
    return getattr(import_module("shmq.client"), name)

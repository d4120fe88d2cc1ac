"""Client library: produce and consume, on this host or over TCP; see connect()."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmq.client.client import Client, connect
from shmq.client.model import Message, Queue, SendResult, SendStatus
from shmq.client.producer import Producer
from shmq.client.tickets import Ticket

if TYPE_CHECKING:
    from shmq.client import aio
    from shmq.client.batch import Batch, ReceivedMessage
    from shmq.client.consumer import Consumer

__all__ = [
    "Batch",
    "Client",
    "Consumer",
    "Message",
    "Producer",
    "Queue",
    "ReceivedMessage",
    "SendResult",
    "SendStatus",
    "Ticket",
    "aio",
    "connect",
]

_LATER = {
    "Batch": "shmq.client.batch",
    "Consumer": "shmq.client.consumer",
    "ReceivedMessage": "shmq.client.batch",
    "aio": "shmq.client.aio",
}
"""What only consumers and asyncio programs need, and where it is."""


def __getattr__(name: str) -> Any:
    """A name that is imported when it is first used."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  as the modules themselves

    module = import_module(_LATER[name])
    return module if name == "aio" else getattr(module, name)

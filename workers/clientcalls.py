"""Requests of the broker to clients whose answers are wanted, in one serve process.

The coordinator sends a Call; its answer, or that the client is gone, goes back as Called. How long
to wait is the coordinator's business: a client that is silent is waited for until it goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmq.wire.codes import ResponseCode
from shmq.wire.header import Header
from shmq.wire.internal import Call, Called

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.workers.clientconn import ClientConnection

ANSWER_SIZE_MAX: Final = 4 * 1024 * 1024
CALLS_OF_ONE_MAX: Final = 1000
"""Calls of a client that does not answer are forgotten from so many on, the oldest first."""


class ClientCalls:
    """Calls that were made and not answered."""

    def __init__(self, *, send: Callable[[Called], None]) -> None:
        self._send = send
        self._last_opaque = 0
        self._calls: dict[int, dict[int, int]] = {}
        """Tokens by opaque, by the number of the connection."""

    def call(self, connection: ClientConnection | None, call: Call) -> bool:
        """Put a request into a client's output; False if there is no such client."""
        if connection is None or connection.gone:
            self._gone(call.token)
            return False
        calls = self._calls.setdefault(connection.number, {})
        if len(calls) >= CALLS_OF_ONE_MAX:
            self._gone(calls.pop(next(iter(calls))))
        self._last_opaque = self._last_opaque % (2**31 - 1) + 1
        calls[self._last_opaque] = call.token
        connection.put(Header(call.code, self._last_opaque, ext=call.ext), call.body)
        return True

    def take(self, connection: ClientConnection, header: Header, body: bytes) -> None:
        """A client's answer to something; to what was not asked it says nothing."""
        token = self._calls.get(connection.number, {}).pop(header.opaque, None)
        if token is None:
            return
        if len(body) > ANSWER_SIZE_MAX:
            self._send(Called(token, ResponseCode.SYSTEM_ERROR, "the client's answer is too long"))
            return
        self._send(Called(token, header.code, header.remark, header.ext, body))

    def forget(self, connection: ClientConnection) -> None:
        """A connection is gone."""
        for token in self._calls.pop(connection.number, {}).values():
            self._gone(token)

    def _gone(self, token: int) -> None:
        self._send(Called(token, ResponseCode.SYSTEM_ERROR, "the client is gone"))

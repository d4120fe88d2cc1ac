"""Calls of the broker to clients, for requests that are answered with what clients say.

The handler of such a request starts the calls and says "not now" (None); it is asked again with
every tick of the coordinator, until all have answered or their time is over. Who asks the same
twice at once waits for the same calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from shmq.broker.clients import ConnectionId
from shmq.broker.fields import refused
from shmq.units import SECOND_MS
from shmq.wire.internal import Call, Called

FORGET_MS: Final = 60 * SECOND_MS
CALLS_MAX: Final = 10_000


class Question(NamedTuple):
    """What is asked, and by whom."""

    asker: ConnectionId
    code: int
    fields: tuple[tuple[str, str], ...]


class Heard(NamedTuple):
    """What one client said; `called` is None when it did not in time."""

    client_id: str
    called: Called | None


class _Round:
    """The calls that one question has caused."""

    def __init__(self, begun_ms: int) -> None:
        self.begun_ms = begun_ms
        self.heard: dict[int, Heard] = {}
        """By token."""

    @property
    def is_complete(self) -> bool:
        return all(heard.called is not None for heard in self.heard.values())


class Calls:
    """Questions that wait for clients."""

    def __init__(self) -> None:
        self._last_token = 0
        self._rounds: dict[Question, _Round] = {}
        self._question_of: dict[int, Question] = {}
        self.outbox: list[tuple[ConnectionId, Call]] = []
        """To be sent to serve processes."""

    def ask(
        self,
        question: Question,
        targets: Mapping[ConnectionId, str],
        *,
        code: int,
        ext: dict[str, str],
        wait_ms: int,
        now_ms: int,
    ) -> list[Heard] | None:
        """What the targets (client ids by connection) have said; None: not all have, wait on.

        Raises:
            RequestRefused: too many calls wait.
        """
        round_ = self._rounds.get(question)
        if round_ is None:
            if len(self._question_of) + len(targets) > CALLS_MAX:
                raise refused("too many calls to clients wait", allowed_max=CALLS_MAX)
            round_ = self._rounds[question] = _Round(now_ms)
            for connection, client_id in targets.items():
                self._last_token += 1
                round_.heard[self._last_token] = Heard(client_id, None)
                self._question_of[self._last_token] = question
                call = Call(self._last_token, connection.connection, code, ext)
                self.outbox.append((connection, call))
        if not round_.is_complete and now_ms - round_.begun_ms < wait_ms:
            return None
        self._end(question)
        return list(round_.heard.values())

    def take(self, called: Called) -> None:
        """A client has answered, or is gone."""
        question = self._question_of.pop(called.token, None)
        if question is not None:
            heard = self._rounds[question].heard
            heard[called.token] = Heard(heard[called.token].client_id, called)

    def tick(self, *, now_ms: int) -> None:
        """Forget questions that nobody asks any more."""
        for question, round_ in list(self._rounds.items()):
            if now_ms - round_.begun_ms >= FORGET_MS:
                self._end(question)

    def _end(self, question: Question) -> None:
        for token in self._rounds.pop(question).heard:
            self._question_of.pop(token, None)

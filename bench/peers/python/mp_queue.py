"""multiprocessing.Queue: this program makes the queue and forks a producer and a consumer.

Lines of the harness begin with the role that they are for; events name the role (`who`).
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Sequence
from multiprocessing.queues import Queue
from typing import Any

from bench.peers.python.agent import Body, Control, Options, consume, produce

OBJECTS_MAX = 16
WAIT_S = 0.1


class Sender:
    """A list an object, or a message."""

    def __init__(self, objects: Queue[Any]) -> None:
        self._objects = objects

    def send_pool(self, bodies: list[bytes]) -> None:
        """A batch in one object."""
        self._objects.put(bodies)

    def send_one(self, body: bytes) -> None:
        """One message in one object."""
        self._objects.put([body])

    def flush(self) -> None:
        """Nothing to wait for: no side acknowledges."""

    def close(self) -> None:
        """Let the feeding thread end."""
        self._objects.close()
        self._objects.join_thread()


class Receiver:
    """One object a call."""

    def __init__(self, objects: Queue[Any]) -> None:
        self._objects = objects

    def receive(self) -> Sequence[Body]:
        """The bodies of the next object."""
        try:
            bodies: Sequence[Body] = self._objects.get(timeout=WAIT_S)
        except queue.Empty:
            return []
        return bodies

    def close(self) -> None:
        """Nothing is left."""


class _Role(Control):
    """One of the two processes; its input is a pipe of the program."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def say(self, event: str, **facts: Any) -> None:
        """With the role."""
        super().say(event, who=self._who, **facts)


def _role(who: str, options: Options, objects: Queue[Any], lines: int, others: list[int]) -> None:
    for end in others:
        os.close(end)
    sys.stdin = os.fdopen(lines)
    control = _Role(who)
    if who == "produce":
        sender = Sender(objects)
        produce(options, sender, control)
        sender.close()
    else:
        consume(options, Receiver(objects), control)


def _relay(pipes: dict[str, int]) -> None:
    """Hand lines on; when the harness is gone, the ends of the pipes go with this process."""
    for line in sys.stdin:
        who, word = line.split()
        os.write(pipes[who], f"{word}\n".encode())
    os._exit(3)


def program() -> int:
    """Fork both and wait for them."""
    options = Options(sys.argv[1:])
    fork = multiprocessing.get_context("fork")
    objects: Queue[Any] = fork.Queue(OBJECTS_MAX)
    ends = {who: os.pipe() for who in ("consume", "produce")}
    writers = [end for _reader, end in ends.values()]
    roles = [
        fork.Process(target=_role, args=(who, options, objects, reader, writers), name=who)
        for who, (reader, _writer) in ends.items()
    ]
    for role in roles:
        role.start()
    pipes = {who: writer for who, (_reader, writer) in ends.items()}
    threading.Thread(target=_relay, args=(pipes,), daemon=True).start()
    for role in roles:
        role.join()
    return max(role.exitcode or 0 for role in roles)


if __name__ == "__main__":
    sys.exit(program())

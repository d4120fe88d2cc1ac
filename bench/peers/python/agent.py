"""The producing or consuming process of a peer: the loop around a sender or a receiver.

Every language has the same agent (peers/Agent.java, agent.go, agent.rs). It takes KEY=VALUE
arguments, prints events as JSON lines, and is told by lines on its standard input:

    role=produce  warms up, marks, prints `ready`; on `go` sends for `seconds` (or `count` paced),
                  waits until all is accepted, prints `done`; closes on `exit`
    role=consume  prints `attached`, warms up, prints `ready`; on `go` measures until the end,
                  prints `done` with count, checksum and time of the last message

Warm-up and end are marked by messages of the stream (see bench.peers.load), or, where a backlog is
read (`expect`), by counts. The end of standard input ends the process at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bench.peers.load import END, MASK, WARM, WORD, pool

Body = bytes | memoryview
JOIN_SIZE_MAX = 4096


class Options:
    """The KEY=VALUE arguments."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._values = dict(argument.split("=", 1) for argument in arguments)
        self.role = self.text("role")
        self.mode = self.text("mode")
        self.stream = self.text("stream")
        self.address = self.text("address", "")
        self.size = self.number("size")
        self.spin = self.number("spin", 0) == 1
        self.drain = self.number("drain", 0) == 1

    def text(self, name: str, default: str | None = None) -> str:
        """One value."""
        value = self._values.get(name, default)
        if value is None:
            msg = f"argument {name}= is missing"
            raise ValueError(msg)
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """One whole number."""
        return int(self.text(name, None if default is None else str(default)))

    def seconds(self, name: str) -> float:
        """One duration."""
        return float(self.text(name))


class Sender(Protocol):
    """The producing side of a peer."""

    def send_pool(self, bodies: list[bytes]) -> None:
        """Send a batch; what is under way is bounded by the peer's own window."""

    def send_one(self, body: bytes) -> None:
        """Send one message by itself, so that it leaves now."""

    def flush(self) -> None:
        """Wait until all that was sent is accepted."""

    def close(self) -> None:
        """End in order."""


class Receiver(Protocol):
    """The consuming side of a peer."""

    def receive(self) -> Sequence[Body]:
        """What has come, in order; waits 100 ms at most for the first; may be empty."""

    def close(self) -> None:
        """End in order."""


class Control:
    """The harness on standard input and output."""

    def __init__(self) -> None:
        self._go, self._exit = threading.Event(), threading.Event()
        self._out = os.dup(1)
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            {"go": self._go, "exit": self._exit}[line.strip()].set()
        if not self._exit.is_set():
            os._exit(3)

    def say(self, event: str, **facts: Any) -> None:
        """One event."""
        os.write(self._out, (json.dumps({"event": event, **facts}) + "\n").encode())

    def await_go(self) -> None:
        """Wait for `go`."""
        self._go.wait()

    def await_exit(self) -> None:
        """Wait for `exit`."""
        self._exit.wait()


@runtime_checkable
class Summed(Protocol):
    """Bodies that can add up their words by themselves, without an object for each."""

    def word_sum(self) -> int:
        """The words of all bodies, added."""


def sum_bodies(bodies: Sequence[Body]) -> int:
    """The words of all bodies, added; small bodies are laid together first, for one call."""
    if isinstance(bodies, Summed):
        return bodies.word_sum()
    if len(bodies[0]) <= JOIN_SIZE_MAX:
        return int(np.frombuffer(b"".join(bodies), dtype=WORD).sum())
    return sum(int(np.frombuffer(body, dtype=WORD).sum()) for body in bodies)


def marker(word: int, size: int) -> bytes:
    """A marker's body."""
    return word.to_bytes(8, "little") + bytes(size - 8)


def paced_body(intended_ns: int, number: int, rest: bytes) -> bytes:
    """A body whose three first words add up to zero."""
    counterpart = -(intended_ns + number) & MASK
    head = intended_ns.to_bytes(8, "little") + number.to_bytes(8, "little")
    return head + counterpart.to_bytes(8, "little") + rest


def wait_until_ns(moment_ns: int, *, spin: bool) -> None:
    """Sleep, or burn, until CLOCK_MONOTONIC shows the moment."""
    while (left := moment_ns - time.monotonic_ns()) > 0:
        if not spin:
            time.sleep(left / 1e9)


def produce(options: Options, sender: Sender, control: Control) -> None:
    """The producing role."""
    size = options.size
    bodies = [bytes(body) for body in pool(size)]
    rest = bodies[0][24:]
    paced = options.mode == "latency"

    def warm_batch() -> None:
        if paced:
            for _body in bodies:
                sender.send_one(paced_body(time.monotonic_ns(), 0, rest))
        else:
            sender.send_pool(bodies)

    def flood(seconds: float, bytes_max: int, send: Callable[[], None]) -> int:
        end_ns = time.monotonic_ns() + int(seconds * 1e9)
        batches_max = max(1, bytes_max // (size * len(bodies)))
        batches = 0
        while batches < batches_max and time.monotonic_ns() < end_ns:
            send()
            batches += 1
        return batches * len(bodies)

    bytes_max = options.number("bytes_max")
    warm_count = flood(options.seconds("warmup_s"), bytes_max // 4, warm_batch)
    sender.flush()
    sender.send_one(marker(WARM, size))
    sender.flush()
    control.say("ready", count=warm_count)
    control.await_go()
    start_ns = time.monotonic_ns()
    if paced:
        count, rate = options.number("count"), options.number("rate")
        first_ns = start_ns + 1_000_000
        for number in range(count):
            intended_ns = first_ns + number * 1_000_000_000 // rate
            wait_until_ns(intended_ns, spin=options.spin)
            sender.send_one(paced_body(intended_ns, number, rest))
    else:
        send = sender.send_pool
        count = flood(options.seconds("seconds"), bytes_max, lambda: send(bodies))
    sender.flush()
    end_ns = time.monotonic_ns()
    sender.send_one(marker(END, size))
    sender.flush()
    control.say("done", count=count, start_ns=start_ns, end_ns=end_ns)
    control.await_exit()


class _Tally:
    """Counts and sums what was received, and looks for markers."""

    def __init__(self, options: Options) -> None:
        self._drain = options.drain
        self.count = 0
        self.sum = 0
        self.last_word = 0

    def add(self, bodies: Sequence[Body]) -> None:
        self.count += len(bodies)
        if not self._drain:
            self.sum += sum_bodies(bodies)
        self.last_word = int.from_bytes(bodies[-1][:8], "little")


def consume(options: Options, receiver: Receiver, control: Control) -> None:
    """The consuming role."""
    control.say("attached")
    tally = _Tally(options)
    expect, warm = options.number("expect", 0), options.number("warm", 0)
    receive = receiver.receive
    while tally.count < warm if expect else tally.last_word != WARM:
        if bodies := receive():
            tally.add(bodies)
    warm_count = tally.count
    control.say("ready", count=warm_count)
    if options.mode == "latency":
        _consume_paced(options, receiver, control)
        return
    control.await_go()
    start_ns = end_ns = time.monotonic_ns()
    while tally.count < expect if expect else tally.last_word != END:
        if bodies := receive():
            tally.add(bodies)
    end_ns = time.monotonic_ns()
    _done(control, tally.count, tally.sum, (start_ns, end_ns), warm_count)


def _done(control: Control, count: int, total: int, times: tuple[int, int], warm: int) -> None:
    facts = {"count": count, "sum": str(total & MASK), "warm": warm}
    control.say("done", **facts, start_ns=times[0], end_ns=times[1])
    control.await_exit()


def _consume_paced(options: Options, receiver: Receiver, control: Control) -> None:
    """Take the time of each message; the harness reads the latencies from a file."""
    control.await_go()
    count = options.number("count")
    latencies = np.zeros(count, dtype="<i8")
    start_ns = time.monotonic_ns()
    total = got = 0
    last = 0
    while got < count or last != END:  # to the marker, so that the sender can leave
        for body in receiver.receive():
            now_ns = time.monotonic_ns()
            last = int.from_bytes(body[:8], "little")
            if got == count:
                continue
            number = int.from_bytes(body[8:16], "little")
            if latencies[number]:
                msg = f"message {number} came twice"
                raise ValueError(msg)
            latencies[number] = max(1, now_ns - last)
            total += sum_bodies([body])
            got += 1
    latencies.tofile(options.text("out"))
    _done(control, got, total, (start_ns, time.monotonic_ns()), 0)


def main(
    make_sender: Callable[[Options], Sender],
    make_receiver: Callable[[Options], Receiver],
    arguments: Sequence[str] | None = None,
) -> None:
    """Run the agent that the arguments ask for."""
    options = Options(sys.argv[1:] if arguments is None else arguments)
    control = Control()
    if options.role == "produce":
        sender = make_sender(options)
        produce(options, sender, control)
        sender.close()
    else:
        receiver = make_receiver(options)
        consume(options, receiver, control)
        receiver.close()

"""The clients that load a system: our light generator, and Apache's `benchmark` classes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.host.brokers import BIN_DIR, HOST_DIR, Process, java, java_env, wait_until
from bench.host.measure import cpu_between, cpu_seconds
from bench.host.wire import PeerError

if TYPE_CHECKING:
    from bench.host.brokers import System

LOADGEN_SOURCE = HOST_DIR / "loadgen.c"
LOADGEN = BIN_DIR / "loadgen"
CLIENT_JVM = ("-server", "-Xms512m", "-Xmx1g")
CLIENT_START_TIMEOUT_S = 60.0
CLIENT_STOP_TIMEOUT_S = 10.0
SLACK_S = 120.0
CONSUME_THREADS = 20
PRODUCER_CLASS = "org.apache.rocketmq.example.benchmark.Producer"
CONSUMER_CLASS = "org.apache.rocketmq.example.benchmark.Consumer"


def build_loadgen() -> None:
    """Compile the generator when its source is newer than the program."""
    if LOADGEN.exists() and LOADGEN.stat().st_mtime > LOADGEN_SOURCE.stat().st_mtime:
        return
    BIN_DIR.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(LOADGEN)]
    subprocess.run([*command, str(LOADGEN_SOURCE)], check=True, timeout=120)


@dataclass(frozen=True)
class Load:
    """One run of the light generator; see loadgen.c for what each option means."""

    topic: str
    mode: str = "send"  # send, sync, pull
    transport: str = "tcp"  # tcp, unix
    serialization: str = "json"
    connections: int = 1
    outstanding: int = 1
    size: int = 1024
    queues: int = 8
    rate: float = 0.0
    count: int = 0
    seconds: float = 0.0
    warmup: float = 0.0

    def arguments(self, system: System) -> list[str]:
        """The command line."""
        target = f"127.0.0.1:{system.places.port}"
        if self.transport == "unix":
            target = f"unix:{system.socket_path}"
        options = ["connections", "outstanding", "size", "queues", "topic", "serialization"]
        options += [name for name in ("rate", "count", "seconds", "warmup") if getattr(self, name)]
        command = [str(LOADGEN), "--connect", target]
        for name in options:
            command += [f"--{name}", str(getattr(self, name))]
        return command + ([] if self.mode == "send" else [f"--{self.mode}"])

    def longest_s(self) -> float:
        """The deadline: what was asked for, and slack; a count is taken at 1,000 a second."""
        return self.warmup + self.seconds + self.count / 1000 + SLACK_S


def run_load(system: System, load: Load) -> dict[str, Any]:
    """Run the generator to its end; its figures, and the CPU of all broker processes meanwhile."""
    process = Process("loadgen", load.arguments(system), {}, system.places.folder("run"))
    try:
        process.wait_for('"event":"measuring"', load.longest_s())
        before = cpu_seconds(system.tree())
        process.wait_for('"event":"measured"', load.longest_s())
        used_s = cpu_between(before, cpu_seconds(system.tree()))
        status = process.wait(load.longest_s())
    finally:
        process.stop(CLIENT_STOP_TIMEOUT_S)
    system.check()
    result: dict[str, Any] = {}
    for line in process.lines:
        if line.startswith('{"event":"result"'):
            result = json.loads(line)
    if status != 0 or not result:
        msg = f"loadgen against {system.name} ended with status {status}"
        raise PeerError(f"{msg}: {process.lines[-5:]}")
    messages = result["messages"]
    result["broker_cpu_us"] = round(used_s * 1e6 / messages, 3) if messages else 0.0
    result["client_cpu_us"] = result.pop("cpu_us_per_message")
    return result


def fill(system: System, topic: str, count: int, size: int) -> None:
    """Store exactly so many messages, and wait until consumers can see them all."""
    run_load(system, Load(topic, connections=4, outstanding=64, size=size, count=count))
    with system.broker() as broker:
        wait_until(
            f"{count} messages visible", lambda: broker.max_offset(topic, 8) == count, SLACK_S
        )


@dataclass(frozen=True)
class Reading:
    """Messages and CPU at one moment."""

    at_s: float
    messages: int
    broker_cpu: dict[int, float]
    client_cpu: dict[int, float]

    def until(self, later: Reading) -> dict[str, float]:
        """Rates between two readings."""
        messages = later.messages - self.messages
        if messages <= 0:
            msg = f"no message in {later.at_s - self.at_s:.1f} s of measurement"
            raise PeerError(msg)
        broker_s = cpu_between(self.broker_cpu, later.broker_cpu)
        client_s = cpu_between(self.client_cpu, later.client_cpu)
        return {
            "messages": messages,
            "messages_per_s": round(messages / (later.at_s - self.at_s), 1),
            "broker_cpu_us": round(broker_s * 1e6 / messages, 3),
            "client_cpu_us": round(client_s * 1e6 / messages, 3),
        }


def _benchmark(system: System, title: str, main: str, *args: str) -> Process:
    """Start one of Apache's benchmark classes."""
    namesrv = f"127.0.0.1:{system.places.namesrv_port}"
    command = java(
        system.places, CLIENT_JVM, main, "-n", namesrv, "-ri", "1000", *args, client=True
    )
    return Process(title, command, java_env(system.places), system.places.folder("run"))


def _reading(system: System, client: Process, messages: int) -> Reading:
    client.check()
    system.check()
    moment = time.monotonic()
    return Reading(moment, messages, cpu_seconds(system.tree()), cpu_seconds(client.tree()))


def run_producer(
    system: System, topic: str, *, threads: int, size: int, warmup_s: float, seconds: float
) -> dict[str, Any]:
    """Apache's Producer for a fixed time; messages are counted at the broker, by max offsets."""
    args = ("-t", topic, "-w", str(threads), "-s", str(size))
    client = _benchmark(system, "apache producer", PRODUCER_CLASS, *args)
    try:
        with system.broker() as broker:

            def stored() -> int:
                client.check()
                return broker.max_offset(topic, 8)

            wait_until("first message", lambda: stored() > 0, CLIENT_START_TIMEOUT_S)
            time.sleep(warmup_s)
            first = _reading(system, client, stored())
            time.sleep(seconds)
            last = _reading(system, client, stored())
    finally:
        client.stop(CLIENT_STOP_TIMEOUT_S)
    return dict(first.until(last)) | _printed(client, "Send TPS", last)


def _printed(client: Process, name: str, last: Reading) -> dict[str, Any]:
    """What the class itself printed last: a mean over its last ten seconds."""
    lines = [line for line in client.lines if name in line]
    if not lines:
        return {"printed_tps": 0, "failed": 0}
    failed = sum(int(number) for number in re.findall(r"(?:Failed|Fail): (\d+)", lines[-1]))
    if failed > last.messages // 1000:
        msg = f"{client.name}: {failed} of {last.messages} messages failed, one in 1,000 is allowed"
        raise PeerError(f"{msg}: {lines[-1]}")
    tps = re.search(rf"{name}: (\d+)", lines[-1])
    return {"printed_tps": int(tps[1]) if tps else 0, "failed": failed}


def run_consumer(system: System, topic: str, count: int) -> dict[str, Any]:
    """Apache's Consumer from the first message of a stored topic, by a fresh group, to the last.

    Progress is what the group has committed at the broker (each pull carries it). The rate runs
    from the first twentieth to the last, so that neither the JVM's start nor the last, parked pulls
    count.
    """
    group = f"catchup_{time.time_ns()}"
    deadline = time.monotonic() + count / 1000 + SLACK_S
    with system.broker() as broker:
        broker.rewind(group, topic, 8)
        began = time.monotonic()
        args = ("-t", topic, "-g", group, "-w", str(CONSUME_THREADS))
        client = _benchmark(system, "apache consumer", CONSUMER_CLASS, *args)
        first = last = begin = None
        try:
            while True:
                done = broker.consumed(group, topic, 8)
                now = time.monotonic()
                begin = begin or (now if done else None)
                if first is None and done >= count // 20:
                    first = _reading(system, client, done)
                if last is None and done >= count - count // 20:
                    last = _reading(system, client, done)
                if done >= count:
                    break
                if now > deadline:
                    msg = f"{done} of {count} messages consumed when time was up"
                    raise PeerError(msg)
                client.check()
                time.sleep(0.02)
        finally:
            client.stop(CLIENT_STOP_TIMEOUT_S)
    if done != count or first is None or last is None or begin is None:
        msg = f"{done} messages committed where {count} were stored"
        raise PeerError(msg)
    if first.messages == last.messages:  # so few that one poll saw the whole way
        first = replace(first, at_s=began, messages=0)
    return (
        dict(first.until(last))
        | {"start_to_95_percent_s": round(last.at_s - began, 3)}
        | _printed(client, "Consume TPS", last)
    )

"""Clients of one topic together: they go on after a kill; in the end the store is checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from tests.crash.check import check_store
from tests.crash.live import Broker
from tests.crash.load import Consumer, Producer
from tests.crash.peer import PATIENCE

GO_ON_MAX_S: Final = 2.0 * PATIENCE
QUEUES: Final = 3


class Load:
    """Two producers, one over TCP and one over the Unix socket, and a consumer, on one topic."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        window: int = 16,
        pace_per_s: float = 2000,
        body_size_max: int = 1500,
    ) -> None:
        self.broker = broker
        topic = f"topic-{name}"
        with broker.peer() as peer:
            peer.create_topic(topic, QUEUES)
        self.producers = [
            Producer(
                address,
                topic=topic,
                queue_count=QUEUES,
                name=f"{name}-{seed}",
                window=window,
                pace_per_s=pace_per_s,
                body_size_max=body_size_max,
                seed=seed,
            )
            for seed, address in enumerate((broker.tcp, broker.socket_path))
        ]
        self.consumer = Consumer(broker.tcp, topic=topic, queue_count=QUEUES, group=f"g-{name}")
        for client in self.clients:
            client.start()
        for producer in self.producers:
            producer.await_count(100)

    @property
    def clients(self) -> Sequence[Producer | Consumer]:
        """All of them."""
        return (*self.producers, self.consumer)

    @property
    def refusals(self) -> list[tuple[int, str | None]]:
        """What the broker refused, to any of them."""
        return [refusal for client in self.clients for refusal in client.refusals]

    def await_all_go_on(self, since: float, *, within_s: float = GO_ON_MAX_S) -> None:
        """Every client goes on: what is sent after the moment `since` is acknowledged and read."""
        end = since + within_s
        for producer in self.producers:
            acked = producer.await_ack(after=since, timeout_s=max(end - time.monotonic(), 0.01))
            self.consumer.await_message(acked, timeout_s=max(end - time.monotonic(), 0.01))

    def finish(self) -> None:
        """End all clients when what they have under way is done."""
        for producer in self.producers:
            producer.finish()
        for producer in self.producers:
            for last in {acked.queue_id: acked for acked in producer.acked}.values():
                self.consumer.await_message(last)
        self.consumer.finish()

    def abandon(self) -> None:
        """End all clients although their broker is gone."""
        for client in self.clients:
            client.abandon()

    def check(self) -> None:
        """Hold the store against what the ended clients know."""
        check_store(self.broker.tcp, self.producers, [self.consumer])

"""iceoryx2: the same services as the Rust agent's (iceoryx2/src/main.rs)."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import iceoryx2 as iox2  # type: ignore[import-not-found, unused-ignore]

from bench.peers.python.agent import Body, Options, main

WAIT_MS = 100
BATCH_MAX = 256
BUFFER_BYTES = 16 << 20


def _services(options: Options) -> tuple[Any, Any, int]:
    iox2.set_log_level(iox2.LogLevel.Error)
    config = iox2.config.default()
    config.global_cfg.prefix = iox2.FileName.new(options.text("prefix"))
    config.global_cfg.root_path = iox2.Path.new(options.text("root"))
    node = (
        iox2.NodeBuilder.new()
        .config(config)
        .signal_handling_mode(iox2.SignalHandlingMode.Disabled)
        .create(iox2.ServiceType.Ipc)
    )
    name = iox2.ServiceName.new(options.stream)
    buffer = min(4096, max(64, BUFFER_BYTES // options.size))
    service = (
        node.service_builder(name)
        .publish_subscribe(iox2.Slice[ctypes.c_uint8])
        .payload_alignment(iox2.Alignment.new(8))
        .enable_safe_overflow(False)
        .subscriber_max_buffer_size(buffer)
        .subscriber_max_borrowed_samples(min(buffer, BATCH_MAX) + 2)
        .max_publishers(1)
        .max_subscribers(1)
        .open_or_create()
    )
    return service, node.service_builder(name).event().open_or_create(), buffer


class Sender:
    """A loan, a copy into it and a send a message."""

    def __init__(self, options: Options) -> None:
        self._service, event, _buffer = _services(options)
        self._publisher = (
            self._service.publisher_builder()
            .initial_max_slice_len(options.size)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self._notifier = event.notifier_builder().create()
        self._size, self._spin = options.size, options.spin

    def _publish(self, body: bytes) -> None:
        sample = self._publisher.loan_slice_uninit(self._size)
        ctypes.memmove(sample.payload_ptr, body, self._size)
        sample.assume_init().send()

    def _wake(self) -> None:
        if not self._spin:
            self._notifier.notify()

    def send_pool(self, bodies: list[bytes]) -> None:
        """A batch and one notification."""
        for body in bodies:
            self._publish(body)
        self._wake()

    def send_one(self, body: bytes) -> None:
        """One message."""
        self._publish(body)
        self._wake()

    def flush(self) -> None:
        """A sample is in the subscriber's buffer when it was sent."""

    def close(self) -> None:
        """The process ends."""


class Receiver:
    """Samples, as views; they go back to the publisher when the batch is let go."""

    def __init__(self, options: Options) -> None:
        self._service, event, buffer = _services(options)
        self._subscriber = self._service.subscriber_builder().buffer_size(buffer).create()
        self._listener = event.listener_builder().create()
        self._spin = options.spin
        self._batch_max = min(buffer, BATCH_MAX)
        self._timeout = iox2.Duration.from_millis(WAIT_MS)
        self._borrowed: list[Any] = []

    def receive(self) -> Sequence[Body]:
        """What has come."""
        self._release()
        end = time.monotonic() + WAIT_MS / 1000
        while True:
            sample = self._subscriber.receive()
            if sample is not None:
                self._borrowed.append(sample)
                if len(self._borrowed) < self._batch_max:
                    continue
            if self._borrowed or not self._spin or time.monotonic() > end:
                break
        if not self._borrowed and not self._spin:
            self._listener.timed_wait(self._timeout)
        return [sample.payload().as_memory_view() for sample in self._borrowed]

    def _release(self) -> None:
        for sample in self._borrowed:
            sample.delete()
        self._borrowed.clear()

    def close(self) -> None:
        """Give all back."""
        self._release()


if __name__ == "__main__":
    main(Sender, Receiver)

"""The namesrv role: a name server on its own port, embedded in a broker or alone.

It joins broker.nameserver (what requests mean) to a FrameServer (connections) and to the file of
the key-value settings. Brokers are forgotten when their registering connection closes, when they
say good-bye, or when they are silent; all that is counted on the monotonic clock, so that a change
of the time of day expires nobody.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shmq.broker.nameserver import KvTable, NameServer, Options
from shmq.errors import StoreError
from shmq.log import get_logger
from shmq.store.disk import DISK, Disk
from shmq.store.tables import TableFile
from shmq.units import SECOND_MS
from shmq.wire import jsonish
from shmq.workers.base import monotonic_ms
from shmq.workers.door import Answer, Connection, FrameServer, Limits
from shmq.workers.remoting_client import parse_address

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from shmq.config import Settings
    from shmq.wire.header import Header
    from shmq.workers.context import Context

SCAN_INTERVAL_MS: Final = 5 * SECOND_MS
KV_FILE: Final = "kvConfig.json"


class KvFile:
    """The key-value settings on disk, as Apache's name server keeps them: kvConfig.json.

    {"configTable":{"<namespace>":{"<key>":"<value>"}}}
    """

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self._file = TableFile(path, disk=disk)

    def load(self) -> KvTable:
        """The settings as they were last saved.

        Raises:
            StoreError: a file is there, but no version of it can be understood.
        """
        return self._file.load(_decode_kv) or {}

    def save(self, table: KvTable) -> None:
        """Replace the settings, durably.

        Raises:
            StoreError: the disk did not take them; the settings before are still there.
        """
        try:
            self._file.replace(jsonish.dumps({"configTable": table}))
        except OSError as error:
            raise StoreError(
                "key-value settings cannot be saved",
                path=self._file.path,
                cause=error.strerror,
            ) from error


class NamesrvRole:
    """A name server that serves its listeners."""

    def __init__(
        self,
        *,
        listeners: Iterable[socket.socket],
        kv_file: KvFile,
        options: Options | None = None,
        limits: Limits | None = None,
        scan_interval_ms: int = SCAN_INTERVAL_MS,
        clock_ms: Callable[[], int] = monotonic_ms,
        log: Any = None,
    ) -> None:
        self._log = get_logger() if log is None else log
        self._clock_ms = clock_ms
        self._scan_interval_ms = scan_interval_ms
        self._now_ms = clock_ms()
        self._next_scan_ms = self._now_ms + scan_interval_ms
        self.server = NameServer(
            save_kv=kv_file.save, kv=kv_file.load(), options=options, started_ms=self._now_ms
        )
        self._door = FrameServer(
            listeners=listeners,
            handler=self._handle,
            on_close=self._forget,
            log=self._log,
            limits=limits,
        )
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._door.watch(self._wake_fd)

    def step(self, now_ms: int) -> int:  # noqa: ARG002  the time of day does not count here
        """Serve what is ready; every few seconds look for silent brokers."""
        self._now_ms = self._clock_ms()
        self._settle_wakes()
        done = self._door.step(self._now_ms)
        if self._now_ms >= self._next_scan_ms:
            self._next_scan_ms = self._now_ms + self._scan_interval_ms
            done += self._expire()
        return done + self._send_notices()

    def wait(self, timeout_ms: int) -> None:
        """Sleep until a peer wants something."""
        self._door.wait(timeout_ms)

    def wake(self) -> None:
        """End the present or next wait()."""
        os.eventfd_write(self._wake_fd, 1)

    def drain(self, now_ms: int) -> bool:  # noqa: ARG002  as in step
        """Answer what was asked; True when all answers have left."""
        self._now_ms = self._clock_ms()
        self._settle_wakes()
        return self._door.drain(self._now_ms)

    def close(self) -> None:
        """Close all connections."""
        self._door.close()
        os.close(self._wake_fd)

    def _settle_wakes(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return

    def _handle(self, header: Header, body: bytes, connection: Connection) -> Answer:
        return self.server.process(header, body, connection=connection.number, now_ms=self._now_ms)

    def _forget(self, connection: Connection) -> None:
        for member in self.server.connection_closed(connection.number):
            self._log.info(
                "broker.left",
                broker_name=member.name,
                broker_id=member.broker_id,
                broker_addr=member.address,
                reason="its connection closed",
            )

    def _expire(self) -> int:
        silent = self.server.expire(now_ms=self._now_ms)
        for broker in silent:
            self._log.warning(
                "broker.expired",
                broker_name=broker.member.name,
                broker_id=broker.member.broker_id,
                broker_addr=broker.member.address,
                silent_ms=self._now_ms - broker.heard_ms,
            )
            self._door.close_connection(broker.connection, "its broker was silent")
        return len(silent)

    def _send_notices(self) -> int:
        notices = self.server.take_notices()
        for notice in notices:
            try:
                host, port = parse_address(notice.address)
                self._door.send_to(host, port, notice.header)
            except (OSError, ValueError) as error:
                self._log.warning(
                    "broker.not_notified", broker_addr=notice.address, error=str(error)
                )
        return len(notices)


def make(context: Context, index: int = 0) -> NamesrvRole:
    """The role as the supervisor starts it."""
    assert index == 0, "there is one name server"
    settings = context.settings
    path = settings.kv_config_path
    return NamesrvRole(
        listeners=context.listeners["namesrv"],
        kv_file=KvFile(
            Path(path) if path else context.store_dir / "config" / KV_FILE, disk=context.disk
        ),
        options=options_of(settings),
        limits=Limits(
            connections_max=settings.connections_max,
            idle_max_ms=settings.server_channel_max_idle_time_seconds * SECOND_MS,
            frame_size_max=settings.frame_size_max,
        ),
        scan_interval_ms=settings.scan_not_active_broker_interval,
    )


def options_of(settings: Settings) -> Options:
    """The name server's options, as far as the settings hold them."""
    return Options(
        order_message_enable=settings.order_message_enable,
        support_acting_master=settings.support_acting_master,
        enable_all_topic_list=settings.enable_all_topic_list,
        notify_min_broker_id_changed=settings.notify_min_broker_id_changed,
    )


def _decode_kv(data: bytes) -> KvTable:
    plain = jsonish.loads(data)
    try:
        return msgspec.convert(plain, dict[str, KvTable], strict=False).get("configTable", {})
    except msgspec.ValidationError as error:
        raise StoreError("key-value settings have another shape", cause=str(error)) from None

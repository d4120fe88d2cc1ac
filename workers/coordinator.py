"""The coordinator role: the one owner of topics, groups, members, queue locks and offsets.

Serve processes ask it over a Unix socket (wire.internal); what the requests mean is broker.control.
The listening socket is the supervisor's, so a serve process that asks while no coordinator lives
waits in the backlog and is heard by the next one.

    members.msgpack in the run directory    who is online, written whenever that changes: a
                                            successor waits for these members to come back before
                                            it gives their queues to others
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import TYPE_CHECKING, Any, Final

import msgspec

from shmq.broker import names
from shmq.broker.control import Control
from shmq.broker.groups import Groups
from shmq.broker.offsets import Offsets
from shmq.broker.plane import Identity, Plane, RememberedGroup
from shmq.broker.resets import FILE_NAME as RESETS_FILE
from shmq.broker.resets import Resets
from shmq.broker.timesearch import TimeSearch
from shmq.broker.topics import Topics
from shmq.errors import ProtocolError, StoreError
from shmq.layout.control import Word
from shmq.log import get_logger
from shmq.reading import LogReader, QueueReader, StaleFiles
from shmq.store.commitlog import LogFiles
from shmq.store.consumequeue import QueueFiles
from shmq.store.offsetjournal import OffsetJournal
from shmq.store.reserve import Reserve
from shmq.store.tables import TableFile
from shmq.units import SECOND_MS, KiB, MiB
from shmq.wire import internal
from shmq.wire.codes import RequestCode
from shmq.wire.internal import Hello, MessageDecoder
from shmq.workers.base import epoch_ms, monotonic_ms
from shmq.workers.identity import identity_of
from shmq.workers.rates import Rates
from shmq.workers.showconfig import holding_text
from shmq.workers.statefile import MEMBERS_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.shm.doorbell import Doorbell
    from shmq.workers.context import Context

RECEIVE_SIZE: Final = 256 * KiB
OUTPUT_SIZE_MAX: Final = 128 * MiB
RETURN_MAX_MS: Final = 10 * SECOND_MS
"""How long a successor waits for the members that were online before it."""
TICK_MS: Final = 100
RESERVE_INTERVAL_MS: Final = 1000


class Peer:
    """One serve process."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.decoder = MessageDecoder()
        self.output = bytearray()
        self.serve_index = -1
        """-1 until it has said Hello."""


class MembersFile:
    """Who was online, for a successor."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[RememberedGroup]:
        """What a predecessor left; empty when there was none, or when it cannot be understood."""
        try:
            return msgspec.msgpack.decode(self._path.read_bytes(), type=list[RememberedGroup])
        except (OSError, msgspec.MsgspecError):
            return []

    def save(self, groups: list[RememberedGroup]) -> None:
        """Replace it; it need not outlive the machine."""
        made = self._path.with_name(self._path.name + ".new")
        made.write_bytes(msgspec.msgpack.encode(groups))
        made.replace(self._path)


class CoordinatorRole:
    """Joins the control plane to the sockets of the serve processes."""

    def __init__(
        self,
        *,
        listener: socket.socket,
        control: Control,
        members: MembersFile,
        bell: Doorbell,
        register_bell: Doorbell,
        reserve: Reserve | None = None,
        sample: Callable[[int], None] = lambda _now_ms: None,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._listener = listener
        self._control = control
        self._members = members
        self._bell = bell
        self._register_bell = register_bell
        self._reserve = reserve
        self._reserve_due_ms = 0
        self._sample = sample
        self._clock_ms = clock_ms
        self._log = get_logger()
        self._peers: dict[int, Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._selector.register(bell.fileno(), selectors.EVENT_READ, None)
        self._next_tick_ms = 0
        remembered = members.load()
        if remembered:
            control.plane.recall(remembered, until_ms=clock_ms() + RETURN_MAX_MS)
            self._log.info("members.recalled", groups=len(remembered))

    def step(self, now_ms: int) -> int:
        """Take what came, settle it, send what follows."""
        now_ms = self._clock_ms()
        done = self._receive(now_ms, timeout_s=0)
        if done or now_ms >= self._next_tick_ms:
            self._next_tick_ms = now_ms + TICK_MS
            self._control.tick(now_ms=now_ms)
            self._sample(now_ms)
            self._settle(now_ms)
        if self._reserve is not None and now_ms >= self._reserve_due_ms:
            self._reserve_due_ms = now_ms + RESERVE_INTERVAL_MS
            self._reserve.keep()
        return done

    def wait(self, timeout_ms: int) -> None:
        """Sleep until a serve process says something."""
        self._bell.arm()
        self._selector.select(min(timeout_ms, TICK_MS) / 1000)
        self._bell.disarm()

    def wake(self) -> None:
        """End the present or next wait()."""
        self._bell.force()

    def drain(self, now_ms: int) -> bool:
        """The serve processes are gone: write every table."""
        self.step(now_ms)
        if self._control.save_all():
            if self._reserve is not None:
                self._reserve.close()
            return True
        self._log_events()
        return False

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        plane = self._control.plane
        plane.topics.auto_create = settings.auto_create_topic_enable
        plane.groups.auto_create = settings.auto_create_subscription_group
        plane.server_side_resets = settings.use_server_side_reset_offset
        self._control.offsets_interval_ms = settings.flush_consumer_offset_interval

    def close(self) -> None:
        """Close the sockets and the journal; the listener stays with the supervisor."""
        for peer in list(self._peers.values()):
            self._drop(peer, None)
        self._selector.close()
        self._control.plane.offsets.close()

    # In

    def _receive(self, now_ms: int, *, timeout_s: float) -> int:
        done = 0
        for key, events in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, Peer):
                if events & selectors.EVENT_WRITE:
                    self._write(key.data)
                if events & selectors.EVENT_READ and key.data.sock.fileno() >= 0:
                    done += self._read(key.data, now_ms)
        return done

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            sock, _address = self._listener.accept()
            sock.setblocking(False)
            peer = Peer(sock)
            self._peers[sock.fileno()] = peer
            self._selector.register(sock, selectors.EVENT_READ, peer)

    def _read(self, peer: Peer, now_ms: int) -> int:
        try:
            data = peer.sock.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._drop(peer, error.strerror)
            return 1
        if not data:
            self._drop(peer, None)
            return 1
        peer.decoder.feed(data)
        done = 0
        try:
            while (message := peer.decoder.next_message()) is not None:
                self._take(peer, message, now_ms)
                done += 1
        except ProtocolError as error:
            self._drop(peer, str(error))
        return done

    def _take(self, peer: Peer, message: internal.Message, now_ms: int) -> None:
        if peer.serve_index >= 0:
            self._control.receive(peer.serve_index, message, now_ms=now_ms)
            return
        if not isinstance(message, Hello):
            raise ProtocolError("a serve process must begin with Hello", found=type(message))
        for other in list(self._peers.values()):
            if other.serve_index == message.serve_index:
                self._drop(other, "a new process has its place")
        peer.serve_index = message.serve_index
        for update in self._control.complete_updates(now_ms=now_ms):
            self._put(peer, internal.encode(update))

    # Out

    def _settle(self, now_ms: int) -> None:
        for serve_index, message in self._control.settle(now_ms=now_ms):
            data = internal.encode(message)
            for peer in self._hearers(serve_index):
                self._put(peer, data)
        plane = self._control.plane
        if self._control.topics_were_saved:
            self._control.topics_were_saved = False
            self._register_bell.ring()
        if plane.members_changed:
            plane.members_changed = False
            try:
                self._members.save(plane.remember())
            except OSError as error:
                self._log.warning("members.not_saved", cause=error.strerror)
        self._log_events()

    def _hearers(self, serve_index: int) -> Iterable[Peer]:
        """The peers that a message is for; a list, as one may be dropped meanwhile."""
        return [
            peer
            for peer in self._peers.values()
            if peer.serve_index >= 0 and serve_index in (peer.serve_index, -1)
        ]

    def _put(self, peer: Peer, data: bytes) -> None:
        was_empty = not peer.output
        peer.output += data
        if len(peer.output) > OUTPUT_SIZE_MAX:
            self._drop(peer, "it does not read what it is sent")
        elif was_empty:
            self._write(peer)

    def _write(self, peer: Peer) -> None:
        try:
            sent = peer.sock.send(peer.output)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._drop(peer, error.strerror)
            return
        del peer.output[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.output else 0)
        self._selector.modify(peer.sock, events, peer)

    def _drop(self, peer: Peer, reason: str | None) -> None:
        fileno = peer.sock.fileno()
        if self._peers.pop(fileno, None) is None:
            return
        self._selector.unregister(peer.sock)
        peer.sock.close()
        if reason:
            self._log.warning("serve.dropped", serve_index=peer.serve_index, reason=reason)
        if peer.serve_index >= 0:
            self._control.serve_is_gone(peer.serve_index)
            peer.serve_index = -1

    def _log_events(self) -> None:
        plane = self._control.plane
        events, plane.events = plane.events, []
        for event in events:
            getattr(self._log, event.level)(event.name, **event.facts)


class Cleaning:
    """Asks housekeeping to delete what may go."""

    def __init__(self, arena: Arena) -> None:
        self._delete = arena.writer(Word.DELETE_ASKED, role="coordinator")
        self._clean = arena.writer(Word.CLEAN_ASKED, role="coordinator")
        self._bell = arena.bells["housekeeping"]

    def __call__(self, code: int) -> None:
        """See broker.cleanrequests for the codes."""
        word = self._delete if code == RequestCode.DELETE_EXPIRED_COMMITLOG else self._clean
        word.publish(word.load() + 1)
        self._bell.ring()


class FirstInMemory:
    """Whether the first message of a queue is so near the end of the log that memory holds it."""

    def __init__(self, *, arena: Arena, files: QueueFiles, ratio_percent: int) -> None:
        self._arena = arena
        self._reader = QueueReader(arena=arena, files=files)
        self._stale_files = StaleFiles(arena=arena, queue_files=files)
        self._ratio_percent = ratio_percent
        self._append_offset = arena.reader(Word.APPEND_OFFSET)
        self._memory_total = arena.reader(Word.MEMORY_TOTAL)

    def __call__(self, topic: str, queue_id: int) -> bool:
        """See the class; False for a queue that has no message."""
        self._stale_files.close()
        slot = self._arena.queues.slot(topic, queue_id)
        if slot is None:
            return False
        try:
            entries = self._reader.entries(slot, self._arena.queues.min_offset(slot), 1)
        except StoreError:
            return False
        if not len(entries):
            return False
        behind = self._append_offset.load() - int(entries[0]["physical_offset"])
        limit = self._memory_total.load() * self._ratio_percent // 100
        return limit == 0 or behind <= limit


class OffsetAt:
    """The offset of the first message of a queue that was stored at a time or later."""

    def __init__(self, *, arena: Arena, queue_files: QueueFiles, log_files: LogFiles) -> None:
        self._queues = arena.queues
        self._stale_files = StaleFiles(arena=arena, queue_files=queue_files, log_files=log_files)
        self._times = TimeSearch(
            queues=arena.queues,
            queue_reader=QueueReader(arena=arena, files=queue_files),
            log_reader=LogReader(arena=arena, files=log_files),
        )

    def __call__(self, topic: str, queue_id: int, timestamp: int) -> int:
        """See the class; 0 for a queue that there is not.

        Raises:
            StoreError: what must be looked at cannot be read.
        """
        self._stale_files.close()
        slot = self._queues.slot(topic, queue_id)
        return 0 if slot is None else self._times.offset(slot, timestamp)


def make(
    context: Context, index: int = 0, *, clock_ms: Callable[[], int] = monotonic_ms
) -> CoordinatorRole:
    """The coordinator of this broker; there is one."""
    assert index == 0, "one coordinator"
    settings, arena, disk = context.settings, context.arena, context.disk
    config = context.store_dir / "config"
    identity = identity_of(context)
    reserve = Reserve(context.store_dir / "reserve", size=settings.metadata_reserve_size)
    topics = Topics(
        file=TableFile(config / "topics.json", disk=disk, reserve=reserve),
        queues=arena.queues,
        wall_ms=epoch_ms,
        built_in=names.built_in_topics(
            cluster_name=identity.cluster,
            broker_name=identity.name,
            auto_create=settings.auto_create_topic_enable,
            trace=settings.trace_topic_enable,
        ),
        auto_create=settings.auto_create_topic_enable,
        queue_nums_max=min(settings.queues_max, 65_536),
    )
    groups = Groups(
        file=TableFile(config / "subscriptionGroup.json", disk=disk, reserve=reserve),
        wall_ms=epoch_ms,
        auto_create=settings.auto_create_subscription_group,
    )
    offsets = Offsets(
        file=TableFile(config / "consumerOffset.json", disk=disk, reserve=reserve),
        journal=OffsetJournal(config / "consumerOffset.journal", disk=disk, reserve=reserve),
        wall_ms=epoch_ms,
    )
    topics.load()
    groups.load()
    replayed = offsets.load()
    resets = Resets(
        file=TableFile(config / RESETS_FILE, disk=disk, reserve=reserve), wall_ms=epoch_ms
    )
    resets.load()
    get_logger().info(
        "tables.loaded",
        topics=len(topics.configs),
        groups=len(groups.configs),
        replayed_commits=replayed,
    )
    rates = Rates(arena)
    queue_files = QueueFiles(
        context.store_dir / "consumequeue", file_size=settings.mapped_file_size_consume_queue
    )
    plane = Plane(
        identity=Identity(
            cluster_name=identity.cluster, broker_name=identity.name, address=identity.address
        ),
        topics=topics,
        groups=groups,
        offsets=offsets,
        resets=resets,
        config_text=lambda: holding_text(context.settings, changed=False),
        runtime_info=lambda: runtime_info(arena) | rates.runtime_info(clock_ms()),
        first_is_in_memory=FirstInMemory(
            arena=arena,
            files=queue_files,
            ratio_percent=settings.access_message_in_memory_max_ratio,
        ),
        ask_cleaning=Cleaning(arena),
        offset_at=OffsetAt(
            arena=arena,
            queue_files=queue_files,
            log_files=LogFiles(
                context.commitlog_dir, file_size=settings.mapped_file_size_commit_log
            ),
        ),
        wall_ms=epoch_ms,
        server_side_resets=settings.use_server_side_reset_offset,
    )
    plane.resume_resets()
    return CoordinatorRole(
        listener=context.listeners["control"][0],
        control=Control(plane, offsets_interval_ms=settings.flush_consumer_offset_interval),
        members=MembersFile(context.run_dir / MEMBERS_FILE),
        bell=arena.bells["coordinator"],
        register_bell=arena.bells["register"],
        reserve=reserve,
        sample=rates.sample,
        clock_ms=clock_ms,
    )


def runtime_info(arena: Arena) -> dict[str, str]:
    """What the shared words say, under the names of Apache's runtime info."""

    def word(which: Word) -> int:
        return arena.reader(which).load()

    append_offset = word(Word.APPEND_OFFSET)
    disk_used: Any = f"{word(Word.DISK_USED) / 10_000:.4f}"
    return {
        "commitLogMaxOffset": str(append_offset),
        "commitLogMinOffset": str(word(Word.LOG_START)),
        "dispatchMaxBuffer": str(append_offset - word(Word.REPUT_OFFSET)),
        "dispatchBehindBytes": str(append_offset - word(Word.REPUT_OFFSET)),
        "remainHowManyDataToFlush": f"{append_offset - word(Word.FLUSHED_OFFSET)} B",
        "remainHowManyDataToCommit": "0 B",
        "commitLogDiskRatio": disk_used,
        "consumeQueueDiskRatio": disk_used,
        "startAcceptSendRequestTimeStamp": "0",
    }

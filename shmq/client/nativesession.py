"""A client's part of the shared memory: a ring of its own, and the broker's pages to read.

One Unix socket of its own, over which descriptors come (wire.native). When it closes the ring is
dead: the broker has forgotten it, and what was not completed must be sent again over another one.
A session must not be used in a child after fork: the socket and the ring are the parent's.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from shmq.errors import ProtocolError, RequestRefused, ShmqError, Unavailable
from shmq.kernels.cores import core
from shmq.kernels.fence import fence
from shmq.kernels.produce import RecordWriter
from shmq.layout import ring as ring_layout
from shmq.layout.control import LINE_SIZE, Word
from shmq.shm.bellpair import hush_bell, ring_bell
from shmq.shm.ring import Ring
from shmq.shm.words import Cell, OwnedCell, WordReader, check_control
from shmq.wire import native as wire
from shmq.wire.frame import FrameDecoder
from shmq.wire.header import Header, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.shm.queuetable import QueueTable

BELLS: Final = ("work", "done", "news")
RECEIVE_SIZE: Final = 64 * 1024
COMING_NS: Final = 100_000
"""So long a thread that was rung early looks for what is coming, before it sleeps again."""
LOOK_S: Final = 0.1
"""Longest sleep: a ring that was lost costs this at most."""
T = TypeVar("T", bound=msgspec.Struct)


class _Bell:
    """A bell that any number of threads wait on: one sleeps in the kernel, the others on it."""

    def __init__(
        self,
        end: socket.socket,
        sleeping: OwnedCell,
        *,
        sock_fd: int,
        check_alive: Callable[[], None],
        spin_s: float = 0.0,
        coming: Callable[[], bool] | None = None,
    ) -> None:
        """`coming`: whether what is waited for may be there in a moment, after a ring."""
        self.spin_s = spin_s
        self._coming = coming
        self.end = end
        self._fd = fd = end.fileno()
        self._sleeping = sleeping
        self._sleepers = 0
        self._count = threading.Lock()
        self._sock_fd = sock_fd
        self._check_alive = check_alive
        self._turn = threading.Condition()
        self._somebody_sleeps = False
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)
        self._poller.register(sock_fd, select.POLLIN | select.POLLRDHUP)

    def wait(self, over: Callable[[], bool], timeout_s: float | None) -> bool:
        """Sleep until `over` is true; False when the time is over first."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if self.spin_s and self._spin(over, deadline):
            return True
        with self._turn:
            while not over():
                left_s = LOOK_S
                if deadline is not None:
                    left_s = min(LOOK_S, deadline - time.monotonic())
                    if left_s <= 0:
                        return False
                if self._somebody_sleeps:
                    self._turn.wait(left_s)
                    continue
                self._somebody_sleeps = True
                self._turn.release()
                try:
                    self._sleep(over, left_s)
                finally:
                    self._turn.acquire()
                    self._somebody_sleeps = False
                    self._turn.notify_all()
        return True

    def _spin(self, over: Callable[[], bool], deadline: float | None) -> bool:
        """Look again and again for a while; whether `over` came true."""
        end = time.monotonic() + self.spin_s
        if deadline is not None:
            end = min(end, deadline)
        while not over():
            if time.monotonic() >= end:
                return False
            os.sched_yield()  # Who has the news to bring may need this very core.
        return True

    def arm(self) -> None:
        """One more thread is going to sleep; it looks once more after it."""
        with self._count:
            self._sleepers += 1
            self._sleeping.publish(1)
            fence()  # SYNC POINT: the word is seen before the thread looks once more.

    def disarm(self) -> None:
        """It is awake; the others, if there are any, are still to be rung for."""
        with self._count:
            self._sleepers -= 1
            if not self._sleepers:
                self._sleeping.publish(0)

    def _sleep(self, over: Callable[[], bool], left_s: float) -> None:
        """Sleep until rung, or for so long; then look a few times while news may be coming."""
        self.arm()
        try:
            if over():
                return
            ready = dict(self._poller.poll(left_s * 1000))
        finally:
            self.disarm()
        if self._fd in ready:
            hush_bell(self.end)
            if self._coming is not None:
                end_ns = time.perf_counter_ns() + COMING_NS
                while not over() and self._coming() and time.perf_counter_ns() < end_ns:
                    os.sched_yield()  # Who brings it may need this very core.
        if self._sock_fd in ready and not over():
            self._check_alive()


class NativeSession:
    """Ring, bells and read-only views of one broker; usable from any thread."""

    def __init__(self, path: str, *, timeout_s: float = 10.0, spin_s: float = 0.0) -> None:
        """Connect to the broker's Unix socket and open; `spin_s`: look so long before a sleep.

        Raises:
            OSError: nobody listens there.
            RequestRefused: the broker gives no shared memory; go on by copies.
            ProtocolError, LayoutError: it is another broker, or another version.
        """
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._opaque = 0
        self._timeout_s = timeout_s
        self._spin_s = spin_s
        self._closed = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._fds: list[int] = []
        self._ends: list[socket.socket] = []
        """Of the bells, in the order of BELLS."""
        try:
            self._sock.settimeout(timeout_s)
            self._sock.connect(path)
            version = str(wire.LAYOUT_VERSION)
            ext, fds = self._call(wire.NATIVE_OPEN, {"layoutVersion": version})
            self._fds = fds
            self.facts = wire.from_ext(ext, wire.NativeOpened)
            self._map(fds)
        except BaseException:
            self.close()
            raise

    def _map(self, fds: list[int]) -> None:
        if len(fds) != len(wire.DESCRIPTORS):
            raise ProtocolError(
                "descriptors of the native door", found=len(fds), expected=len(wire.DESCRIPTORS)
            )
        by_name = dict(zip(wire.DESCRIPTORS, fds, strict=True))
        own = mmap.mmap(by_name["ring"], os.fstat(by_name["ring"]).st_size)
        self._own = own
        view = memoryview(own)
        self.ring = Ring(view)
        self._producer_core = OwnedCell(view, ring_layout.PRODUCER_CORE_AT, free=True)
        self.writer = RecordWriter(
            entries=self.ring.entries,
            data=self.ring.data,
            entry_count=self.ring.entry_count,
            data_size=self.ring.data_size,
        )
        self._ends = [socket.socket(fileno=os.dup(by_name[name])) for name in BELLS]
        self._control = _read_only(by_name["control"])
        check_control(self._control)
        appended, shown = self.reader(Word.APPEND_OFFSET), self.reader(Word.REPUT_OFFSET)
        self._done, self._news = (
            _Bell(
                end,
                OwnedCell(view, at, free=True),
                sock_fd=self._sock.fileno(),
                check_alive=self._check_alive,
                spin_s=self._spin_s,
                coming=coming,
            )
            for end, at, coming in (
                (self._ends[1], ring_layout.DONE_SLEEPING_AT, None),
                (
                    self._ends[2],
                    ring_layout.NEWS_SLEEPING_AT,
                    lambda: shown.load() < appended.load(),
                ),
            )
        )
        self.pool = _read_only(by_name["pool"])
        self._queue_views = (_read_only(by_name["queues"]), _read_only(by_name["hot_entries"]))
        self._queues: QueueTable | None = None
        self._writer_sleeping = Cell(self._control, self.facts.writer_line * LINE_SIZE)

    # What readers need

    @property
    def queues(self) -> QueueTable:
        """The queue table; numpy is imported with its first use."""
        if self._queues is None:
            from shmq.shm.queuetable import QueueTable  # noqa: PLC0415  numpy, for readers only

            self._queues = QueueTable(*self._queue_views)
        return self._queues

    def reader(self, word: Word) -> WordReader:
        """A word of the broker's control segment."""
        return WordReader(self._control, word)

    def open_log_file(self, start: int) -> int:
        """A descriptor of the commitlog file that begins at `start`."""
        return self._open_file({"kind": wire.COMMITLOG, "start": str(start)})

    def open_queue_file(self, topic: str, queue_id: int, start: int) -> int:
        """A descriptor of the consumequeue file of a queue that begins at byte `start`."""
        return self._open_file(
            {
                "kind": wire.CONSUMEQUEUE,
                "topic": topic,
                "queueId": str(queue_id),
                "start": str(start),
            }
        )

    # What producers need

    def topic(self, name: str, *, queue_count: int = 4) -> wire.NativeTopic:
        """Leave to append to a topic, which is made if it may be.

        Raises:
            RequestRefused: the name, the topic or the store does not allow it.
        """
        ext, _fds = self._call(wire.NATIVE_TOPIC, {"topic": name, "queueCount": str(queue_count)})
        return wire.from_ext(ext, wire.NativeTopic)

    def publish(self) -> None:
        """Show the writer what was put into the ring, and wake it if it sleeps."""
        self.ring.submitted.publish(self.writer.submitted)  # SYNC POINT: the entries are whole.
        fence()  # SYNC POINT: they are seen before the writer's word is read.
        if self._writer_sleeping.load():
            ring_bell(self._ends[0])

    def say_core(self) -> None:
        """Let the writer know where this thread runs, so that it runs elsewhere."""
        self._producer_core.publish(1 + core())

    def wait_done(self, count: int, timeout_s: float | None) -> bool:
        """Sleep until `count` entries are completed; False when the time is over.

        Raises:
            Unavailable: the broker is gone.
        """
        return self._done.wait(lambda: self.ring.completed.load() >= count, timeout_s)

    def wait_news(self, grown: Callable[[], bool], timeout_s: float | None) -> bool:
        """Sleep until `grown` is true, looking at it whenever a queue has grown.

        Raises:
            Unavailable: the broker is gone.
        """
        return self._news.wait(grown, timeout_s)

    def sleep(
        self,
        poller: select.poll,
        *,
        over: Callable[[], bool],
        done: bool,
        news: bool,
        timeout_s: float | None,
    ) -> bool:
        """For one thread that waits for all at once, and for what is in `poller` already.

        Sleeps until entries are completed (if `done`), a queue has grown (if `news`) or that is
        ready; gives whether anything was. `over` is looked at before.

        Raises:
            Unavailable: the broker is gone.
        """
        poller.register(self._sock, select.POLLIN | select.POLLRDHUP)
        heard = [bell for bell, wanted in ((self._done, done), (self._news, news)) if wanted]
        for bell in heard:
            poller.register(bell.end, select.POLLIN)
            bell.arm()
        try:
            if over():
                return False
            ready = dict(poller.poll(None if timeout_s is None else timeout_s * 1000))
        finally:
            for bell in heard:
                bell.disarm()
        for bell in heard:
            if bell.end.fileno() in ready:
                hush_bell(bell.end)
        if self._sock.fileno() in ready:
            self._check_alive()
        return bool(ready)

    def _check_alive(self) -> None:
        """The socket is readable though nothing was asked: the broker has closed it."""
        if self._lock.acquire(blocking=False):
            try:
                # Asked first: a recv() of a socket with a timeout would wait for it.
                readable = bool(select.select([self._sock], [], [], 0)[0])
                gone = readable and not self._sock.recv(1, socket.MSG_PEEK)
            except (OSError, ValueError):
                gone = True
            finally:
                self._lock.release()
            if gone:
                raise Unavailable("the broker closed the native session", **self._about())

    @property
    def alive(self) -> bool:
        """Whether the broker still knows the ring, as far as is known here."""
        if self._closed or self._pid != os.getpid():
            return False
        try:
            self._check_alive()
        except ShmqError:
            return False
        return True

    def close(self) -> None:
        """Give the ring back; views that were handed out stay valid."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # Ends a call of another thread.
            with self._lock:
                self._sock.close()
        else:  # The parent has it on; the lock may be held by a thread that is not here.
            self._sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        for end in self._ends:
            end.close()

    # The socket

    def _open_file(self, ext: dict[str, str]) -> int:
        _ext, fds = self._call(wire.NATIVE_FILE, ext)
        if len(fds) != 1:
            raise ProtocolError("descriptors of a file", found=len(fds), expected=1)
        return fds[0]

    def _call(self, code: int, ext: dict[str, str]) -> tuple[dict[str, str], list[int]]:
        with self._lock:
            if self._closed or self._pid != os.getpid():
                raise Unavailable("the native session is closed", **self._about())
            self._opaque += 1
            request = encode_frame(Header(code, opaque=self._opaque, ext=ext))
            decoder, received = FrameDecoder(), list[int]()
            try:
                self._sock.sendall(request)
                while (frame := decoder.next_frame()) is None:
                    data, fds, _flags, _address = socket.recv_fds(
                        self._sock, RECEIVE_SIZE, len(wire.DESCRIPTORS)
                    )
                    received += fds
                    if not data:
                        raise Unavailable("the broker closed the native session", **self._about())
                    decoder.feed(data)
            except OSError as error:
                raise Unavailable(
                    "the broker does not answer", cause=str(error), **self._about()
                ) from error
        if frame.header.code != 0:
            raise RequestRefused(frame.header.code, frame.header.remark or "refused")
        return frame.header.ext, received

    def _about(self) -> dict[str, object]:
        facts = getattr(self, "facts", None)
        return {} if facts is None else {"broker": facts.broker_name, "ring": facts.ring_index}


def _read_only(fd: int) -> memoryview:
    return memoryview(mmap.mmap(fd, os.fstat(fd).st_size, prot=mmap.PROT_READ))

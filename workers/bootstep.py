"""The boot step: what must be done before the roles are forked, in a process of its own.

Opening a store reads files and fills caches; none of that shall stay in the supervisor. The step
runs in a child that ends when it is done and tells what it does through a pipe, a JSON line each:

    {"doing": "recovering the commitlog", "done": 1048576, "total": 4194304}   progress, bytes
    {"error": "...", "facts": {...}}                                           then it ends

A step that is killed, or asked to stop, leaves a store that the next start recovers again.
"""

from __future__ import annotations

import os
import selectors
import signal
from typing import TYPE_CHECKING, Any, Final, NoReturn

import orjson
import setproctitle

from shmq import log as shmq_log
from shmq.errors import ShmqError
from shmq.units import MiB
from shmq.workers import base
from shmq.workers.base import monotonic_ms
from shmq.workers.judgement import EXIT_CLEAN, EXIT_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.workers.notify import Notifier
    from shmq.workers.signals import Inbox

    Progress = Callable[[str, int, int], None]
    """Called with what is being done, and how many bytes of how many are done (0 of 1: unknown)."""

REPORT_SIZE_MAX: Final = 4096
EXTEND_MS: Final = 120_000
"""How long the service manager shall wait from a report on: a file may take long to sync."""
LOG_EVERY_MS: Final = 1000
STOP_MAX_MS: Final = 5000


class BootFailed(ShmqError):
    """The store could not be opened; str(error) says why."""


def run_boot(step: Callable[[Progress], None], *, inbox: Inbox, notifier: Notifier) -> bool:
    """Run `step` in a child; True when it is done, False when the supervisor was asked to stop.

    Raises:
        BootFailed: the step failed; carries what it said.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    supervisor_pid = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, base.CHILD_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                _be(step, write_fd, supervisor_pid)
            finally:
                os._exit(EXIT_FAILED)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, base.CHILD_SIGNALS)
    os.close(write_fd)
    try:
        return _follow(pid, read_fd, inbox, notifier)
    finally:
        os.close(read_fd)


def _be(step: Callable[[Progress], None], write_fd: int, supervisor_pid: int) -> NoReturn:
    """Be the boot process."""
    code = EXIT_FAILED
    try:
        base.end_with(supervisor_pid)
        setproctitle.setproctitle("shmq: boot")
        signal.set_wakeup_fd(-1)
        for number in base.CHILD_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, base.CHILD_SIGNALS)
        step(lambda doing, done, total: _say(write_fd, doing=doing, done=done, total=total))
        code = EXIT_CLEAN
    except ShmqError as error:
        facts = {name: str(value) for name, value in error.facts.items()}
        _say(write_fd, error=error.what, facts=facts)
    except Exception as error:  # noqa: BLE001  the edge of the process
        shmq_log.get_logger().exception("boot.failed", error=repr(error))
        _say(
            write_fd, error="unexpected fault while opening the store", facts={"cause": repr(error)}
        )
    finally:
        os._exit(code)


def _say(fd: int, **report: object) -> None:
    line = orjson.dumps(report)
    if len(line) > REPORT_SIZE_MAX:  # One write of at most PIPE_BUF bytes is never torn.
        line = orjson.dumps({"error": str(report.get("error", "report too long"))[:1024]})
    os.write(fd, line + b"\n")


def _follow(pid: int, read_fd: int, inbox: Inbox, notifier: Notifier) -> bool:
    """Read reports until the pipe ends, then take the exit code."""
    reports = _Reports(notifier)
    stopping_since_ms = 0
    with selectors.DefaultSelector() as selector:
        selector.register(read_fd, selectors.EVENT_READ)
        selector.register(inbox, selectors.EVENT_READ)
        while True:
            for key, _events in selector.select(LOG_EVERY_MS / 1000):
                if key.fileobj is inbox:
                    inbox.empty()
                elif not reports.take(os.read(read_fd, 64 * 1024)):
                    return _outcome(pid, reports, stopped=stopping_since_ms > 0)
            now_ms = monotonic_ms()
            if inbox.stop_asked and not stopping_since_ms:
                stopping_since_ms = now_ms
                os.kill(pid, signal.SIGTERM)
            elif stopping_since_ms and now_ms - stopping_since_ms > STOP_MAX_MS:
                os.kill(pid, signal.SIGKILL)


def _outcome(pid: int, reports: _Reports, *, stopped: bool) -> bool:
    _pid, status = os.waitpid(pid, 0)  # The pipe has ended, so the process has or is about to.
    if reports.error:
        raise BootFailed(reports.error, **reports.facts)
    if status == 0:
        return True
    if stopped:
        return False
    code = os.waitstatus_to_exitcode(status)
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    raise BootFailed("opening the store ended early", how=how, while_doing=reports.doing)


class _Reports:
    """Lines that came from the boot process."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._pace = Pace(0, 0)
        self._log = shmq_log.get_logger()
        self._rest = b""
        self._logged_ms = 0
        self.doing = "starting"
        self.error = ""
        self.facts: dict[str, Any] = {}

    def take(self, data: bytes) -> bool:
        """Take what the pipe gave; False at its end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            report = orjson.loads(line)
            if "error" in report:
                self.error = report["error"]
                self.facts = report.get("facts", {})
            else:
                self._progress(report["doing"], report["done"], report["total"])
        return bool(data)

    def _progress(self, doing: str, done: int, total: int) -> None:
        now_ms = monotonic_ms()
        if doing == self.doing and now_ms - self._logged_ms < LOG_EVERY_MS:
            return
        if doing != self.doing:
            self._pace = Pace(now_ms, done)
        self.doing = doing
        self._logged_ms = now_ms
        facts = self._pace.facts(now_ms, done, total)
        self._log.info("store.recovery_went_on", doing=doing, done=done, total=total, **facts)
        self._notifier.extend_timeout(EXTEND_MS, doing + amounts(done, total, facts))


class Pace:
    """How fast one piece of work goes on, from its first report."""

    def __init__(self, begun_ms: int, done: int) -> None:
        self._begun_ms = begun_ms
        self._done = done

    def facts(self, now_ms: int, done: int, total: int) -> dict[str, int]:
        """Bytes per second, and seconds left; empty while they are not known."""
        took_ms, came = now_ms - self._begun_ms, done - self._done
        if took_ms <= 0 or came <= 0:
            return {}
        left_s = max(0, total - done) * took_ms / came / 1000
        return {"bytes_per_s": came * 1000 // took_ms, "left_s": round(left_s)}


def amounts(done: int, total: int, facts: dict[str, int]) -> str:
    """`: 512 of 4096 MiB, 800 MiB/s, 5 s left`, as far as it is known."""
    if total <= 1:
        return ""
    text = f": {done // MiB} of {-(-total // MiB)} MiB"
    if facts:
        text += f", {facts['bytes_per_s'] // MiB} MiB/s, {facts['left_s']} s left"
    return text

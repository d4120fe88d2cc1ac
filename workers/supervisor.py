"""The supervisor: makes what the roles share, starts them, and leaves nothing behind at the end.

A broker's start, in this order, and what undoes each step at the end (in reverse):

    store folder, locked                    lock released
    run directory, locked, swept            emptied and removed
    listening sockets                       closed
    shared memory                           names removed, unless it holds what no file has
    boot step, in a child: recovery         -
    `abort` file                            removed when every role drained cleanly
    roles, rank by rank, until all ready    drained, rank by rank
    one ready line on stdout, state file    -

The store is locked before anything in it is read: Apache's broker locks after recovery, so that
two of them may truncate the same files.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import setproctitle

from shmq import __version__
from shmq import log as shmq_log
from shmq.config import apply_reload
from shmq.errors import ConfigError, ShmqError, StoreError
from shmq.workers import abortfile, listeners, roles, statefile
from shmq.workers.base import epoch_ms, monotonic_ms
from shmq.workers.bootstep import run_boot
from shmq.workers.context import (
    Context,
    control_path_of,
    instance_of,
    make_run_dir,
    namesrv_run_dir_of,
    run_dir_of,
    store_dir_of,
)
from shmq.workers.family import Family, Halted
from shmq.workers.judgement import Policy
from shmq.workers.notify import Notifier
from shmq.workers.signals import Inbox
from shmq.workers.storelock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.workers.bootstep import Progress
    from shmq.workers.roles import RoleSpec

EXIT_OK: Final = 0
EXIT_HALTED: Final = 1
EXIT_WRONG: Final = 2
"""A setting, a port or a path is wrong: the same start would fail again."""
STATE_EVERY_MS: Final = 1000


class Memory(Protocol):
    """The shared memory of one broker over its life; memory.py has the real one."""

    def has_remnants(self, context: Context) -> bool:
        """Whether a broker of this instance left segments behind."""
        ...

    def rescue(self, context: Context, progress: Progress) -> None:
        """Bring what they hold to the files and remove them; runs in a child."""
        ...

    def make(self, context: Context) -> Arena | None:
        """Make the new segments."""
        ...

    def boot(self, context: Context, progress: Progress) -> None:
        """Open the store; runs in a child."""
        ...

    def remove(self, context: Context, *, data_kept: bool) -> None:
        """Remove the names; told whether all data has reached the files."""
        ...


class Supervisor:
    """One broker, or one name server without a broker, from start to end."""

    def __init__(
        self,
        context: Context,
        *,
        kind: str,
        specs: Sequence[RoleSpec],
        memory: Memory | None,
        listen: Callable[[Context], None],
        json_ready: bool = False,
    ) -> None:
        self._context = context
        self._kind = kind
        self._specs = specs
        self._memory = memory
        self._listen = listen
        self._json_ready = json_ready
        self._begun_ms = monotonic_ms()
        self._log = shmq_log.get_logger()
        self._notifier = Notifier(os.environ, pid=os.getpid())
        self._inbox = Inbox()
        self._family: Family | None = None
        self._watchdog_ms = 0
        self._state_ms = 0
        self._state_stale = False

    def run(self) -> int:
        """Run until asked to stop or until it cannot go on; the exit code."""
        context = self._context
        with contextlib.ExitStack() as undo:
            try:
                setproctitle.setproctitle(f"shmq: supervisor ({self._kind})")
                self._inbox.open()
                undo.callback(self._inbox.restore)
                if self._memory is not None:
                    context.disk.keep_folders(context.store_dir)
                    lock = StoreLock(context.store_dir, disk=context.disk)
                    lock.take()
                    undo.callback(lock.release)
                self._take_run_dir(undo)
                self._listen(context)
                undo.callback(self._close_listeners)
                context.bound = listeners.bound(context.listeners)
                return self._run_roles()
            except ShmqError as error:
                return self._say_why(error)
            except OSError as error:
                return self._say_why(
                    StoreError("the system refused", cause=error.strerror, path=error.filename)
                )

    def _run_roles(self) -> int:
        memory = self._memory
        if memory is None:
            return self._run_family()[0]
        context = self._context
        context.last_exit_clean = not abortfile.is_there(context.store_dir)
        if memory.has_remnants(context) and not self._in_child(memory.rescue):
            return EXIT_OK
        data_kept = True
        context.shared = memory.make(context)
        try:
            if not self._in_child(memory.boot):
                return EXIT_OK
            abortfile.create(context.store_dir, disk=context.disk)
            data_kept = False  # From here on roles write.
            code, data_kept = self._run_family()
        finally:
            memory.remove(context, data_kept=data_kept)
        return code

    def _in_child(self, step: Callable[[Context, Progress], None]) -> bool:
        """Do a step of the boot in a child; False when the supervisor was asked to stop."""
        done = run_boot(
            lambda progress: step(self._context, progress),
            inbox=self._inbox,
            notifier=self._notifier,
        )
        if not done:
            self._log.info("broker.stopped_while_booting")
        return done

    def _run_family(self) -> tuple[int, bool]:
        """Run the roles; the exit code, and whether all data has reached the files."""
        self._family = family = Family(
            specs=self._specs,
            context=self._context,
            policy=self._policy(),
            inbox=self._inbox,
            on_change=self._mark_state_stale,
            on_look=self._look_around,
        )
        try:
            code = self._live(family)
            return code, family.data_kept()
        finally:
            family.kill()
            family.close()

    def _live(self, family: Family) -> int:
        """Start, watch and drain the roles; the exit code."""
        code = EXIT_OK
        try:
            if family.start():
                self._say_ready()
                family.watch()
        except Halted as halted:
            code = self._say_why(halted)
        self._log.info("broker.stopping", code=code)
        self._notifier.stopping("draining")
        clean = family.drain()
        if clean and self._memory is not None:
            abortfile.remove(self._context.store_dir, disk=self._context.disk)
        self._log.info("broker.stopped", clean=clean, code=code)
        return code

    # What it tells

    def _say_ready(self) -> None:
        context = self._context
        took_ms = monotonic_ms() - self._begun_ms
        addresses = context.addresses()
        if self._json_ready:
            ready = {
                "event": "ready",
                "kind": self._kind,
                "pid": os.getpid(),
                "addresses": addresses,
                "startMillis": took_ms,
                "startTimestamp": context.started_ms,
                "instance": context.instance,
                "runDir": str(context.run_dir),
                "version": __version__,
            }
            line = orjson.dumps(ready).decode()
        else:
            places = ", ".join(f"{kind} {address}" for kind, address in addresses.items())
            line = f"shmq {self._kind} ready in {took_ms} ms: {places}"
        with contextlib.suppress(BrokenPipeError):  # Whoever started us need not listen.
            print(line, flush=True)  # noqa: T201  the one line on standard output
        self._log.info("broker.started", start_ms=took_ms, **addresses)
        self._notifier.ready(f"ready in {took_ms} ms")
        self._write_state()

    def _say_why(self, error: ShmqError) -> int:
        """Say on standard error, in a line, why the broker does not run; the exit code."""
        self._log.error("broker.halted", error=error)
        print(f"shmq: {error}", file=sys.stderr, flush=True)  # noqa: T201  for the person
        self._notifier.status(str(error))
        return EXIT_WRONG if isinstance(error, ConfigError) else EXIT_HALTED

    def _mark_state_stale(self) -> None:
        self._state_stale = True

    def _write_state(self) -> None:
        context = self._context
        assert self._family is not None, "a state has roles"
        state: dict[str, Any] = {
            "kind": self._kind,
            "pid": os.getpid(),
            "instance": context.instance,
            "version": __version__,
            "startTimestamp": context.started_ms,
            "storePath": str(context.store_dir),
            "addresses": context.addresses(),
            "flush": {
                "type": context.settings.flush_disk_type,
                "bytesMax": context.settings.async_flush_bytes_max,
                "millisMax": context.settings.async_flush_millis_max,
            },
            "roles": self._family.describe(),
        }
        self._state_stale = False
        self._state_ms = monotonic_ms()
        try:
            statefile.write_state(context.run_dir, state)
        except OSError as error:  # A full disk must not end the broker.
            self._log.warning("state_file.not_written", error=error)

    # What it sees to in every turn

    def _look_around(self) -> None:
        now_ms = monotonic_ms()
        if self._inbox.take_reload():
            self._reload()
        interval_ms = self._notifier.watchdog_interval_ms
        if interval_ms and now_ms - self._watchdog_ms >= interval_ms:
            self._watchdog_ms = now_ms
            self._notifier.watchdog()
        if self._state_stale and now_ms - self._state_ms >= STATE_EVERY_MS:
            self._write_state()

    def _reload(self) -> None:
        context = self._context
        if context.load_settings is None:
            self._log.warning("settings.not_reloaded", hint="there is no file to read again")
            return
        self._notifier.reloading(time.monotonic_ns() // 1000)
        try:
            wanted = context.load_settings()
        except (ShmqError, OSError) as error:
            self._log.error("settings.refused", error=error, hint="the old ones stay")
        else:
            context.settings, refused = apply_reload(context.settings, wanted)
            shmq_log.set_level(context.settings.log_level)
            assert self._family is not None, "roles are there when turns are"
            self._family.policy = self._policy()
            self._family.reload()
            self._log.info("settings.reloaded", need_restart=refused)
        self._notifier.ready("settings read again")

    def _policy(self) -> Policy:
        settings = self._context.settings
        return Policy(
            restarts_max=settings.restarts_max, restarts_window_ms=settings.restarts_window
        )

    # Run directory and sockets

    def _take_run_dir(self, undo: contextlib.ExitStack) -> None:
        run_dir = self._context.run_dir
        make_run_dir(run_dir)
        lock = statefile.RunDirLock(run_dir)
        lock.take()
        undo.callback(lock.release)
        statefile.sweep_run_dir(run_dir)
        undo.callback(statefile.remove_run_dir, run_dir)

    def _close_listeners(self) -> None:
        for sockets in self._context.listeners.values():
            listeners.end_all(sockets)
        self._context.listeners.clear()


def run_broker(
    settings: Settings,
    *,
    standalone: bool,
    json_ready: bool = False,
    load_settings: Callable[[], Settings] | None = None,
) -> int:
    """Run a broker, with a name server of its own if `standalone`, until it is asked to stop.

    `load_settings` reads the settings again for SIGHUP. Returns the exit code; errors are told on
    standard error. stdout gets one line, when the broker is ready.
    """
    shmq_log.configure(settings.log_level, settings.log_format, "supervisor", os.getpid())
    try:
        context = _context(settings, load_settings)
    except ShmqError as error:
        print(f"shmq: {error}", file=sys.stderr, flush=True)  # noqa: T201  for the person
        return EXIT_WRONG
    context.embedded_namesrv = standalone
    context.serve_count = serve_count(settings)
    specs = roles.broker_roles(
        serve_count=context.serve_count,
        embedded_namesrv=standalone,
        drain_max_ms=settings.shutdown_timeout,
        index=settings.message_index_enable,
    )
    from shmq.workers.memory import BrokerMemory  # noqa: PLC0415  needs /dev/shm; brokers only

    return Supervisor(
        context,
        kind="broker",
        specs=specs,
        memory=BrokerMemory(),
        listen=listen_broker,
        json_ready=json_ready,
    ).run()


def run_namesrv(
    settings: Settings,
    *,
    json_ready: bool = False,
    load_settings: Callable[[], Settings] | None = None,
) -> int:
    """Run a name server without a broker until it is asked to stop; see run_broker."""
    shmq_log.configure(settings.log_level, settings.log_format, "supervisor", os.getpid())
    try:
        context = _context(settings, load_settings)
    except ShmqError as error:
        print(f"shmq: {error}", file=sys.stderr, flush=True)  # noqa: T201  for the person
        return EXIT_WRONG
    context.run_dir = namesrv_run_dir_of(settings)
    return Supervisor(
        context,
        kind="namesrv",
        specs=roles.namesrv_roles(drain_max_ms=settings.shutdown_timeout),
        memory=None,
        listen=listen_namesrv,
        json_ready=json_ready,
    ).run()


def serve_count(settings: Settings) -> int:
    """Number of serve processes: as set, else half of the cores that this process may use."""
    return settings.serve_process_nums or max(1, len(os.sched_getaffinity(0)) // 2)


def listen_broker(context: Context) -> None:
    """Make the sockets of a broker in `context.listeners`.

    Raises:
        ConfigError: a port or path is taken or not allowed.
    """
    settings = context.settings
    where = listeners.place(settings.bind_address, settings.listen_port)
    backlog = settings.server_socket_backlog
    made = context.listeners
    try:
        made["main"], made["vip"] = listeners.listen_with_vip(
            where, context.serve_count, backlog=backlog
        )
        path = socket_path_of(context)
        mode = settings.socket_mode_bits
        made["unix"] = [listeners.listen_unix(path, mode=mode, backlog=backlog)]
        made["control"] = [
            listeners.listen_unix(control_path_of(context), mode=0o600, backlog=backlog)
        ]
        if context.embedded_namesrv:
            listen_namesrv(context)
    except ConfigError:
        for sockets in made.values():
            listeners.end_all(sockets)
        made.clear()
        raise


def listen_namesrv(context: Context) -> None:
    """Make the socket of a name server in `context.listeners`."""
    settings = context.settings
    bind_address = settings.namesrv_bind_address or settings.bind_address
    context.listeners["namesrv"] = listeners.listen_tcp(
        listeners.place(bind_address, settings.namesrv_listen_port),
        1,
        setting="namesrvListenPort",
        backlog=settings.server_socket_backlog,
    )


def socket_path_of(context: Context) -> Path:
    """Path of the Unix socket for clients on this host."""
    if context.settings.socket_path:
        return context.store_dir.joinpath(context.settings.socket_path)
    return context.run_dir / "shmq.sock"


def _context(settings: Settings, load_settings: Callable[[], Settings] | None) -> Context:
    store_dir = store_dir_of(settings)
    return Context(
        settings=settings,
        instance=instance_of(store_dir),
        store_dir=store_dir,
        run_dir=run_dir_of(settings),
        started_ms=epoch_ms(),
        load_settings=load_settings,
    )

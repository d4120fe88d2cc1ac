"""The same function on many items, in several processes at once.

Each process has a pipe of its own, so whoever is killed takes nothing with it, and each item a word
of shared memory in which its process counts bytes; the caller only reads them. A process whose
parent is gone ends at its next count.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

from shmq.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

I = TypeVar("I")  # noqa: E741  item
R = TypeVar("R")

WATCH_S: Final = 0.2
_FORK: Final = multiprocessing.get_context("fork")


class _Failure(str):
    """What went wrong in a process; not every error can be sent as it is."""

    __slots__ = ()


def run(
    work: Callable[[I, Callable[[int], None]], R],
    items: Sequence[I],
    *,
    jobs: int,
    watch: Callable[[int], None],
) -> list[R]:
    """Results of work(item, tick) in the order of the items; `tick` is told bytes done.

    `watch` is told the bytes done so far by all, a few times a second.

    Raises:
        StoreError: a process was killed or failed; the others are ended.
    """
    if jobs <= 1 or len(items) <= 1:
        return _alone(work, items, watch)
    counts = mmap.mmap(-1, 8 * len(items))
    processes: list[_Worker] = []
    try:
        for _ in range(min(jobs, len(items))):
            processes.append(_Worker(work, items, counts, processes))
        return _share(processes, len(items), lambda: watch(sum(memoryview(counts).cast("q"))))
    finally:
        for process in processes:
            process.end()


def _alone(
    work: Callable[[I, Callable[[int], None]], R],
    items: Sequence[I],
    watch: Callable[[int], None],
) -> list[R]:
    done = 0

    def tick(size: int) -> None:
        nonlocal done
        done += size
        watch(done)

    return [work(item, tick) for item in items]


class _Worker:
    """One process, and our end of its pipe."""

    def __init__(
        self,
        work: Callable[[I, Callable[[int], None]], R],
        items: Sequence[I],
        counts: mmap.mmap,
        earlier: Sequence[_Worker],
    ) -> None:
        self.pipe, theirs = _FORK.Pipe()
        self.item = -1
        others = [self.pipe, *(worker.pipe for worker in earlier)]
        self._process = _FORK.Process(
            target=_serve,
            args=(work, items, counts, theirs),
            kwargs={"others": others, "parent": os.getpid()},
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def give(self, item: int) -> None:
        self.item = item
        self.pipe.send(item)

    def end(self) -> None:
        self.pipe.close()
        self._process.kill()
        self._process.join()


def _serve(
    work: Callable[[I, Callable[[int], None]], R],
    items: Sequence[I],
    counts: mmap.mmap,
    pipe: Connection,
    *,
    others: Sequence[Connection],
    parent: int,
) -> None:
    """What a process does: one item after the other, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends us.
    for other in others:
        other.close()
    words = memoryview(counts).cast("q")
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return

        def tick(size: int, item: int = item) -> None:
            words[item] += size
            if os.getppid() != parent:
                os._exit(1)

        try:
            answer: Any = work(items[item], tick)
        except Exception as error:  # noqa: BLE001  the parent raises it
            answer = _Failure(f"{type(error).__name__}: {error}")
        pipe.send(answer)


def _share(workers: Sequence[_Worker], count: int, watch: Callable[[], None]) -> list[Any]:
    results: list[Any] = [None] * count
    given = done = 0
    idle = list(workers)
    while done < count:
        while idle and given < count:
            idle.pop().give(given)
            given += 1
        busy = {worker.pipe: worker for worker in workers if worker not in idle}
        for pipe in wait(list(busy), timeout=WATCH_S):
            worker = busy[pipe]  # type: ignore[index]
            try:
                answer = worker.pipe.recv()
            except (EOFError, OSError):
                raise StoreError(
                    "a process of this command was killed",
                    hint="out of memory? Take fewer --jobs",
                ) from None
            if isinstance(answer, _Failure):
                raise StoreError("a process of this command failed", cause=answer)
            results[worker.item] = answer
            done += 1
            idle.append(worker)
        watch()
    return results

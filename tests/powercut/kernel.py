"""What the kernel is asked for: a process with mounts of its own, loop devices, mounts.

All of it goes away with the processes, however they end: mounts are in a namespace that only they
have, a loop device detaches itself when nobody has it open, and files under it have no name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pickle
import shutil
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from shmq.workers.base import end_with

FUSE_DEVICE: Final = Path("/dev/fuse")
LOOP_CONTROL: Final = Path("/dev/loop-control")
MEMORY_DIR: Final = Path("/dev/shm")  # noqa: S108  gets a tmpfs of its own

# sched.h, sys/mount.h
CLONE_NEWNS: Final = 0x00020000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MNT_DETACH: Final = 2
PR_SET_IO_FLUSHER: Final = 57

# linux/loop.h
LOOP_CONFIGURE: Final = 0x4C0A
LOOP_GET_STATUS64: Final = 0x4C05
LOOP_CTL_GET_FREE: Final = 0x4C82
LO_FLAGS_AUTOCLEAR: Final = 4
LO_FLAGS_DIRECT_IO: Final = 16
LOOP_CONFIG: Final = struct.Struct("=II 40x 12xI 64x64x32x16x 64x")
"""File, block size; of struct loop_info64 the flags alone."""
LOOP_INFO: Final = struct.Struct("=40x 12xI 64x64x32x16x")
ATTACH_TRIES: Final = 20

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def check_host() -> None:
    """Fail, with all that lacks, where a power cut cannot be played."""
    lacks = []
    if os.geteuid() != 0:
        lacks.append("the rights of root, to mount")
    lacks += [
        f"{path}, of the kernel's {module} module"
        for path, module in ((FUSE_DEVICE, "fuse"), (LOOP_CONTROL, "loop"))
        if not path.exists()
    ]
    if shutil.which("mkfs.ext4") is None:
        lacks.append("mkfs.ext4, of Debian's e2fsprogs")
    if find_spec("mfusepy") is None:
        lacks.append("mfusepy, of the extra `powercut`")
    else:
        try:
            import mfusepy  # noqa: F401, PLC0415  it looks for libfuse when it is imported
        except (ImportError, OSError, AttributeError) as error:
            lacks.append(f"libfuse3, of Debian's fuse3 ({error})")
    assert not lacks, f"lacks for power cuts: {'; '.join(lacks)} (`make powercut` installs)"


def with_own_mounts(work: Callable[[], T]) -> T:
    """What `work` gives, in a process of its own whose mounts and /dev/shm nobody else sees.

    Whatever it raises is raised here as an AssertionError with its traceback. When this process
    ends, or waits no longer, the other and all that it forked are killed.
    """
    parent_pid = os.getpid()
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _work_and_die(work, parent_pid, write_fd)
    os.close(write_fd)
    try:
        with os.fdopen(read_fd, "rb") as pipe:
            data = pipe.read()
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _pid, status = os.waitpid(pid, 0)
    assert data, f"the process with the mounts ended with {status}"
    error, result = pickle.loads(data)  # noqa: S301  a fork of ours wrote it
    assert error is None, error
    return result  # type: ignore[no-any-return]


def _work_and_die(work: Callable[[], T], parent_pid: int, write_fd: int) -> NoReturn:
    try:
        end_with(parent_pid)
        own_namespace()
        mount("shm", MEMORY_DIR, "tmpfs")
        outcome: tuple[str | None, T | None] = (None, work())
    except BaseException:  # noqa: BLE001  the parent raises it
        outcome = (traceback.format_exc(), None)
    try:
        with os.fdopen(write_fd, "wb") as pipe:
            pickle.dump(outcome, pipe)
        sys.stderr.flush()
    finally:
        os._exit(0)


def own_namespace() -> None:
    """Have a copy of all mounts, which goes away with this process and its children."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        _fail("the kernel gives no namespace for mounts")
    mount("none", Path("/"), None, MS_REC | MS_PRIVATE)


def serve_disks() -> None:
    """Tell the kernel that this process serves a disk: it must not write to one to get memory.

    Without CAP_SYS_RESOURCE it cannot be told; that matters only where memory is short.
    """
    _libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0)


def mount(source: str, where: Path, kind: str | None, flags: int = 0, options: str = "") -> None:
    """Mount, or say what the kernel refused."""
    kind_bytes = None if kind is None else kind.encode()
    done = _libc.mount(
        source.encode(), bytes(where), kind_bytes, ctypes.c_ulong(flags), options.encode() or None
    )
    if done != 0:
        _fail(f"the kernel does not mount {source} as {kind}")


def unmount(where: Path) -> None:
    """umount(2); what is still in use loses its name at least, and that is an error."""
    if _libc.umount2(bytes(where), 0) != 0:
        number = ctypes.get_errno()
        _libc.umount2(bytes(where), MNT_DETACH)
        raise OSError(number, os.strerror(number), str(where))


@contextmanager
def attached(file_fd: int, *, direct: bool) -> Iterator[str]:
    """A loop device over a file. It is there until this ends, or as long as it is mounted.

    `direct`: what is written to it arrives in the file as it was written, past the page cache.
    """
    device, device_fd = _free_loop(file_fd, direct=direct)
    try:
        info = bytearray(LOOP_INFO.size)
        fcntl.ioctl(device_fd, LOOP_GET_STATUS64, info)
        (flags,) = LOOP_INFO.unpack(info)
        assert bool(flags & LO_FLAGS_DIRECT_IO) >= direct, f"no direct I/O on {device}"
        yield device
    finally:
        os.close(device_fd)


def _free_loop(file_fd: int, *, direct: bool) -> tuple[str, int]:
    flags = LO_FLAGS_AUTOCLEAR | (LO_FLAGS_DIRECT_IO if direct else 0)
    for _ in range(ATTACH_TRIES):
        with LOOP_CONTROL.open("rb") as control:
            device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
        device_fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device_fd, LOOP_CONFIGURE, LOOP_CONFIG.pack(file_fd, 512, flags))
        except OSError as error:
            os.close(device_fd)
            if error.errno != errno.EBUSY:
                raise
        else:
            return device, device_fd
    raise AssertionError(f"no loop device was free in {ATTACH_TRIES} tries")


@contextmanager
def ext4_on(
    file_fd: int, where: Path, *, direct: bool = False, options: str = ""
) -> Iterator[None]:
    """A file's ext4, mounted: what its journal holds is replayed first."""
    with attached(file_fd, direct=direct) as device:
        mount(device, where, "ext4", 0, options)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # What failed may have files open; its error is the one to see.
            unmount(where)
        raise
    unmount(where)


def write_back(fd: int) -> None:
    """Begin to write a file's bytes, as the kernel does when it likes: sync_file_range(2)."""
    sync_file_range_write = 2
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), sync_file_range_write)


def commit_journal(fd: int) -> None:
    """Bring a file's whole file system to the disk, as ext4 does every five seconds: syncfs(2)."""
    if _libc.syncfs(fd) != 0:
        _fail("syncfs")


def _fail(what: str) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")

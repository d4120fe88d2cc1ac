"""Bodies that travel compressed: zlib always, LZ4 and Zstandard where their packages are installed.

Source: Apache RocketMQ common/compression; the flag bits are in wire.codes.
"""

from __future__ import annotations

import importlib
import zlib
from typing import Any, Final

from shmq.client.model import Body
from shmq.errors import InvalidMessage
from shmq.units import MiB
from shmq.wire.codes import COMPRESSION_MASK, SysFlag

LEVEL: Final = 5
BODY_SIZE_MAX: Final = 256 * MiB
"""Of an inflated body."""
COMPRESSED_ZLIB: Final = SysFlag.COMPRESSED | SysFlag.COMPRESSION_ZLIB


def compressed(body: Body) -> bytes:
    """A body as COMPRESSED_ZLIB says."""
    return zlib.compress(body, LEVEL)


def decompressed(body: Body, sys_flag: int) -> bytes:
    """A body as its sender gave it.

    Raises:
        InvalidMessage: it is broken, too large, or its form needs a package that is not installed.
    """
    kind = sys_flag & COMPRESSION_MASK
    if kind in {0, SysFlag.COMPRESSION_ZLIB}:
        return _inflate(body)
    if kind == SysFlag.COMPRESSION_LZ4:
        return _by_package("lz4.frame", "lz4", body)
    if kind == SysFlag.COMPRESSION_ZSTD:
        return _by_package("zstandard", "zstandard", body)
    raise InvalidMessage("unknown compression", sys_flag=f"{sys_flag:#x}")


def _inflate(body: Body) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(body, BODY_SIZE_MAX)
    except zlib.error as error:
        raise InvalidMessage("compressed body is broken", cause=str(error)) from None
    if not stream.eof:
        raise InvalidMessage(
            "compressed body is cut off or too large", size=len(data), size_max=BODY_SIZE_MAX
        )
    return data


def _by_package(module: str, package: str, body: Body) -> bytes:
    try:
        codec: Any = importlib.import_module(module)
    except ImportError:
        raise InvalidMessage(
            "the body is compressed in a form that needs a package", package=package
        ) from None
    try:
        if module == "zstandard":
            data: bytes = codec.ZstdDecompressor().decompressobj().decompress(bytes(body))
        else:
            data = codec.decompress(bytes(body))
    except Exception as error:  # noqa: BLE001  each package has its own
        raise InvalidMessage(
            "compressed body is broken", package=package, cause=str(error)
        ) from None
    return data

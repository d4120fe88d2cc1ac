"""Any store file, folder or shared segment as items, and an item as a line of text.

    records.py   records of the commitlog, wherever they lie
    files.py     files of a store, told apart by place, name and content
    segments.py  shared memory of a running or killed broker
    text.py      an item as text

An item is a dict that JSON can hold; its `kind` says what it is. Any bytes are legal input: what
is not what it should be is shown as an item of kind `damage`, and that file's dump ends there.
Only reads; needs no running broker and disturbs none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shmq.dump.files import file_items, folder_items
from shmq.dump.segments import SEGMENT_NAME, segment_items
from shmq.dump.text import line
from shmq.errors import StoreError
from shmq.shm.segment import SHM_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["dump", "line"]


def dump(target: str, *, first: int = 0, with_body: bool = False) -> Iterator[dict[str, Any]]:
    """What is in `target`: the path of a file or folder, or a segment's name.

    Args:
        target: a segment may be given with or without its slash, or as a path in /dev/shm.
        first: skips what lies before. Bytes in a commitlog and in the pool, else a number of
            entries. In a folder with one row of files the row is counted, so that it is a physical
            offset or a queue offset.
        with_body: the bodies of messages too, as stored.

    Raises:
        StoreError: there is no such thing, it cannot be read, or it has no place to begin at.
        LayoutError: there is no such segment, or it belongs to another user.
    """
    path = Path(target)
    if path.parent == SHM_FOLDER and SEGMENT_NAME.match(path.name):
        return segment_items(path.name, first=first, with_body=with_body)
    if path.is_dir():
        return folder_items(path, first=first, with_body=with_body)
    if path.exists():
        return file_items(path, first=first, with_body=with_body)
    if SEGMENT_NAME.match(target):
        return segment_items(target, first=first, with_body=with_body)
    raise StoreError("no such file, folder or segment", target=target)

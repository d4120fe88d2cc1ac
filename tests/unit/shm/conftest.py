"""Names of segments that are gone after each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from shmq.shm import segment

_numbers = itertools.count()


@pytest.fixture
def instance() -> Iterator[str]:
    """A name that nobody else uses; its segments are removed."""
    name = f"testshm-{os.getpid()}-{next(_numbers)}"
    yield name
    for left in segment.names_of(name):
        segment.unlink(left)

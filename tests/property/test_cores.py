"""Which core runs the caller: compiled and plain say the same, and what the kernel was told."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shmq.kernels import cores, cores_plain


@pytest.fixture
def allowed() -> Iterator[set[int]]:
    """The cores that this process may use, as before after the test."""
    found = os.sched_getaffinity(0)
    yield found
    os.sched_setaffinity(0, found)


def test_both_name_the_core_that_was_asked_for(allowed: set[int]) -> None:
    for one in allowed:
        os.sched_setaffinity(0, {one})
        assert cores.core() == cores_plain.core() == one

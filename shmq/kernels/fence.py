# cython: language_level=3, boundscheck=False
"""Fence: stores before it are seen by others before any load after it reads.

Without one a core may read "nobody sleeps" before its own store of new work can be seen, while the
other reads "no work" before its own "I sleep" can: a ring is lost. Twin: fence_plain.py.
"""

from cython.cimports.shmq.kernels.native import shmq_fence


def fence():
    """A full barrier."""
    shmq_fence()

# cython: language_level=3, boundscheck=False
"""Cores: which one runs the calling thread. Twin: cores_plain.py."""

from cython.cimports.shmq.kernels.native import shmq_core


def core() -> int:
    """Number of the core that runs the calling thread, -1 where the kernel does not tell."""
    return shmq_core()

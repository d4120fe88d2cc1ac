# What other kernels use of walk.py.
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef uint32_t java_hash(uint32_t value, const uint8_t *text, int64_t size) noexcept nogil

# What other kernels use of walk.py.
from libc.stdint cimport int64_t, uint8_t, uint32_t

# Where the parts of a record lie whose sizes agree with its size; from the record's start.
cdef struct Parts:
    uint32_t flags
    int64_t extra          # what an IPv6 born host adds before the store timestamp
    int64_t body_at
    int64_t body_size
    int64_t topic_at
    int64_t topic_size
    int64_t properties_at
    int64_t properties_size

cdef int64_t value_of(
    const uint8_t *text, int64_t size, const uint8_t *name, int64_t name_size, int64_t *value
) noexcept
cdef uint32_t java_hash(uint32_t value, const uint8_t *text, int64_t size) noexcept nogil
cdef bint find_parts(const uint8_t *at, int64_t total, uint32_t magic, Parts *parts) noexcept
cdef void describe(
    int64_t *row, const uint8_t *at, int64_t position, int64_t total, Parts *parts
) noexcept

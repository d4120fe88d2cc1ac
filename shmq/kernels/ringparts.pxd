# ENTRY and COMPLETION of shmq/layout/ring.py as C sees them; tests hold the two together.
from libc.stdint cimport int32_t, int64_t

cdef struct Entry:
    int64_t data_position
    int32_t data_size
    int32_t record_count
    int32_t slot
    int32_t flags
    int64_t tags_code
    int32_t opaque
    int32_t connection
    int64_t connection_id
    int32_t answer_flags
    int32_t queue_id
    int32_t unique_at
    int32_t unique_size

cdef struct Completion:
    int32_t status
    int32_t zero
    int64_t physical_offset
    int64_t queue_offset
    int64_t store_timestamp

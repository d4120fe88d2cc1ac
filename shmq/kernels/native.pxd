from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "native.h" nogil:
    void shmq_store_release(int64_t *cell, int64_t value)
    int64_t shmq_load_acquire(const int64_t *cell)
    void shmq_store_release32(int32_t *cell, int32_t value)
    void shmq_fence()
    void shmq_snapshot(void *to, const void *source, size_t size)
    int shmq_core()
    uint32_t shmq_swap32(uint32_t value)
    uint64_t shmq_swap64(uint64_t value)

from libc.stdint cimport uint32_t

cdef extern from "crc32.h" nogil:
    int shmq_crc32_folds
    void shmq_crc32_setup()
    uint32_t shmq_crc32(const unsigned char *data, size_t size)
    uint32_t shmq_crc32_by_table(uint32_t state, const unsigned char *data, size_t size)

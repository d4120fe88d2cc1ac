from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "scan.h" nogil:
    int16_t shmq_get16(const unsigned char *at)
    int32_t shmq_get32(const unsigned char *at)
    uint32_t shmq_getu32(const unsigned char *at)
    int64_t shmq_get64(const unsigned char *at)
    void shmq_put16(unsigned char *at, uint16_t value)
    void shmq_put32(unsigned char *at, uint32_t value)
    void shmq_put64(unsigned char *at, uint64_t value)
    uint64_t shmq_hash(const unsigned char *at, size_t size)
    bint shmq_equal(const unsigned char *at, const char *literal, size_t size)
    unsigned char *shmq_string_special(unsigned char *at, const unsigned char *end)
    unsigned char *shmq_either(
        unsigned char *at, const unsigned char *end, unsigned char a, unsigned char b
    )
    bint shmq_is_ascii(const unsigned char *at, const unsigned char *end)

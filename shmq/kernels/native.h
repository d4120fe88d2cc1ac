/* What Cython cannot say: stores and loads whose order other processes rely on (x86-64 and others). */
#ifndef SHMQ_NATIVE_H
#define SHMQ_NATIVE_H

#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void shmq_store_release(int64_t *cell, int64_t value) {
    __atomic_store_n(cell, value, __ATOMIC_RELEASE);
}

static inline int64_t shmq_load_acquire(const int64_t *cell) {
    return __atomic_load_n(cell, __ATOMIC_ACQUIRE);
}

static inline void shmq_store_release32(int32_t *cell, int32_t value) {
    __atomic_store_n(cell, value, __ATOMIC_RELEASE);
}

static inline void shmq_fence(void) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* A copy that is made once: memory that another process may change is not looked at again. */
static inline void shmq_snapshot(void *to, const void *from, size_t size) {
    memcpy(to, from, size);
    __asm__ __volatile__("" : : "r"(to) : "memory");
}

/* Number of the core that runs this thread, -1 where the kernel does not tell. */
static inline int shmq_core(void) { return sched_getcpu(); }

static inline uint32_t shmq_swap32(uint32_t value) { return __builtin_bswap32(value); }
static inline uint64_t shmq_swap64(uint64_t value) { return __builtin_bswap64(value); }

#endif

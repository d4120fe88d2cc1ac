/* What the kernels do with bytes at any alignment: big-endian numbers, literals,
 * and the search for the end of a JSON string. No function here reads outside [at, end).
 */
#ifndef SHMQ_SCAN_H
#define SHMQ_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SHMQ_BIG16(value) __builtin_bswap16(value)
#define SHMQ_BIG32(value) __builtin_bswap32(value)
#define SHMQ_BIG64(value) __builtin_bswap64(value)
#else
#define SHMQ_BIG16(value) (value)
#define SHMQ_BIG32(value) (value)
#define SHMQ_BIG64(value) (value)
#endif

static inline int16_t shmq_get16(const uint8_t *at) {
    uint16_t value;
    memcpy(&value, at, 2);
    return (int16_t)SHMQ_BIG16(value);
}

static inline int32_t shmq_get32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return (int32_t)SHMQ_BIG32(value);
}

static inline uint32_t shmq_getu32(const uint8_t *at) { return (uint32_t)shmq_get32(at); }

static inline int64_t shmq_get64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return (int64_t)SHMQ_BIG64(value);
}

static inline void shmq_put16(uint8_t *at, uint16_t value) {
    value = SHMQ_BIG16(value);
    memcpy(at, &value, 2);
}

static inline void shmq_put32(uint8_t *at, uint32_t value) {
    value = SHMQ_BIG32(value);
    memcpy(at, &value, 4);
}

static inline void shmq_put64(uint8_t *at, uint64_t value) {
    value = SHMQ_BIG64(value);
    memcpy(at, &value, 8);
}

static inline int shmq_equal(const uint8_t *at, const char *literal, size_t size) {
    return memcmp(at, literal, size) == 0;
}

/* For a table in memory only; not the same on every kind of machine. */
static inline uint64_t shmq_hash(const uint8_t *at, size_t size) {
    const uint64_t factor = 0x9E3779B97F4A7C15u;
    uint64_t result = size * factor, piece;
    for (; size >= 8; at += 8, size -= 8) {
        memcpy(&piece, at, 8);
        result = (result ^ piece) * factor;
        result ^= result >> 29;
    }
    for (; size > 0; at++, size--)
        result = (result ^ *at) * factor;
    return result ^ (result >> 32);
}

/* The first quote, backslash or control character, or `end`. */
static inline uint8_t *shmq_string_special(uint8_t *at, const uint8_t *end) {
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
    const __m128i last_control = _mm_set1_epi8(0x1F);
    while (end - at >= 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)at);
        __m128i found = _mm_or_si128(
            _mm_or_si128(_mm_cmpeq_epi8(block, quote), _mm_cmpeq_epi8(block, backslash)),
            _mm_cmpeq_epi8(_mm_min_epu8(block, last_control), block));
        int mask = _mm_movemask_epi8(found);
        if (mask != 0)
            return at + __builtin_ctz((unsigned)mask);
        at += 16;
    }
#endif
    while (at < end && *at >= 0x20 && *at != '"' && *at != '\\')
        at++;
    return at;
}

/* The first byte equal to one of two, or `end`. */
static inline uint8_t *shmq_either(uint8_t *at, const uint8_t *end, uint8_t a, uint8_t b) {
#if defined(__SSE2__)
    const __m128i all_a = _mm_set1_epi8((char)a), all_b = _mm_set1_epi8((char)b);
    while (end - at >= 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)at);
        int mask = _mm_movemask_epi8(
            _mm_or_si128(_mm_cmpeq_epi8(block, all_a), _mm_cmpeq_epi8(block, all_b)));
        if (mask != 0)
            return at + __builtin_ctz((unsigned)mask);
        at += 16;
    }
#endif
    while (at < end && *at != a && *at != b)
        at++;
    return at;
}

static inline int shmq_is_ascii(const uint8_t *at, const uint8_t *end) {
    uint8_t all = 0;
#if defined(__SSE2__)
    __m128i blocks = _mm_setzero_si128();
    for (; end - at >= 16; at += 16)
        blocks = _mm_or_si128(blocks, _mm_loadu_si128((const __m128i *)at));
    if (_mm_movemask_epi8(blocks) != 0)
        return 0;
#endif
    for (; at < end; at++)
        all |= *at;
    return all < 0x80;
}

#endif

/* CRC-32 (IEEE 802.3, reflected, as zlib's): carry-less multiplication where the CPU has it, else
 * eight table look-ups for eight bytes. Call shmq_crc32_setup() once before shmq_crc32().
 *
 * Method and constants: V. Gopal and others, "Fast CRC Computation for Generic Polynomials Using
 * PCLMULQDQ Instruction", Intel 2009. A fold constant is x^n mod P, bit-reflected, shifted by one.
 */
#ifndef SHMQ_CRC32_H
#define SHMQ_CRC32_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define SHMQ_CRC32_FOLDS 1
#endif

#define SHMQ_CRC32_POLYNOMIAL 0xEDB88320u

static uint32_t shmq_crc32_table[8][256];
static int shmq_crc32_folds; /* 1: this CPU multiplies without carry */

static inline void shmq_crc32_setup(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (SHMQ_CRC32_POLYNOMIAL & (0u - (value & 1u)));
        shmq_crc32_table[0][byte] = value;
    }
    for (int step = 1; step < 8; step++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = shmq_crc32_table[step - 1][byte];
            shmq_crc32_table[step][byte] = (before >> 8) ^ shmq_crc32_table[0][before & 255];
        }
#ifdef SHMQ_CRC32_FOLDS
    __builtin_cpu_init();
    shmq_crc32_folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#endif
}

/* `state` is the inverted CRC, before and after. */
static inline uint32_t shmq_crc32_by_table(uint32_t state, const uint8_t *data, size_t size) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (size >= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low ^= state;
        state = shmq_crc32_table[7][low & 255] ^ shmq_crc32_table[6][(low >> 8) & 255] ^
                shmq_crc32_table[5][(low >> 16) & 255] ^ shmq_crc32_table[4][low >> 24] ^
                shmq_crc32_table[3][high & 255] ^ shmq_crc32_table[2][(high >> 8) & 255] ^
                shmq_crc32_table[1][(high >> 16) & 255] ^ shmq_crc32_table[0][high >> 24];
        data += 8;
        size -= 8;
    }
#endif
    while (size > 0) {
        state = (state >> 8) ^ shmq_crc32_table[0][(state ^ *data) & 255];
        data++;
        size--;
    }
    return state;
}

#ifdef SHMQ_CRC32_FOLDS
#define SHMQ_FOLD_TARGET __attribute__((target("pclmul,sse4.1")))

/* `lane` moved on by the distance that `constants` stand for, plus the bytes found there. */
SHMQ_FOLD_TARGET static inline __m128i shmq_crc32_fold(__m128i lane, __m128i constants, __m128i next) {
    __m128i low = _mm_clmulepi64_si128(lane, constants, 0x00);
    __m128i high = _mm_clmulepi64_si128(lane, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* 128 bits down to 32: two foldings, then Barrett's reduction. */
SHMQ_FOLD_TARGET static inline uint32_t shmq_crc32_reduce(__m128i lane, __m128i by_16) {
    const __m128i low_halves = _mm_setr_epi32(-1, 0, -1, 0);
    const __m128i by_8 = _mm_set_epi64x(0, 0x163CD6124);
    const __m128i barrett = _mm_set_epi64x(0x1F7011641, 0x1DB710641);
    __m128i left, quotient;
    left = _mm_clmulepi64_si128(lane, by_16, 0x10);
    lane = _mm_xor_si128(_mm_srli_si128(lane, 8), left);
    left = _mm_srli_si128(lane, 4);
    lane = _mm_clmulepi64_si128(_mm_and_si128(lane, low_halves), by_8, 0x00);
    lane = _mm_xor_si128(lane, left);
    quotient = _mm_clmulepi64_si128(_mm_and_si128(lane, low_halves), barrett, 0x10);
    quotient = _mm_clmulepi64_si128(_mm_and_si128(quotient, low_halves), barrett, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(lane, quotient), 1);
}

/* Needs size >= 16; takes whole blocks of 16 bytes, `*left` is the number of bytes not taken. */
SHMQ_FOLD_TARGET static uint32_t shmq_crc32_by_folding(uint32_t state, const uint8_t *data, size_t size,
                                                       size_t *left) {
    const __m128i by_64 = _mm_set_epi64x(0x1C6E41596, 0x154442BD4);
    const __m128i by_16 = _mm_set_epi64x(0x0CCAA009E, 0x1751997D0);
    const __m128i *block = (const __m128i *)data;
    __m128i first = _mm_cvtsi32_si128((int)state);
    __m128i lane = _mm_xor_si128(_mm_loadu_si128(block), first);
    if (size >= 64) {
        __m128i lane1 = _mm_loadu_si128(block + 1);
        __m128i lane2 = _mm_loadu_si128(block + 2);
        __m128i lane3 = _mm_loadu_si128(block + 3);
        block += 4;
        size -= 64;
        while (size >= 64) {
            lane = shmq_crc32_fold(lane, by_64, _mm_loadu_si128(block));
            lane1 = shmq_crc32_fold(lane1, by_64, _mm_loadu_si128(block + 1));
            lane2 = shmq_crc32_fold(lane2, by_64, _mm_loadu_si128(block + 2));
            lane3 = shmq_crc32_fold(lane3, by_64, _mm_loadu_si128(block + 3));
            block += 4;
            size -= 64;
        }
        lane = shmq_crc32_fold(lane, by_16, lane1);
        lane = shmq_crc32_fold(lane, by_16, lane2);
        lane = shmq_crc32_fold(lane, by_16, lane3);
    } else {
        block += 1;
        size -= 16;
    }
    while (size >= 16) {
        lane = shmq_crc32_fold(lane, by_16, _mm_loadu_si128(block));
        block += 1;
        size -= 16;
    }
    *left = size;
    return shmq_crc32_reduce(lane, by_16);
}
#endif

static inline uint32_t shmq_crc32(const uint8_t *data, size_t size) {
    uint32_t state = 0xFFFFFFFFu;
#ifdef SHMQ_CRC32_FOLDS
    if (shmq_crc32_folds && size >= 16) {
        size_t left;
        state = shmq_crc32_by_folding(state, data, size, &left);
        data += size - left;
        size = left;
    }
#endif
    return ~shmq_crc32_by_table(state, data, size);
}

#endif

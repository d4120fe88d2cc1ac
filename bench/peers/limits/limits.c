/* The machine's own limits, for comparison: `limits FILE` prints one JSON object.
 *
 * memcpy: bodies of 128 B, 1 KiB and 64 KiB, one after the other, from a pool in cache into 256 MiB of
 * shared memory that was touched before. write: 256 MiB sequentially in pieces of 1 MiB into a new FILE,
 * then fdatasync. fdatasync: 64 times 4 KiB appended and synced.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { AREA = 256 << 20, POOL = 1 << 18, PIECE = 1 << 20, SYNCS = 64, PAGE = 4096 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double copy_rate(char *area, const char *pool, size_t size) {
    double best = 0;
    for (int round = 0; round < 3; round++) {
        double began = now();
        size_t from = 0;
        for (size_t at = 0; at + size <= AREA; at += size) {
            memcpy(area + at, pool + from, size);
            from = (from + size) % POOL;
        }
        double rate = (AREA / size) / (now() - began);
        __asm__ volatile("" ::"r"(area) : "memory");
        best = rate > best ? rate : best;
    }
    return best;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    char *area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *pool = malloc(POOL);
    if (area == MAP_FAILED || !pool)
        fail("memory");
    memset(area, 1, AREA);
    for (size_t i = 0; i < POOL; i++)
        pool[i] = (char)(i * 2654435761u >> 13);
    printf("{\"memcpy\": {");
    const size_t sizes[] = {128, 1024, 65536};
    for (int i = 0; i < 3; i++)
        printf("%s\"%zu\": %.0f", i ? ", " : "", sizes[i], copy_rate(area, pool, sizes[i]));

    int file = open(argv[1], O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (file < 0)
        fail("open");
    double began = now();
    for (size_t at = 0; at < AREA; at += PIECE)
        if (write(file, area + at, PIECE) != PIECE)
            fail("write");
    if (fdatasync(file))
        fail("fdatasync");
    double write_s = now() - began;

    double took[SYNCS];
    for (int i = 0; i < SYNCS; i++) {
        began = now();
        if (write(file, pool, PAGE) != PAGE || fdatasync(file))
            fail("fdatasync");
        took[i] = (now() - began) * 1e6;
    }
    qsort(took, SYNCS, sizeof took[0], ascending);
    close(file);
    unlink(argv[1]);
    printf("}, \"write_mib_per_s\": %.1f, \"fdatasync_p50_us\": %.0f, \"fdatasync_max_us\": %.0f}\n",
           AREA / write_s / (1 << 20), took[SYNCS / 2], took[SYNCS - 1]);
    return 0;
}

/* speed SECONDS: arithmetic without a pause, and how much of it was done in each BUCKET_NS of the guest's clock. Prints
 * these counts, a line each; where the guest stood still they are 0. */
#include "speed.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BUCKET_NS = 5000000, CHUNK = 20000 };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int speed(double seconds)
{
    size_t buckets = (size_t)(seconds * 1e9 / BUCKET_NS);
    uint32_t *done = calloc(buckets + 1, sizeof *done);
    if (!done)
        return 1;
    uint64_t began = now_ns(), x = 88172645463325252u;
    for (size_t at = 0; at < buckets; at = (size_t)((now_ns() - began) / BUCKET_NS)) {
        for (int i = 0; i < CHUNK; i++)
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        done[at]++;
    }
    for (size_t i = 0; i < buckets; i++)
        printf("%u\n", done[i]);
    return x == 0;
}

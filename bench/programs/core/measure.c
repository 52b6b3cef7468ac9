/* Time and the search for the number of repeats. */
#include "bench.h"

#include <stdio.h>
#include <time.h>

uint64_t bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double timed(uint64_t (*run)(uint64_t n), uint64_t n)
{
    uint64_t start = bench_now();
    volatile uint64_t kept = run(n); /* the work must not be optimised away */
    (void)kept;
    return (double)(bench_now() - start);
}

double bench_measure(uint64_t (*run)(uint64_t n), uint32_t ms)
{
    double wanted = (double)ms * 1e6, took;
    uint64_t n = 1;
    /* Doubling ends with a trial of an eighth of the time or more: what a translator does at first is behind it. */
    while ((took = timed(run, n)) < wanted / 8)
        n *= took < wanted / 64 ? 4 : 2;
    uint64_t full = (uint64_t)((double)n * wanted / took);
    if (full < n)
        full = n;
    printf("\nbegin\n"); /* whoever reads us may look at its own clocks: from here to "took NS" is the figure */
    fflush(stdout);
    took = timed(run, full);
    printf("\ntook %.0f\n", took);
    return took / (double)full;
}

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
    uint64_t window = (uint64_t)((double)n * wanted / took) / BENCH_WINDOWS;
    if (window == 0)
        window = 1;
    double best = 0, total = 0;
    printf("\nbegin\n"); /* whoever reads us may look at its own clocks: from here to "took NS" are the windows */
    fflush(stdout);
    for (int i = 0; i < BENCH_WINDOWS; i++) {
        took = timed(run, window);
        total += took;
        best = best == 0 || took < best ? took : best;
    }
    printf("\ntook %.0f\n", total);
    return best / (double)window;
}

/* The benchmark programs of `make bench-core`: one static binary that is init of the guest, and a command on the host.
 *
 * A row is a function that does its work n times and a word that says what one time is worth. The frame (measure.c)
 * finds the n that fills the asked time by the machine's own clock, so that nothing of starting an emulator is in a
 * figure, and before that runs a fixed n whose checksum must be the same on every machine: a fast wrong answer shows.
 */
#ifndef CORE_BENCH_H
#define CORE_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct row {
    const char *name, *unit;
    bool (*prepare)(void);       /* may be NULL; false: the row cannot run here, and `missing` says so */
    void (*finish)(void);        /* may be NULL; frees what `prepare` took, so that no row's memory burdens another */
    uint64_t (*run)(uint64_t n); /* does the work n times; gives a checksum of it */
    uint64_t check;              /* the n of the checksum run; 0: its results depend on the machine */
    double scale; /* with `rate`: units per time of work, per second; else: multiplies the ns of one time */
    bool rate;    /* true: more is better */
};

extern const struct row rows_integer[], rows_float[], rows_memory[], rows_system[],
    rows_code[]; /* name NULL ends each */

uint64_t bench_now(void); /* ns, CLOCK_MONOTONIC */

/* What else the host does only takes time away, and for parts of a second: the best of so many windows is nearest to
 * what the work costs. */
enum { BENCH_WINDOWS = 6 };

/* ns of one time of `run` in the best of BENCH_WINDOWS windows, together about `ms` milliseconds, after a shorter
 * trial.
 */
double bench_measure(uint64_t (*run)(uint64_t n), uint32_t ms);

/* One integer load (rows_integer[0]) alone and `harts` at once, each pinned to a hart of its own, in turns: the best
 * speed of all together over the best of one alone, in windows of half of `ms`; negative where there are fewer harts.
 */
double bench_speedup(unsigned harts, uint32_t ms);

/* What the busybox rows run on, NULL where there is none; this binary's own path. */
extern const char *bench_busybox, *bench_self;

#endif

/* Rows `linpack` (LU decomposition and solution, 100x100, by columns), `nbody` (five bodies, one leapfrog step a time)
 * and `conversion` (between integers and both float formats). */
#include "bench.h"

#include <math.h>
#include <string.h>

enum { ORDER = 100 };
static double matrix[ORDER][ORDER], vector[ORDER]; /* matrix[column][row] */
static int pivots[ORDER];

static uint64_t bits(double d)
{
    uint64_t u;
    memcpy(&u, &d, sizeof u);
    return u;
}

static void fill(void)
{
    uint32_t random = 1325;
    memset(vector, 0, sizeof vector);
    for (int j = 0; j < ORDER; j++)
        for (int i = 0; i < ORDER; i++) {
            random = random * 3125 & 0xffff;
            matrix[j][i] = ((double)random - 32768.0) / 16384.0;
            vector[i] += matrix[j][i];
        }
}

__attribute__((noinline)) static void add_multiple(int n, double factor, const double *x, double *y)
{
    for (int i = 0; i < n; i++)
        y[i] += factor * x[i];
}

static void decompose(void)
{
    for (int k = 0; k < ORDER - 1; k++) {
        double *column = matrix[k];
        int best = k;
        for (int i = k + 1; i < ORDER; i++)
            if (fabs(column[i]) > fabs(column[best]))
                best = i;
        pivots[k] = best;
        double pivot = column[best], inverse = -1.0 / pivot;
        column[best] = column[k];
        column[k] = pivot;
        for (int i = k + 1; i < ORDER; i++)
            column[i] *= inverse;
        for (int j = k + 1; j < ORDER; j++) {
            double factor = matrix[j][best];
            matrix[j][best] = matrix[j][k];
            matrix[j][k] = factor;
            add_multiple(ORDER - 1 - k, factor, column + k + 1, matrix[j] + k + 1);
        }
    }
}

static void solve(void)
{
    for (int k = 0; k < ORDER - 1; k++) {
        double factor = vector[pivots[k]];
        vector[pivots[k]] = vector[k];
        vector[k] = factor;
        add_multiple(ORDER - 1 - k, factor, matrix[k] + k + 1, vector + k + 1);
    }
    for (int k = ORDER - 1; k >= 0; k--) {
        vector[k] /= matrix[k][k];
        add_multiple(k, -vector[k], matrix[k], vector);
    }
}

static uint64_t linpack_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        fill();
        decompose();
        solve();
        sum += bits(vector[i % ORDER]);
    }
    return sum;
}

struct body {
    double at[3], speed[3], mass;
};
static struct body bodies[5];

/* A small made-up solar system: one heavy body and four light ones on circles around it. */
static bool nbody_prepare(void)
{
    static const double distance[5] = {0, 1.0, 1.7, 3.1, 5.2}, mass[5] = {1.0, 1e-3, 3e-4, 2e-3, 5e-5};
    for (int i = 0; i < 5; i++) {
        bodies[i] = (struct body){{distance[i], 0, 0.01 * i}, {0, i ? sqrt(1.0 / distance[i]) : 0, 0}, mass[i]};
    }
    return true;
}

static uint64_t nbody_run(uint64_t n)
{
    const double step = 0.001;
    for (uint64_t s = 0; s < n; s++) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++) {
                struct body *a = &bodies[i], *b = &bodies[j];
                double dx = a->at[0] - b->at[0], dy = a->at[1] - b->at[1], dz = a->at[2] - b->at[2];
                double square = dx * dx + dy * dy + dz * dz, pull = step / (square * sqrt(square));
                a->speed[0] -= dx * b->mass * pull;
                a->speed[1] -= dy * b->mass * pull;
                a->speed[2] -= dz * b->mass * pull;
                b->speed[0] += dx * a->mass * pull;
                b->speed[1] += dy * a->mass * pull;
                b->speed[2] += dz * a->mass * pull;
            }
        for (int i = 0; i < 5; i++)
            for (int k = 0; k < 3; k++)
                bodies[i].at[k] += step * bodies[i].speed[k];
    }
    return bits(bodies[1].at[0]) ^ bits(bodies[3].at[1]);
}

/* Ten conversions a time, each one's result needed by the next. */
static uint64_t conversion_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        double d = (double)(int64_t)i;
        float f = (float)d;
        int32_t w = (int32_t)f;
        double e = (double)(w ^ 0x55);
        uint32_t u = (uint32_t)e;
        float g = (float)u;
        double h = (double)g;
        int64_t l = (int64_t)(h * 1.5);
        float k = (float)(uint64_t)l;
        sum += (uint64_t)k;
    }
    return sum;
}

const struct row rows_float[] = {
    {"linpack", "MFLOPS", NULL, NULL, linpack_run, 3, (2.0 / 3 * ORDER * ORDER * ORDER + 2.0 * ORDER * ORDER) / 1e6,
     true},
    {"nbody", "kstep/s", nbody_prepare, NULL, nbody_run, 1000, 1e-3, true},
    {"conversion", "M/s", NULL, NULL, conversion_run, 1000, 10e-6, true},
    {0},
};

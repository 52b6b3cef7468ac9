/* The main program: init of the guest, and a command on the host.
 *
 *   core rows=NAME,...|all ms=N [busybox=PATH]    measures the rows in the order of the tables below
 *   core smp2 ms=N                                two integer loads on two harts against one alone
 *   core idle                                     says "bench idle" and sleeps
 *   core nothing                                  what row `exec` starts
 *
 * Each result is a line of its own: `bench NAME VALUE UNIT CHECKSUM` (checksum - where there is none), `bench NAME
 * missing`, or `bench NAME wrong`; `bench done` ends them. As init it then powers the machine off. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

bool bench_code_wrong(void);

static bool wanted(const char *list, const char *name)
{
    size_t length = strlen(name);
    if (strcmp(list, "all") == 0)
        return true;
    for (const char *at = list; (at = strstr(at, name)) != NULL; at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

static void run_row(const struct row *row, uint32_t ms)
{
    char sum[20] = "-";
    if (row->prepare != NULL && !row->prepare()) {
        printf("\nbench %s missing\n", row->name);
        return;
    }
    if (row->check != 0)
        snprintf(sum, sizeof sum, "%llx", (unsigned long long)row->run(row->check));
    double ns = bench_measure(row->run, ms);
    if (row->finish != NULL)
        row->finish();
    if (strcmp(row->name, "smc") == 0 && bench_code_wrong()) {
        printf("\nbench %s wrong\n", row->name);
        return;
    }
    /* A line begins anew: the kernel may have left half of one on the console. */
    printf("\nbench %s %.6g %s %s\n", row->name, row->rate ? row->scale * 1e9 / ns : row->scale * ns, row->unit, sum);
}

static void run_tables(const char *list, uint32_t ms)
{
    static const struct row *const tables[] = {rows_integer, rows_float, rows_memory, rows_code, rows_system};
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const struct row *row = tables[t]; row->name != NULL; row++)
            if (wanted(list, row->name)) {
                run_row(row, ms);
                fflush(stdout);
            }
}

static void run_smp2(uint32_t ms)
{
    double speedup = bench_speedup(2, ms);
    if (speedup < 0)
        printf("\nbench smp2 missing\n");
    else
        printf("\nbench smp2 %.4f x -\n", speedup);
}

static uint64_t processor_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The kernel goes on with work of its own when init has started, up to a thousand million instructions of it, and takes
 * half of the processor meanwhile. Until three spans in a row were ours alone, or so many have passed. */
static void wait_until_alone(void)
{
    enum { SPAN_NS = 30000000, SPANS = 1000 };
    int alone = 0;
    for (int i = 0; i < SPANS && alone < 3; i++) {
        uint64_t start = bench_now(), before = processor_now(), end;
        do
            end = bench_now();
        while (end - start < SPAN_NS);
        alone = (double)(processor_now() - before) > 0.97 * (double)(end - start) ? alone + 1 : 0;
    }
}

int main(int argc, char **argv)
{
    const char *list = "";
    bool smp2 = false, idle = false, init = getpid() == 1;
    uint32_t ms = 500;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "nothing") == 0)
            return 7;
        if (strncmp(argv[i], "rows=", 5) == 0)
            list = argv[i] + 5;
        else if (strncmp(argv[i], "ms=", 3) == 0)
            ms = (uint32_t)strtoul(argv[i] + 3, NULL, 10);
        else if (strncmp(argv[i], "busybox=", 8) == 0)
            bench_busybox = argv[i] + 8;
        smp2 |= strcmp(argv[i], "smp2") == 0;
        idle |= strcmp(argv[i], "idle") == 0;
    }
    bench_self = init ? argv[0] : "/proc/self/exe";
    if (init) {
        mkdir("/tmp", 0777);
        mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    }
    if (idle) {
        printf("\nbench idle\n");
        fflush(stdout);
        for (;;)
            pause();
    }
    if (init)
        wait_until_alone();
    run_tables(list, ms);
    if (smp2)
        run_smp2(ms);
    printf("\nbench done\n");
    fflush(stdout);
    if (init) {
        usleep(50000); /* the console's last bytes */
        reboot(RB_POWER_OFF);
    }
    return 0;
}

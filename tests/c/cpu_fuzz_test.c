/* Random bytes as code, random page tables and registers, in every privilege: whatever a guest does, the hart stays
 * inside its RAM (the sanitizers look) and comes back when asked. WHERRY_FUZZ_ROUNDS: how many (default 400). */
#include "cpu_random.h"

#include <signal.h>
#include <sys/time.h>

static struct bench b;

static void one_round(uint64_t *seed)
{
    wh_hart *h = b.hart;
    random_memory(&b, seed);
    random_hart(h, seed);
    for (int slice = 0; slice < 4; slice++) {
        enum wh_exit why = wh_hart_run(h);
        CHECK(why >= WH_EXIT_ATTENTION && why <= WH_EXIT_PAUSE);
        CHECK_EQ(wh_hart_get_x(h, 0), 0);
        CHECK_EQ(h->x[0], 0);
        CHECK_EQ(h->pc & 1, 0);
        if (why == WH_EXIT_WEDGED)
            break;
    }
}

/* An endless guest loop ends because the host's timer asks for attention; an atomic store is all that it does. */
static void on_alarm(int signal)
{
    (void)signal;
    wh_hart_attention(b.hart);
}

static void rounds_of(uint32_t model, int rounds, uint64_t seed)
{
    bench_open_model(&b, false, model);
    struct itimerval every = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    for (int n = 0; n < rounds; n++) {
        uint64_t start = seed;
        one_round(&seed);
        if (check_failures != 0) {
            printf("%s round %d, seed %" PRIu64 "\n", wh_cpu_model_name(model), n, start);
            break;
        }
    }
    setitimer(ITIMER_REAL, &off, NULL);
    wh_hart_stats stats;
    wh_hart_get_stats(b.hart, &stats);
    printf("%s: %d rounds, %" PRIu64 " instructions, %" PRIu64 " traps\n", wh_cpu_model_name(model), rounds,
           stats.instructions, stats.traps);
    CHECK(stats.traps > 1000);
    bench_close(&b);
}

int main(void)
{
    const char *text = getenv("WHERRY_FUZZ_ROUNDS");
    int rounds = text != NULL ? atoi(text) : 400;
    signal(SIGALRM, on_alarm);
    rounds_of(WH_CPU_RVA22, rounds * 3 / 4, 2026);
    rounds_of(WH_CPU_RV64GC, rounds - rounds * 3 / 4, 2027);
    return check_failures != 0;
}

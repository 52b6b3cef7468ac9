/* wherry-lockstep: the translator checked against the interpreter.
 *
 *   wherry-lockstep (--elf FILE | --firmware FILE [--kernel FILE] | --kernel FILE) [--initrd FILE] [--append TEXT]
 *                   [--memory 256M] [--smp N] [--seed N] [--max-insns N] [--every N] [--digest-every N]
 *                   [--give-back N]
 *
 * Two icount machines with the same seed (board/icount.c), one on each engine, run side by side. Every N steps (100000)
 * the registers of all harts are compared, and less often (20000000) the digest of everything. When they differ, the
 * first step after which they do is looked for by halves; each time both are made anew and run to the middle without a
 * stop before, for a stop changes which blocks run to their ends. A wrong block shows at its end, so that the fault may
 * be some instructions before that step. What is printed: the registers (memory, too, where only that differs), and the
 * instructions that the interpreter ran up to there.
 * --give-back N: whenever N steps more are done (a multiple of --every), both give back what idle machines do.
 * --upset N, for the test of the tool itself: the translator's tp is wrong from step N on.
 * Exit status: 0 equal to the end (or --max-insns), 1 different, 2 usage, 3 cannot run. */
#include "board/board.h"
#include "main/symbols.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_SAME, EXIT_DIFFERENT, EXIT_USAGE, EXIT_CANNOT };
enum { INTERPRETER, TRANSLATOR, BOTH };
enum { SHORT = 64 }; /* steps shown */

struct options {
    const char *elf, *firmware, *kernel, *initrd, *append;
    uint64_t memory, smp, seed, max_insns, every, digest_every, upset, give_back;
};

struct pair {
    const struct options *opt;
    wh_machine *m[BOTH];
    uint64_t tohost;
};

static int cannot(const wh_error *err)
{
    fprintf(stderr, "wherry-lockstep: %s: %s\n", err->field, err->message);
    return EXIT_CANNOT;
}

static int open_file(const char *path, int *fd)
{
    *fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (!path || *fd >= 0)
        return 0;
    fprintf(stderr, "wherry-lockstep: %s: %s\n", path, strerror(errno));
    return EXIT_CANNOT;
}

static int load(struct pair *p, wh_machine *m)
{
    const struct options *o = p->opt;
    int first, kernel, initrd, status;
    wh_error err = {0};
    if (open_file(o->elf ? o->elf : o->firmware, &first) || open_file(o->kernel, &kernel) ||
        open_file(o->initrd, &initrd))
        return EXIT_CANNOT;
    if (o->elf) {
        struct wh_symbols symbols = {0};
        status = wh_machine_load_firmware(m, first, &err);
        wh_symbols_read(first, &symbols);
        p->tohost = symbols.tohost;
    } else if (o->firmware) {
        status = wh_machine_load_firmware_linux(m, first, kernel, initrd, o->append, &err);
    } else {
        status = wh_machine_load_linux(m, kernel, initrd, o->append, &err);
    }
    int fds[] = {first, kernel, initrd};
    for (unsigned i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return status ? cannot(&err) : 0;
}

static void drop(struct pair *p)
{
    for (unsigned i = 0; i < BOTH; i++) {
        wh_machine_free(p->m[i]);
        p->m[i] = NULL;
    }
}

/* Both from the start. */
static int make(struct pair *p)
{
    static const uint32_t engine[BOTH] = {WH_ENGINE_INTERPRETER, WH_ENGINE_JIT};
    const struct options *o = p->opt;
    wh_error err = {0};
    drop(p);
    for (unsigned i = 0; i < BOTH; i++) {
        wh_machine_config c = {.ram_bytes = o->memory,
                               .harts = (uint32_t)o->smp,
                               .boot = o->elf || o->firmware ? WH_BOOT_FIRMWARE : WH_BOOT_LINUX,
                               .seed = o->seed,
                               .engine = engine[i],
                               .icount = 1};
        if (wh_machine_new(&c, &p->m[i], &err))
            return cannot(&err);
        int status = load(p, p->m[i]);
        if (status)
            return status;
        if (wh_icount_start(p->m[i], &err))
            return cannot(&err);
    }
    return 0;
}

static wh_writer hart_state(wh_machine *m, unsigned hart)
{
    wh_writer w;
    wh_writer_init(&w);
    wh_hart_save(wh_machine_hart(m, hart), &w);
    return w;
}

static bool same_harts(struct pair *p)
{
    bool same = wh_icount_steps(p->m[0]) == wh_icount_steps(p->m[1]);
    for (unsigned i = 0; i < p->opt->smp && same; i++) {
        wh_writer a = hart_state(p->m[0], i), b = hart_state(p->m[1], i);
        same = !a.status && !b.status && a.len == b.len && !memcmp(a.data, b.data, a.len);
        wh_writer_free(&a);
        wh_writer_free(&b);
    }
    return same;
}

static bool same_digest(struct pair *p)
{
    uint8_t digest[BOTH][16];
    wh_error err = {0};
    for (unsigned i = 0; i < BOTH; i++)
        if (wh_machine_digest(p->m[i], digest[i], &err)) {
            (void)cannot(&err);
            return false;
        }
    return !memcmp(digest[0], digest[1], sizeof digest[0]);
}

static bool told(const struct pair *p)
{
    const uint8_t *at = p->tohost ? wh_ram_at(wh_machine_ram(p->m[INTERPRETER]), p->tohost, 8) : NULL;
    uint64_t v = 0;
    if (at)
        memcpy(&v, at, 8);
    return v & 1;
}

/* Both to `until`. False: they have ended, or wait for ever; *same may still be. */
static bool advance(struct pair *p, uint64_t until, bool *same)
{
    enum wh_icount_stop why[BOTH];
    uint64_t upset = p->opt->upset;
    for (unsigned i = 0; i < BOTH; i++) {
        if (i == TRANSLATOR && upset > wh_icount_steps(p->m[i]) && upset <= until) {
            (void)wh_icount_run(p->m[i], upset);
            wh_hart *h = wh_machine_hart(p->m[i], 0);
            wh_hart_set_x(h, 4, wh_hart_get_x(h, 4) ^ 1);
        }
        why[i] = wh_icount_run(p->m[i], until);
    }
    *same = why[0] == why[1] && same_harts(p);
    return why[0] == WH_ICOUNT_REACHED && why[1] == WH_ICOUNT_REACHED && !told(p);
}

/* ---- what is different ------------------------------------------------------------------------------------------ */

static void print_key(wh_reader *a, wh_reader *b, const char *key, int key_len)
{
    wh_reader ra = *a, rb = *b;
    uint32_t na = wh_get_array(&ra), nb = wh_get_array(&rb);
    if (!ra.status && !rb.status) {
        for (uint32_t i = 0; i < na && i < nb; i++) {
            uint64_t va = wh_get_uint(&ra), vb = wh_get_uint(&rb);
            if (va != vb)
                printf("  %.*s%-2u interpreter %016" PRIx64 "  translator %016" PRIx64 "\n", key_len, key, i, va, vb);
        }
        return;
    }
    ra = *a;
    rb = *b;
    uint64_t va = wh_get_uint(&ra), vb = wh_get_uint(&rb);
    if (!ra.status && va != vb)
        printf("  %-14.*s interpreter %016" PRIx64 "  translator %016" PRIx64 "\n", key_len, key, va, vb);
}

static void print_hart(struct pair *p, unsigned hart)
{
    wh_writer a = hart_state(p->m[0], hart), b = hart_state(p->m[1], hart);
    wh_reader ra, rb;
    wh_reader_init(&ra, a.data, a.len);
    wh_reader_init(&rb, b.data, b.len);
    uint32_t n = wh_get_map(&ra);
    (void)wh_get_map(&rb);
    printf("hart %u, pc %016" PRIx64 " and %016" PRIx64 "\n", hart, wh_hart_get_pc(wh_machine_hart(p->m[0], hart)),
           wh_hart_get_pc(wh_machine_hart(p->m[1], hart)));
    for (uint32_t i = 0; i < n && !ra.status && !rb.status; i++) {
        size_t len, len_b;
        const char *key = wh_get_str(&ra, &len);
        (void)wh_get_str(&rb, &len_b);
        if (key)
            print_key(&ra, &rb, key, (int)len);
        wh_get_skip(&ra);
        wh_get_skip(&rb);
    }
    wh_writer_free(&a);
    wh_writer_free(&b);
}

static void print_memory(struct pair *p)
{
    const wh_ram *a = wh_machine_ram(p->m[0]), *b = wh_machine_ram(p->m[1]);
    unsigned shown = 0;
    for (uint64_t at = 0; at < a->bytes && shown < 16; at += 8)
        if (memcmp(a->host + at, b->host + at, 8) != 0) {
            uint64_t va, vb;
            memcpy(&va, a->host + at, 8);
            memcpy(&vb, b->host + at, 8);
            printf("  memory %" PRIx64 " interpreter %016" PRIx64 "  translator %016" PRIx64 "\n",
                   (uint64_t)WH_RAM_BASE + at, va, vb);
            shown++;
        }
}

/* The interpreter from step `good` on, one instruction at a time. */
static void print_trace(struct pair *p, uint64_t good, uint64_t bad)
{
    printf("what the interpreter runs from step %" PRIu64 " on:\n", good);
    if (make(p))
        return;
    (void)wh_icount_run(p->m[INTERPRETER], good);
    for (uint64_t at = good; at < bad && at < good + SHORT; at++) {
        for (unsigned i = 0; i < p->opt->smp; i++) {
            wh_hart *h = wh_machine_hart(p->m[INTERPRETER], i);
            uint32_t bits = 0;
            if (wh_hart_read_virtual(h, wh_hart_get_pc(h), &bits, 4))
                (void)wh_hart_read_virtual(h, wh_hart_get_pc(h), &bits, 2);
            if ((bits & 3) != 3)
                bits &= 0xffff;
            printf("%s%016" PRIx64 " %08" PRIx32, i ? "   " : "  ", wh_hart_get_pc(h), bits);
        }
        printf("\n");
        if (wh_icount_run(p->m[INTERPRETER], at + 1) != WH_ICOUNT_REACHED)
            break;
    }
}

static int explain(struct pair *p, uint64_t good, uint64_t bad, bool whole)
{
    bool same;
    printf("different after step %" PRIu64 ", at the latest at %" PRIu64 "\n", good, bad);
    fflush(stdout);
    while (bad - good > 1) {
        uint64_t middle = good + (bad - good) / 2;
        if (make(p))
            return EXIT_CANNOT;
        (void)advance(p, middle, &same);
        if (same && whole)
            same = same_digest(p);
        *(same ? &good : &bad) = middle;
    }
    if (make(p))
        return EXIT_CANNOT;
    (void)advance(p, bad, &same);
    printf("at step %" PRIu64 ":\n", bad);
    for (unsigned i = 0; i < p->opt->smp; i++)
        print_hart(p, i);
    if (whole)
        print_memory(p);
    print_trace(p, bad > SHORT ? bad - SHORT : 0, bad);
    return EXIT_DIFFERENT;
}

static int compare(struct pair *p)
{
    const struct options *o = p->opt;
    uint64_t good = 0, good_digest = 0;
    int status = make(p);
    if (status)
        return status;
    for (bool on = true; on;) {
        uint64_t next = good + o->every;
        bool same, last;
        if (o->max_insns && next >= o->max_insns)
            next = o->max_insns;
        on = advance(p, next, &same);
        if (!same)
            return explain(p, good, next, false);
        good = wh_icount_steps(p->m[INTERPRETER]);
        for (unsigned i = 0; i < BOTH && o->give_back && good % o->give_back == 0; i++)
            wh_machine_give_back(p->m[i]);
        last = !on || (o->max_insns && good >= o->max_insns);
        if (last || good - good_digest >= o->digest_every) {
            if (!same_digest(p))
                return explain(p, good_digest, good, true);
            good_digest = good;
        }
        on = !last;
    }
    printf("equal for %" PRIu64 " steps\n", good);
    return EXIT_SAME;
}

/* ---- command line ------------------------------------------------------------------------------------------------ */

static bool number(const char *text, uint64_t *out)
{
    char *end;
    uint64_t v = strtoull(text, &end, 0);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    *out = v << shift;
    return end != text && v && !end[shift ? 1 : 0];
}

static int usage(void)
{
    fprintf(stderr, "usage: wherry-lockstep (--elf FILE | --firmware FILE [--kernel FILE] | --kernel FILE)\n"
                    "       [--initrd FILE] [--append TEXT] [--memory 256M] [--smp N] [--seed N] [--max-insns N]\n"
                    "       [--every N] [--digest-every N] [--give-back N]\n");
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct options o = {.append = "console=ttyS0",
                        .memory = 256u << 20,
                        .smp = 1,
                        .seed = 1,
                        .every = 100000,
                        .digest_every = 20000000};
    static const struct option longs[] = {{"elf", 1, NULL, 'e'},          {"firmware", 1, NULL, 'f'},
                                          {"kernel", 1, NULL, 'k'},       {"initrd", 1, NULL, 'i'},
                                          {"append", 1, NULL, 'a'},       {"memory", 1, NULL, 'm'},
                                          {"smp", 1, NULL, 's'},          {"seed", 1, NULL, 'd'},
                                          {"max-insns", 1, NULL, 'n'},    {"every", 1, NULL, 'v'},
                                          {"digest-every", 1, NULL, 'g'}, {"upset", 1, NULL, 'u'},
                                          {"give-back", 1, NULL, 'b'},    {NULL, 0, NULL, 0}};
    const struct {
        int option;
        const char **text;
        uint64_t *value;
    } into[] = {{'e', &o.elf, NULL},      {'f', &o.firmware, NULL},     {'k', &o.kernel, NULL},
                {'i', &o.initrd, NULL},   {'a', &o.append, NULL},       {'m', NULL, &o.memory},
                {'s', NULL, &o.smp},      {'d', NULL, &o.seed},         {'n', NULL, &o.max_insns},
                {'v', NULL, &o.every},    {'g', NULL, &o.digest_every}, {'u', NULL, &o.upset},
                {'b', NULL, &o.give_back}};
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        bool known = false;
        for (unsigned i = 0; i < WH_ARRAY_LEN(into); i++) {
            if (into[i].option != c)
                continue;
            if (into[i].text)
                *into[i].text = optarg;
            known = into[i].text || number(optarg, into[i].value);
        }
        if (!known)
            return usage();
    }
    if (optind != argc || (o.elf != NULL) == (o.kernel || o.firmware) || o.smp > WH_MAX_HARTS)
        return usage();
    struct pair p = {.opt = &o};
    int status = compare(&p);
    drop(&p);
    return status;
}

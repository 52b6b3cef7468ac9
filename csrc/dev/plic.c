/* PLIC (RISC-V Platform-Level Interrupt Controller specification 1.0.0): 95 level-triggered sources, priorities 0..7,
 * contexts M and S per hart.
 *
 * A source is pending while its line is high and it is not being served. A claim makes it served; completion ends that,
 * and it is pending again if the line is still high. */
#include "dev/devices.h"

#include <stdlib.h>
#include <string.h>

#define WORDS         (WH_PLIC_SOURCES / 32u)
#define ENABLE        0x2000u
#define ENABLE_STRIDE 0x80u
#define CONTEXT       0x200000u
#define CONTEXT_STEP  0x1000u
#define MAX_PRIORITY  7u
#define SEIP_BIT      9u
#define MEIP_BIT      11u

struct plic {
    wh_device dev;
    wh_hart_line line;
    unsigned contexts;
    uint32_t priority[WH_PLIC_SOURCES];
    uint32_t level[WORDS], served[WORDS];
    uint32_t threshold[2 * WH_MAX_HARTS];
    uint32_t enable[2 * WH_MAX_HARTS][WORDS];
    bool output[2 * WH_MAX_HARTS]; /* what the hart was told last */
};

/* The source that a claim by this context would get: highest priority, lowest number; 0 for none. */
static unsigned best(const struct plic *p, unsigned context, uint32_t above)
{
    unsigned found = 0;
    for (unsigned w = 0; w < WORDS; w++) {
        uint32_t bits = p->level[w] & ~p->served[w] & p->enable[context][w];
        for (; bits; bits &= bits - 1) {
            unsigned source = w * 32 + (unsigned)__builtin_ctz(bits);
            if (p->priority[source] > above) {
                above = p->priority[source];
                found = source;
            }
        }
    }
    return found;
}

static void update(struct plic *p)
{
    for (unsigned c = 0; c < p->contexts; c++) {
        bool level = best(p, c, p->threshold[c]) != 0;
        if (level == p->output[c])
            continue;
        p->output[c] = level;
        p->line.set(p->line.ctx, c / 2, c & 1 ? SEIP_BIT : MEIP_BIT, level);
    }
}

void wh_plic_set_line(wh_device *d, unsigned source, bool level)
{
    struct plic *p = (struct plic *)d;
    uint32_t bit = 1u << source % 32, *word = &p->level[source / 32];
    if (!source || source >= WH_PLIC_SOURCES || !(*word & bit) == !level)
        return;
    *word ^= bit;
    update(p);
}

static uint32_t claim(struct plic *p, unsigned context)
{
    unsigned source = best(p, context, 0);
    if (source) {
        p->served[source / 32] |= 1u << source % 32;
        update(p);
    }
    return source;
}

static void complete(struct plic *p, unsigned context, uint64_t source)
{
    if (source >= WH_PLIC_SOURCES || !(p->enable[context][source / 32] & 1u << source % 32))
        return;
    p->served[source / 32] &= ~(1u << source % 32);
    update(p);
}

static int plic_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    struct plic *p = (struct plic *)d;
    *value = 0;
    if (size != 4)
        return -1;
    if (offset < 4 * WH_PLIC_SOURCES) {
        *value = p->priority[offset / 4];
    } else if (offset >= 0x1000 && offset < 0x1000 + 4 * WORDS) {
        unsigned w = (unsigned)(offset - 0x1000) / 4;
        *value = p->level[w] & ~p->served[w];
    } else if (offset >= ENABLE && offset < ENABLE + (uint64_t)p->contexts * ENABLE_STRIDE) {
        unsigned w = (unsigned)(offset % ENABLE_STRIDE) / 4;
        *value = w < WORDS ? p->enable[(offset - ENABLE) / ENABLE_STRIDE][w] : 0;
    } else if (offset >= CONTEXT && offset < CONTEXT + (uint64_t)p->contexts * CONTEXT_STEP) {
        unsigned context = (unsigned)((offset - CONTEXT) / CONTEXT_STEP);
        if (offset % CONTEXT_STEP == 0)
            *value = p->threshold[context];
        else if (offset % CONTEXT_STEP == 4)
            *value = claim(p, context);
    }
    return 0;
}

static void write_context(struct plic *p, uint64_t offset, uint64_t value)
{
    unsigned context = (unsigned)((offset - CONTEXT) / CONTEXT_STEP);
    if (offset % CONTEXT_STEP == 0) {
        p->threshold[context] = value & MAX_PRIORITY;
        update(p);
    } else if (offset % CONTEXT_STEP == 4) {
        complete(p, context, value);
    }
}

static int plic_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    struct plic *p = (struct plic *)d;
    if (size != 4)
        return -1;
    if (offset < 4 * WH_PLIC_SOURCES) {
        p->priority[offset / 4] = offset ? value & MAX_PRIORITY : 0;
        update(p);
    } else if (offset >= ENABLE && offset < ENABLE + (uint64_t)p->contexts * ENABLE_STRIDE) {
        unsigned w = (unsigned)(offset % ENABLE_STRIDE) / 4;
        if (w < WORDS)
            p->enable[(offset - ENABLE) / ENABLE_STRIDE][w] = (uint32_t)value & (w ? ~0u : ~1u);
        update(p);
    } else if (offset >= CONTEXT && offset < CONTEXT + (uint64_t)p->contexts * CONTEXT_STEP) {
        write_context(p, offset, value);
    }
    return 0;
}

/* The lines belong to the devices: they keep their level. */
static void plic_reset(wh_device *d)
{
    struct plic *p = (struct plic *)d;
    memset(p->priority, 0, sizeof p->priority);
    memset(p->served, 0, sizeof p->served);
    memset(p->threshold, 0, sizeof p->threshold);
    memset(p->enable, 0, sizeof p->enable);
    update(p);
}

static void put_words(wh_writer *w, const char *key, const uint32_t *words, unsigned count)
{
    wh_put_str(w, key);
    wh_put_array(w, count);
    for (unsigned i = 0; i < count; i++)
        wh_put_uint(w, words[i]);
}

static void plic_save(wh_device *d, wh_writer *w)
{
    struct plic *p = (struct plic *)d;
    wh_put_map(w, 5);
    put_words(w, "priority", p->priority, WH_PLIC_SOURCES);
    put_words(w, "level", p->level, WORDS);
    put_words(w, "served", p->served, WORDS);
    put_words(w, "threshold", p->threshold, p->contexts);
    put_words(w, "enable", p->enable[0], p->contexts * WORDS);
}

static void get_words(wh_reader *map, const char *key, uint32_t *words, unsigned count, uint32_t max)
{
    wh_reader r = wh_map_find(map, key);
    if (wh_get_array(&r) != count) {
        wh_reader_fail(map, key);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        words[i] = (uint32_t)wh_get_uint_max(&r, max);
    if (r.status)
        wh_reader_fail(map, key);
}

static void plic_load(wh_device *d, wh_reader *r)
{
    struct plic *p = (struct plic *)d;
    get_words(r, "priority", p->priority, WH_PLIC_SOURCES, MAX_PRIORITY);
    get_words(r, "level", p->level, WORDS, UINT32_MAX);
    get_words(r, "served", p->served, WORDS, UINT32_MAX);
    get_words(r, "threshold", p->threshold, p->contexts, MAX_PRIORITY);
    get_words(r, "enable", p->enable[0], p->contexts * WORDS, UINT32_MAX);
    p->priority[0] = 0; /* source 0 does not exist, whatever the document says */
    update(p);
}

static void plic_destroy(wh_device *d)
{
    free(d);
}

static const wh_device_ops plic_ops = {
    .name = "plic",
    .read = plic_read,
    .write = plic_write,
    .reset = plic_reset,
    .save = plic_save,
    .load = plic_load,
    .destroy = plic_destroy,
};

int wh_plic_new(const wh_hart_line *line, unsigned harts, wh_device **out, wh_error *err)
{
    struct plic *p = calloc(1, sizeof *p);
    if (!p)
        return wh_fail(err, WH_E_NOMEM, "plic", "no memory");
    p->dev = (wh_device){&plic_ops, -1};
    p->line = *line;
    p->contexts = 2 * harts;
    *out = &p->dev;
    return WH_OK;
}

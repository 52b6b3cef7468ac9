/* ACLINT: software interrupts (MSWI) and the machine timer (MTIMER), laid out as SiFive's CLINT: msip[hart] at 0,
 * mtimecmp[hart] at 0x4000, mtime at 0xbff8 (RISC-V ACLINT specification 1.0). */
#include "dev/devices.h"

#include <stdlib.h>

#define MTIMECMP 0x4000u
#define MTIME    0xbff8u
#define MSIP_BIT 3u
#define MTIP_BIT 7u

struct aclint {
    wh_device dev;
    wh_aclint_env env;
    uint32_t msip[WH_MAX_HARTS];
    uint64_t mtimecmp[WH_MAX_HARTS];
};

static void update_timer(struct aclint *a, unsigned hart)
{
    bool due = a->mtimecmp[hart] <= a->env.now(a->env.ctx);
    a->env.line.set(a->env.line.ctx, hart, MTIP_BIT, due);
}

/* The aligned 64-bit register that holds offset, or NULL for mtime and holes. */
static uint64_t *compare_at(struct aclint *a, uint64_t offset)
{
    uint64_t i = (offset - MTIMECMP) / 8;
    return offset >= MTIMECMP && i < a->env.harts ? &a->mtimecmp[i] : NULL;
}

static int aclint_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    struct aclint *a = (struct aclint *)d;
    *value = 0;
    if (size < 4)
        return -1;
    if (offset < MTIMECMP) {
        if (size == 4 && offset / 4 < a->env.harts)
            *value = a->msip[offset / 4];
        return size == 4 ? 0 : -1;
    }
    uint64_t *cmp = compare_at(a, offset), whole = 0;
    if (cmp)
        whole = *cmp;
    else if ((offset & ~7ull) == MTIME)
        whole = a->env.now(a->env.ctx);
    *value = size == 8 ? whole : (uint32_t)(whole >> (offset & 4 ? 32 : 0));
    return 0;
}

static uint64_t merge(uint64_t old, uint64_t offset, unsigned size, uint64_t value)
{
    if (size == 8)
        return value;
    unsigned shift = offset & 4 ? 32 : 0;
    return (old & ~(0xffffffffull << shift)) | (value & 0xffffffffull) << shift;
}

static int aclint_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    struct aclint *a = (struct aclint *)d;
    if (size < 4 || (offset < MTIMECMP && size != 4))
        return -1;
    if (offset < MTIMECMP) {
        unsigned hart = (unsigned)(offset / 4);
        if (hart < a->env.harts) {
            a->msip[hart] = value & 1;
            a->env.line.set(a->env.line.ctx, hart, MSIP_BIT, value & 1);
        }
        return 0;
    }
    uint64_t *cmp = compare_at(a, offset);
    if (cmp) {
        *cmp = merge(*cmp, offset, size, value);
        update_timer(a, (unsigned)(cmp - a->mtimecmp));
    } else if ((offset & ~7ull) == MTIME) {
        a->env.set_now(a->env.ctx, merge(a->env.now(a->env.ctx), offset, size, value));
        for (unsigned i = 0; i < a->env.harts; i++)
            update_timer(a, i);
    }
    a->env.changed(a->env.ctx);
    return 0;
}

uint64_t wh_aclint_deadline(const wh_device *d)
{
    const struct aclint *a = (const struct aclint *)d;
    uint64_t now = a->env.now(a->env.ctx), next = UINT64_MAX;
    for (unsigned i = 0; i < a->env.harts; i++)
        if (a->mtimecmp[i] > now && a->mtimecmp[i] < next) /* what is past has been raised */
            next = a->mtimecmp[i];
    return next;
}

void wh_aclint_tick(wh_device *d)
{
    struct aclint *a = (struct aclint *)d;
    for (unsigned i = 0; i < a->env.harts; i++)
        update_timer(a, i);
}

static void aclint_reset(wh_device *d)
{
    struct aclint *a = (struct aclint *)d;
    for (unsigned i = 0; i < a->env.harts; i++) {
        a->msip[i] = 0;
        a->mtimecmp[i] = UINT64_MAX;
        a->env.line.set(a->env.line.ctx, i, MSIP_BIT, false);
        a->env.line.set(a->env.line.ctx, i, MTIP_BIT, false);
    }
}

static void aclint_save(wh_device *d, wh_writer *w)
{
    struct aclint *a = (struct aclint *)d;
    wh_put_map(w, 2);
    wh_put_str(w, "msip");
    wh_put_array(w, a->env.harts);
    for (unsigned i = 0; i < a->env.harts; i++)
        wh_put_uint(w, a->msip[i]);
    wh_put_str(w, "mtimecmp");
    wh_put_array(w, a->env.harts);
    for (unsigned i = 0; i < a->env.harts; i++)
        wh_put_uint(w, a->mtimecmp[i]);
}

static void aclint_load(wh_device *d, wh_reader *r)
{
    struct aclint *a = (struct aclint *)d;
    wh_reader msip = wh_map_find(r, "msip"), cmp = wh_map_find(r, "mtimecmp");
    if (wh_get_array(&msip) != a->env.harts || wh_get_array(&cmp) != a->env.harts) {
        wh_reader_fail(r, "msip");
        return;
    }
    for (unsigned i = 0; i < a->env.harts; i++) {
        a->msip[i] = (uint32_t)wh_get_uint_max(&msip, 1);
        a->mtimecmp[i] = wh_get_uint(&cmp);
        a->env.line.set(a->env.line.ctx, i, MSIP_BIT, a->msip[i]);
        update_timer(a, i);
    }
    if (msip.status || cmp.status)
        wh_reader_fail(r, msip.status ? "msip" : "mtimecmp");
}

static void aclint_destroy(wh_device *d)
{
    free(d);
}

static const wh_device_ops aclint_ops = {
    .name = "aclint",
    .read = aclint_read,
    .write = aclint_write,
    .reset = aclint_reset,
    .save = aclint_save,
    .load = aclint_load,
    .destroy = aclint_destroy,
};

int wh_aclint_new(const wh_aclint_env *env, wh_device **out, wh_error *err)
{
    struct aclint *a = calloc(1, sizeof *a);
    if (!a)
        return wh_fail(err, WH_E_NOMEM, "aclint", "no memory");
    a->dev = (wh_device){&aclint_ops, -1};
    a->env = *env;
    for (unsigned i = 0; i < WH_MAX_HARTS; i++)
        a->mtimecmp[i] = UINT64_MAX;
    *out = &a->dev;
    return WH_OK;
}

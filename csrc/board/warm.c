/* Warm start: which code the translator of one machine found worth its work, as side data of a migration or snapshot,
 * so that the next host translates it before the guest waits for it. Only ever a hint: a list that is lost, old or
 * wrong costs time and nothing else. Format: msgpack [2, bin], the bin being physical addresses of block heads, u64
 * little-endian, bit 0 set for user mode, the newest first; at most WH_HOT_MAX of them. Format 1 has no such bit. */
#include "board/machine.h"
#include "jit/cache.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT      2u
#define WH_HOT_MAX  8192u
#define WH_HOT_NEAR 1024u /* of these, the newest, for recent_pages */

int wh_machine_hot_list(wh_machine *m, uint8_t **buf, size_t *len, wh_error *err)
{
    *buf = NULL;
    *len = 0;
    uint64_t *heads = malloc(WH_HOT_MAX * sizeof *heads);
    if (!heads)
        return wh_fail(err, WH_E_NOMEM, "hot", "no memory for the list");
    unsigned n = m->jit ? wh_jit_heads(m->jit, heads, WH_HOT_MAX) : 0;
    for (unsigned i = 0; i < n; i++)
        heads[i] = htole64(heads[i]);
    wh_writer w;
    wh_writer_init(&w);
    wh_put_array(&w, 2);
    wh_put_uint(&w, FORMAT);
    wh_put_bin(&w, heads, n * sizeof *heads);
    free(heads);
    if (w.status) {
        int status = w.status;
        wh_writer_free(&w);
        return wh_fail(err, status, "hot", "no memory for the list");
    }
    *buf = w.data;
    *len = w.len;
    return WH_OK;
}

/* Device queues; pages by the TLBs, and the code that was translated last: the target has both to find anew. heads has
 * room for WH_HOT_MAX. */
static void add_recent(wh_machine *m, uint32_t class, uint64_t *pages, uint64_t *heads)
{
    if (class == 0) {
        pthread_mutex_lock(&m->lock);
        for (unsigned i = 0; i < m->slots_used; i++)
            wh_virtio_queue_pages(m->virtio[i], pages);
        pthread_mutex_unlock(&m->lock);
        return;
    }
    for (unsigned i = 0; i < m->config.harts; i++)
        wh_mmu_recent_pages(&m->hart[i].cpu->mmu, class > 1, pages);
    unsigned n = m->jit ? wh_jit_heads(m->jit, heads, class > 1 ? WH_HOT_MAX : WH_HOT_NEAR) : 0;
    for (unsigned i = 0; i < n; i++) {
        uint64_t pfn = (heads[i] - WH_RAM_BASE) >> WH_PAGE_SHIFT;
        pages[pfn / 64] |= 1ull << pfn % 64;
    }
}

int wh_machine_recent_pages(wh_machine *m, uint32_t class, uint8_t *bitmap, size_t len, wh_error *err)
{
    const size_t words = (size_t)(m->ram.bytes >> WH_PAGE_SHIFT) / 64;
    if (len != words * sizeof(uint64_t))
        return wh_fail(err, WH_E_INVAL, "bitmap", "%zu bytes", len);
    uint64_t *pages = calloc(words, sizeof *pages), *heads = malloc(WH_HOT_MAX * sizeof *heads);
    int status = WH_OK;
    if (pages && heads) {
        add_recent(m, class, pages, heads);
        memcpy(bitmap, pages, len);
    } else {
        status = wh_fail(err, WH_E_NOMEM, "bitmap", "no memory for what was touched of late");
    }
    free(pages);
    free(heads);
    return status;
}

static uint64_t head_at(const uint8_t *heads, size_t i)
{
    uint64_t pa;
    memcpy(&pa, heads + 8 * i, sizeof pa);
    return le64toh(pa);
}

/* The addresses in a list, or NULL: from another host, so that nothing of it is believed. */
static const uint8_t *parse(const wh_machine *m, const uint8_t *buf, size_t len, size_t *count)
{
    wh_reader r;
    wh_reader_init(&r, buf, len);
    size_t bytes = 0;
    bool ours = wh_get_array(&r) == 2;
    uint64_t format = wh_get_uint(&r);
    ours = ours && format >= 1 && format <= FORMAT;
    const uint8_t *heads = wh_get_bin(&r, &bytes);
    if (!ours || r.status || r.p != r.end || bytes % 8 || bytes / 8 > WH_HOT_MAX)
        return NULL;
    *count = bytes / 8;
    for (size_t i = 0; i < *count; i++)
        if ((head_at(heads, i) & 1) > format - 1 || !wh_ram_has(&m->ram, head_at(heads, i) & ~1ull, 2))
            return NULL;
    return heads;
}

int wh_machine_warm(wh_machine *m, const uint8_t *buf, size_t len, uint32_t most_ms, uint32_t *warmed, wh_error *err)
{
    size_t count = 0;
    const uint8_t *heads = parse(m, buf, len, &count);
    const uint64_t end = wh_now_ns() + (uint64_t)most_ms * 1000000ull;
    *warmed = 0;
    if (!heads)
        return wh_fail(err, WH_E_FORMAT, "hot", "the list of %zu bytes makes no sense", len);
    if (!m->jit)
        return WH_OK;
    for (size_t i = 0; i < count && wh_now_ns() < end && !atomic_load(&m->restore.stop); i++) {
        if (!wh_jit_warm_one(m->hart[0].cpu, head_at(heads, i)))
            break;
        ++*warmed;
    }
    return WH_OK;
}

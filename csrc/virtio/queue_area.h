/* queue_area: what the split and the packed virtqueue share: descriptors and live fields of their areas. For queue.c
 * and packed.c. */
#ifndef WH_VIRTIO_QUEUE_AREA_H
#define WH_VIRTIO_QUEUE_AREA_H

#include "virtio/queue.h"

#include <endian.h>

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

static inline uint16_t load16(const uint8_t *p)
{
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static inline void store16(uint8_t *p, uint16_t v)
{
    __atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELEASE);
}

static inline void wh_chain_begin(wh_chain *c)
{
    c->descs = 1;
    c->out_count = c->in_count = 0;
    c->out_bytes = c->in_bytes = 0;
}

/* Append one descriptor's buffer. NULL, or what is wrong with it. */
const char *wh_chain_add(wh_chain *c, const wh_ram *ram, uint64_t pa, uint32_t len, uint16_t flags);
/* NULL, or what is wrong with the length of an indirect table. */
const char *wh_indirect_check(const wh_virtq *q, uint32_t len, uint16_t flags);

/* The packed ring's part of queue.h. */
const char *wh_packed_check(const wh_virtq *q, const wh_ram *ram);
int wh_packed_pop(wh_virtq *q, wh_ram *ram, wh_chain *chain, const char **why);
bool wh_packed_idle(wh_virtq *q, wh_ram *ram);
void wh_packed_unpop(wh_virtq *q, unsigned descs);
void wh_packed_push(wh_virtq *q, wh_ram *ram, const wh_used *used, unsigned count);
bool wh_packed_signal(wh_virtq *q, const wh_ram *ram);

#endif

/* idmap: u32 -> pointer, for ports, peers and networks. Open addressing with backward-shift deletion; the map does not
 * own what it points to. Key 0 is allowed, NULL values are not. */
#ifndef WH_SWITCH_IDMAP_H
#define WH_SWITCH_IDMAP_H

#include "base/base.h"

struct wh_idmap {
    struct wh_idslot {
        uint32_t key;
        void *value;
    } *slots;
    uint32_t cap, count; /* cap: a power of two or 0 */
};

void wh_idmap_free(struct wh_idmap *m); /* the table, not the values */
void *wh_idmap_get(const struct wh_idmap *m, uint32_t key);
int wh_idmap_put(struct wh_idmap *m, uint32_t key, void *value); /* WH_E_EXISTS, WH_E_NOMEM */
void *wh_idmap_take(struct wh_idmap *m, uint32_t key);
/* Walk: for (uint32_t i = 0; (v = wh_idmap_next(m, &i));) - no changes meanwhile. */
void *wh_idmap_next(const struct wh_idmap *m, uint32_t *at);

#endif

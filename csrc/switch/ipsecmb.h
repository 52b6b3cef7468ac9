/* ipsecmb: AES-256-GCM by Intel's multi-buffer library (Debian: libipsec-mb1, libipsec-mb2), where the host has it.
 *
 * It is loaded at run time, so nothing here needs its headers. What is used of it is declared in ipsecmb.c and was the
 * same in all releases from 1.3 to 2.0; others are refused, and a known answer is asked for before it is trusted. */
#ifndef WH_SWITCH_IPSECMB_H
#define WH_SWITCH_IPSECMB_H

#include "base/base.h"

#define WH_GCM_KEY_BYTES     2048u /* 1264 in 2.0 */
#define WH_GCM_CONTEXT_BYTES 128u  /* 88 in 2.0 */
#define WH_GCM_ALIGN         64u

/* key: WH_GCM_KEY_BYTES, context: WH_GCM_CONTEXT_BYTES of scratch, both aligned to WH_GCM_ALIGN. out may be in. The iv
 * has 12 bytes. Pointers are never NULL, whatever the lengths are. */
typedef void (*wh_gcm_fn)(const void *key, void *context, uint8_t *out, const uint8_t *in, uint64_t len,
                          const uint8_t *iv, const uint8_t *aad, uint64_t aad_len, uint8_t *tag, uint64_t tag_len);

struct wh_ipsecmb {
    void *library, *manager;
    void (*expand)(const void *key, void *expanded);
    wh_gcm_fn seal, open; /* open: gives the tag that should have come; the caller compares */
    char name[40];
};

/* WH_E_UNSUPPORTED: not installed, another release, or it cannot compute here. */
int wh_ipsecmb_load(struct wh_ipsecmb *m);
void wh_ipsecmb_unload(struct wh_ipsecmb *m); /* also after a load that failed */

#endif

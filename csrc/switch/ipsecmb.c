#include "switch/ipsecmb.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define VERSION(major, minor) ((unsigned)(major) << 16 | (unsigned)(minor) << 8)

/* The head of the library's manager, of which the release notes say that fields are only ever added behind the last.
 * Between the named ones: 26 functions before the GCM of 256 bits, and so on. */
struct manager {
    uint64_t flags, features, reserved[5];
    uint32_t architecture;
    int error;
    void (*before[26])(void);
    wh_gcm_fn seal256;
    void (*between[2])(void);
    wh_gcm_fn open256;
    void (*behind[20])(void);
    void (*expand256)(const void *key, void *expanded);
};
_Static_assert(offsetof(struct manager, seal256) == 272 && offsetof(struct manager, open256) == 296 &&
                   offsetof(struct manager, expand256) == 464,
               "the manager's layout");

/* dlsym gives an object pointer; POSIX promises that it holds a function's address. */
static bool symbol(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof(found));
    return found != NULL;
}

/* Test case 14 of the GCM specification (McGrew and Viega): key, iv and block of zeros. */
static bool knows_answer(const struct wh_ipsecmb *m)
{
    static const uint8_t zeros[32],
        cipher[16] = {0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18};
    static const uint8_t tag[16] = {0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0,
                                    0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19};
    _Alignas(WH_GCM_ALIGN) uint8_t key[WH_GCM_KEY_BYTES], context[WH_GCM_CONTEXT_BYTES];
    uint8_t out[16], got[16];
    m->expand(zeros, key);
    m->seal(key, context, out, zeros, sizeof(out), zeros, zeros, 0, got, sizeof(got));
    if (memcmp(out, cipher, sizeof(out)) != 0 || memcmp(got, tag, sizeof(got)) != 0)
        return false;
    m->open(key, context, out, out, sizeof(out), zeros, zeros, 0, got, sizeof(got));
    return memcmp(out, zeros, sizeof(out)) == 0 && memcmp(got, tag, sizeof(got)) == 0;
}

static int load_from(struct wh_ipsecmb *m, const char *file)
{
    unsigned (*version)(void);
    void *(*manager_new)(uint64_t flags);
    void (*manager_init)(void *manager, int *architecture);
    m->library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!m->library)
        return WH_E_UNSUPPORTED;
    if (!symbol(m->library, "imb_get_version", &version) || !symbol(m->library, "alloc_mb_mgr", &manager_new) ||
        !symbol(m->library, "init_mb_mgr_auto", &manager_init))
        return WH_E_UNSUPPORTED;
    unsigned v = version();
    if (v < VERSION(1, 3) || v >= VERSION(2, 1))
        return WH_E_UNSUPPORTED;
    struct manager *manager = m->manager = manager_new(0);
    if (!manager)
        return WH_E_NOMEM;
    manager_init(manager, NULL);
    if (manager->error || !manager->seal256 || !manager->open256 || !manager->expand256)
        return WH_E_UNSUPPORTED;
    m->expand = manager->expand256;
    m->seal = manager->seal256;
    m->open = manager->open256;
    snprintf(m->name, sizeof(m->name), "libipsec-mb %u.%u.%u", v >> 16, v >> 8 & 255, v & 255);
    return knows_answer(m) ? WH_OK : WH_E_UNSUPPORTED;
}

int wh_ipsecmb_load(struct wh_ipsecmb *m)
{
    static const char *const files[] = {"libIPSec_MB.so.2", "libIPSec_MB.so.1"};
    for (size_t i = 0; i < WH_ARRAY_LEN(files); i++) {
        *m = (struct wh_ipsecmb){0};
        if (load_from(m, files[i]) == WH_OK)
            return WH_OK;
        wh_ipsecmb_unload(m);
    }
    return WH_E_UNSUPPORTED;
}

void wh_ipsecmb_unload(struct wh_ipsecmb *m)
{
    void (*manager_free)(void *manager);
    if (m->manager && symbol(m->library, "free_mb_mgr", &manager_free))
        manager_free(m->manager);
    if (m->library)
        dlclose(m->library);
    *m = (struct wh_ipsecmb){0};
}

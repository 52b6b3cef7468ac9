/* Whole-machine snapshots: RAM and state document in one file (memory/snapfile.h), and machines that begin from one.
 *
 * A lazy restore names the stored pages absent (memory.h, the fault door) and goes on at once; harts and devices bring
 * in what they touch, a filler thread the rest. The file is let go when the last page is there. What can't be read or
 * is damaged ends the guest. Sections: "machine" {"ram_bytes", "harts", "boot", "seed", "icount", "cpu"}, "state"
 * (snapshot.c), "extra" (the owner's), "hot" (warm.c: a hint, a damaged one is passed over). */
#include "board/machine.h"
#include "memory/snapfile.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILL_PAGES    64u /* a piece of background work: 256 KiB, so that a stop waits for little */
#define FILL_AFTER_MS 5
#define EAGER_PAGES   1024u
#define FILLER_STACK  (256u << 10)
#define LAZY_WARM_MS  500 /* in the background, before pages that nobody waits for */
#define EAGER_WARM_MS 100

static void put_machine(const wh_machine *m, wh_writer *w)
{
    wh_put_map(w, 6);
    wh_put_kuint(w, "ram_bytes", m->config.ram_bytes);
    wh_put_kuint(w, "harts", m->config.harts);
    wh_put_kuint(w, "boot", m->config.boot);
    wh_put_kuint(w, "seed", m->config.seed);
    wh_put_kuint(w, "icount", m->config.icount);
    wh_put_kuint(w, "cpu", m->config.cpu);
}

int wh_machine_snapshot(wh_machine *m, int fd, const uint8_t *extra, size_t extra_len, wh_error *err)
{
    uint8_t *state;
    size_t state_len;
    int status = wh_machine_save(m, &state, &state_len, err);
    if (status)
        return status;
    if (wh_ram_fetch(&m->ram, WH_RAM_BASE, m->ram.bytes)) {
        wh_buf_free(state);
        return wh_fail(err, WH_E_IO, "memory", "a part of it could not be restored, so it can't be saved");
    }
    uint8_t *hot = NULL;
    size_t hot_len = 0;
    status = wh_machine_hot_list(m, &hot, &hot_len, err);
    wh_writer w;
    wh_writer_init(&w);
    put_machine(m, &w);
    const wh_section sections[] = {
        {"machine", w.data, w.len}, {"state", state, state_len}, {"hot", hot, hot_len}, {"extra", extra, extra_len}};
    if (!status && w.status)
        status = wh_fail(err, w.status, "machine", "no memory for its description");
    if (!status)
        status = wh_snapfile_write(fd, &m->ram, sections, extra_len ? 4 : 3, err);
    wh_writer_free(&w);
    wh_buf_free(hot);
    wh_buf_free(state);
    return status;
}

static int read_config(const wh_snapfile *f, wh_machine_config *config, wh_error *err)
{
    uint8_t *data;
    size_t len;
    int status = wh_snapfile_section(f, "machine", &data, &len, err);
    if (status)
        return status;
    wh_reader map, fail;
    wh_reader_init(&map, data, len);
    fail = map;
    memset(config, 0, sizeof *config);
    config->ram_bytes = wh_map_uint(&map, "ram_bytes", &fail);
    config->seed = wh_map_uint(&map, "seed", &fail);
    uint64_t harts = wh_map_uint(&map, "harts", &fail), boot = wh_map_uint(&map, "boot", &fail);
    uint64_t icount = wh_map_uint(&map, "icount", &fail), cpu = wh_map_uint(&map, "cpu", &fail);
    wh_buf_free(data);
    if (fail.status || harts > WH_MAX_HARTS || boot > WH_BOOT_FIRMWARE || icount > WH_ICOUNT_PACED ||
        cpu > UINT32_MAX || config->ram_bytes != wh_snapfile_ram_bytes(f))
        return wh_fail(err, WH_E_FORMAT, "snapshot", "its description of the machine makes no sense");
    config->harts = (uint32_t)harts;
    config->boot = (uint32_t)boot;
    config->icount = (uint32_t)icount;
    config->cpu = (uint32_t)cpu;
    return WH_OK;
}

int wh_snapshot_info(int fd, wh_machine_config *config, uint64_t *pages, wh_error *err)
{
    wh_snapfile *f;
    int status = wh_snapfile_open(fd, &f, err);
    if (status)
        return status;
    *pages = wh_snapfile_pages(f);
    status = read_config(f, config, err);
    wh_snapfile_close(f);
    return status;
}

/* ---- the page source */

static void page_lost(void *ctx, const wh_error *why)
{
    wh_machine *m = ctx;
    char text[120];
    m->restore.why = *why;
    atomic_store(&m->restore.failed, 1);
    snprintf(text, sizeof text, "memory could not be restored: %.80s", why->message);
    wh_events_end(&m->events, WH_EV_CRASH, 0, text);
    wh_run_halt(m);
}

static void all_there(void *ctx)
{
    wh_machine *m = ctx;
    wh_snapfile_close(m->restore.file);
    m->restore.file = NULL;
}

static int fill(void *ctx, uint64_t first, uint64_t count, uint8_t *to, wh_error *err)
{
    wh_machine *m = ctx;
    return wh_snapfile_fill(m->restore.file, first, count, to, err);
}

static void warm(wh_machine *m, uint32_t most_ms)
{
    wh_restore *r = &m->restore;
    uint32_t warmed;
    if (r->hot)
        (void)wh_machine_warm(m, r->hot, r->hot_len, most_ms, &warmed, NULL);
    wh_buf_free(r->hot);
    r->hot = NULL;
}

/* The guest's own first instructions have the disk and the processors for themselves; then the hot code, which would
 * otherwise be translated by the harts that wait for it; then the rest of the pages. */
static void *filler_main(void *ctx)
{
    wh_machine *m = ctx;
    uint64_t cursor = 0;
    pthread_setname_np(pthread_self(), "guest filler");
    if (!wh_ram_fill_wait(&m->ram, m->restore.how == WH_RESTORE_ON_DEMAND ? -1 : FILL_AFTER_MS))
        return NULL;
    warm(m, LAZY_WARM_MS);
    while (!atomic_load(&m->restore.stop) && wh_ram_fill(&m->ram, &cursor, FILL_PAGES) == WH_OK)
        ;
    return NULL;
}

int wh_restore_start(wh_machine *m)
{
    wh_restore *r = &m->restore;
    if (r->filling || wh_ram_is_remote(&m->ram) || !atomic_load(&m->ram.share->absent_pages))
        return 0;
    sigset_t all, old; /* signals are for the process's main thread */
    sigfillset(&all);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, FILLER_STACK);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&r->filler, &attr, filler_main, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    r->filling = !e;
    return e;
}

void wh_restore_stop(wh_machine *m)
{
    wh_restore *r = &m->restore;
    if (!r->filling)
        return;
    r->filling = false;
    atomic_store(&r->stop, true);
    wh_ram_fill_cancel(&m->ram);
    pthread_join(r->filler, NULL);
}

void wh_restore_free(wh_machine *m)
{
    wh_snapfile_close(m->restore.file);
    m->restore.file = NULL;
    wh_buf_free(m->restore.hot);
    m->restore.hot = NULL;
}

/* ---- pages of a migration */

int wh_machine_expect_pages(wh_machine *m, const uint8_t *bitmap, size_t len, wh_error *err)
{
    const uint64_t pages = m->ram.bytes >> WH_PAGE_SHIFT, words = (pages + 63) / 64; /* RAM is a multiple of 64 pages */
    if (m->run_state != WH_NEW || m->restore.file || m->ram.door)
        return wh_fail(err, WH_E_STATE, "machine", "pages are expected by a new machine only");
    if (len != words * sizeof(uint64_t))
        return wh_fail(err, WH_E_FORMAT, "absent", "%zu bytes do not name the pages of this machine", len);
    uint64_t *aligned = malloc(len);
    if (!aligned)
        return wh_fail(err, WH_E_NOMEM, "absent", "no memory for %zu bytes", len);
    memcpy(aligned, bitmap, len);
    int status = wh_ram_set_remote(&m->ram, aligned, m->wanted_fd, err);
    free(aligned);
    return status;
}

/* ---- restoring */

static int open_doors(wh_machine *m, wh_error *err)
{
    wh_restore *r = &m->restore;
    if (!wh_snapfile_pages(r->file)) {
        all_there(m);
        return WH_OK;
    }
    const wh_page_source source = {m, fill, page_lost, all_there};
    int status = wh_ram_set_absent(&m->ram, wh_snapfile_bitmap(r->file), &source, err);
    uint64_t cursor = 0;
    if (r->how != WH_RESTORE_EAGER)
        return status;
    while (!status)
        status = wh_ram_fill(&m->ram, &cursor, EAGER_PAGES);
    return status == WH_E_AGAIN ? WH_OK : status;
}

/* The parts of the file that are needed at once; then the door, through which loading the state looks at queues. */
static int restore_from(wh_machine *m, uint8_t **state, size_t *state_len, uint8_t **extra, size_t *extra_len,
                        wh_error *err)
{
    wh_restore *r = &m->restore;
    wh_machine_config config;
    int status = read_config(r->file, &config, err);
    if (!status &&
        (config.ram_bytes != m->config.ram_bytes || config.harts != m->config.harts || config.boot != m->config.boot))
        status =
            wh_fail(err, WH_E_INVAL, "snapshot",
                    "it is of a machine with %llu MiB, %u harts, boot %u; this one has %llu MiB, %u harts, boot %u",
                    (unsigned long long)config.ram_bytes >> 20, config.harts, config.boot,
                    (unsigned long long)m->config.ram_bytes >> 20, m->config.harts, m->config.boot);
    if (!status)
        status = wh_snapfile_section(r->file, "state", state, state_len, err);
    if (!status && extra)
        status = wh_snapfile_section(r->file, "extra", extra, extra_len, err);
    if (!status && !*state)
        status = wh_fail(err, WH_E_FORMAT, "snapshot", "it has no state of the machine");
    if (!status && wh_snapfile_section(r->file, "hot", &r->hot, &r->hot_len, NULL) != WH_OK)
        r->hot = NULL;
    if (!status)
        status = open_doors(m, err);
    if (!status)
        status = wh_machine_load(m, *state, *state_len, err);
    if (!status && r->how == WH_RESTORE_EAGER)
        warm(m, EAGER_WARM_MS);
    return status;
}

int wh_machine_restore(wh_machine *m, int fd, int how, uint8_t **extra, size_t *extra_len, wh_error *err)
{
    uint8_t *state = NULL;
    size_t state_len = 0;
    wh_restore *r = &m->restore;
    if (extra) {
        *extra = NULL;
        *extra_len = 0;
    }
    if (how < WH_RESTORE_EAGER || how > WH_RESTORE_ON_DEMAND)
        return wh_fail(err, WH_E_INVAL, "how", "%d is no way to restore", how);
    if (m->run_state != WH_NEW || r->file || m->ram.door)
        return wh_fail(err, WH_E_STATE, "machine", "a snapshot is restored into a new machine only");
    r->how = how;
    int status = wh_snapfile_open(fd, &r->file, err);
    if (!status)
        status = restore_from(m, &state, &state_len, extra, extra_len, err);
    wh_buf_free(state);
    if (!status)
        return WH_OK;
    if (extra) {
        wh_buf_free(*extra);
        *extra = NULL;
        *extra_len = 0;
    }
    if (m->ram.door)
        m->run_state = WH_BROKEN; /* half a machine must never run */
    else
        wh_restore_free(m); /* nothing was changed */
    return atomic_load(&r->failed) ? wh_fail(err, WH_E_FORMAT, "snapshot", "%s", r->why.message) : status;
}

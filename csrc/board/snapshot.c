/* The machine state document: one msgpack map of everything but RAM.
 *
 *   {"format": 1, "ram_bytes": n, "boot": 0|1, "cpu": name of the CPU model, "mtime": n,
 *    "harts": [{"hsm": n, "restarts": 0|1, "start_pc": n, "start_opaque": n, "cpu": {...}}, ...],
 *    "devices": {"plic": {...}, "aclint": {...}, ..., "virtio0:console": {...}, ...},
 *    "input": [bin, bin, bin]           what channels hold for the guest
 *    "icount": {...}}                   only of a machine whose time is its instructions (icount.c)
 *
 * Extra keys are a newer minor version and are passed over; another "format" is refused. */
#include "board/machine.h"

#include <stdio.h>
#include <string.h>

#define FORMAT 1u

static unsigned fixed_count(const wh_machine *m)
{
    return m->rom ? 6 : 5;
}

static void device_key(const wh_machine *m, unsigned i, char key[64], wh_device **d)
{
    wh_device *const fixed[] = {m->plic, m->aclint, m->uart, m->rtc, m->finisher, m->rom};
    if (i < fixed_count(m)) {
        *d = fixed[i];
        snprintf(key, 64, "%s", (*d)->ops->name);
    } else {
        unsigned slot = i - fixed_count(m);
        *d = m->virtio[slot];
        snprintf(key, 64, "virtio%u:%s", slot, (*d)->ops->name);
    }
}

static unsigned device_count(const wh_machine *m)
{
    return fixed_count(m) + m->slots_used;
}

static void save_hart(wh_board_hart *h, wh_writer *w)
{
    wh_put_map(w, 5);
    wh_put_kuint(w, "hsm", h->hsm);
    wh_put_kuint(w, "restarts", h->resume_restarts);
    wh_put_kuint(w, "start_pc", h->start_pc);
    wh_put_kuint(w, "start_opaque", h->start_opaque);
    wh_put_str(w, "cpu");
    wh_hart_save(h->cpu, w);
}

void wh_snapshot_write(wh_machine *m, wh_writer *w)
{
    wh_put_map(w, wh_icount_on(m) ? 9 : 8);
    wh_put_kuint(w, "format", FORMAT);
    wh_put_kuint(w, "ram_bytes", m->ram.bytes);
    wh_put_kuint(w, "boot", m->config.boot);
    wh_put_str(w, "cpu");
    wh_put_str(w, wh_cpu_model_name(m->config.cpu));
    wh_put_kuint(w, "mtime", wh_clock_now(m));
    wh_put_str(w, "harts");
    wh_put_array(w, m->config.harts);
    for (unsigned i = 0; i < m->config.harts; i++)
        save_hart(&m->hart[i], w);
    wh_put_str(w, "devices");
    wh_put_map(w, device_count(m));
    for (unsigned i = 0; i < device_count(m); i++) {
        char key[64];
        wh_device *d;
        device_key(m, i, key, &d);
        wh_put_str(w, key);
        d->ops->save(d, w);
    }
    wh_put_str(w, "input");
    wh_put_array(w, WH_CHANNELS);
    for (unsigned i = 0; i < WH_CHANNELS; i++)
        wh_channel_save(&m->channel[i], w);
    if (wh_icount_on(m)) {
        wh_put_str(w, "icount");
        wh_icount_save(m, w);
    }
}

int wh_machine_save(wh_machine *m, uint8_t **buf, size_t *len, wh_error *err)
{
    *buf = NULL;
    *len = 0;
    pthread_mutex_lock(&m->run_lock);
    /* A hart whose sleep has just ended is on its way to park: it touches nothing, and says so in a moment. */
    while (m->run_state == WH_PAUSED && !wh_run_at_rest(m))
        pthread_cond_wait(&m->parked_changed, &m->run_lock);
    bool paused = m->run_state == WH_PAUSED;
    pthread_mutex_unlock(&m->run_lock);
    if (!paused)
        return wh_fail(err, WH_E_STATE, "machine", "it must be paused to be saved");
    wh_writer w;
    wh_writer_init(&w);
    pthread_mutex_lock(&m->lock);
    wh_snapshot_write(m, &w);
    pthread_mutex_unlock(&m->lock);
    if (w.status) {
        int status = w.status;
        wh_writer_free(&w);
        return wh_fail(err, status, "machine", "no memory for its state");
    }
    *buf = w.data;
    *len = w.len;
    return WH_OK;
}

static int load_hart(wh_board_hart *h, wh_reader *map, wh_error *err)
{
    uint64_t hsm = wh_map_uint(map, "hsm", map);
    h->resume_restarts = wh_map_uint(map, "restarts", map) != 0;
    h->start_pc = wh_map_uint(map, "start_pc", map);
    h->start_opaque = wh_map_uint(map, "start_opaque", map);
    if (hsm > WH_HSM_SUSPENDED || hsm == 3)
        wh_reader_fail(map, "hsm");
    h->hsm = (enum wh_hsm)hsm;
    wh_reader cpu = wh_map_find(map, "cpu");
    if (!map->status && !cpu.status)
        wh_hart_load(h->cpu, &cpu);
    const char *field = map->status ? map->field : cpu.field;
    if (map->status || cpu.status)
        return wh_fail(err, WH_E_FORMAT, "harts", "hart %u: %s is missing or damaged", h->index,
                       field[0] ? field : "a register");
    return WH_OK;
}

static int load_harts(wh_machine *m, const wh_reader *doc, wh_error *err)
{
    wh_reader r = wh_map_find(doc, "harts");
    uint32_t count = wh_get_array(&r);
    if (!r.status && count != m->config.harts)
        return wh_fail(err, WH_E_INVAL, "harts", "%u in the state, %u in this machine", count, m->config.harts);
    for (unsigned i = 0; i < m->config.harts; i++) {
        wh_reader map = r;
        wh_get_skip(&r);
        if (r.status)
            return wh_fail(err, WH_E_FORMAT, "harts", "missing or damaged");
        int status = load_hart(&m->hart[i], &map, err);
        if (status)
            return status;
    }
    return r.status ? wh_fail(err, WH_E_FORMAT, "harts", "missing or damaged") : WH_OK;
}

static int load_devices(wh_machine *m, const wh_reader *doc, wh_error *err)
{
    wh_reader devices = wh_map_find(doc, "devices"), header = devices;
    uint32_t count = wh_get_map(&header);
    if (header.status)
        return wh_fail(err, WH_E_FORMAT, "devices", "missing or damaged");
    for (unsigned i = 0; i < device_count(m); i++) {
        char key[64];
        wh_device *d;
        device_key(m, i, key, &d);
        if (!wh_map_has(&devices, key))
            return wh_fail(err, WH_E_INVAL, "devices", "the state has no %s, this machine has", key);
        wh_reader map = wh_map_find(&devices, key);
        d->ops->load(d, &map);
        if (map.status)
            return wh_fail(err, WH_E_FORMAT, key, "%s is missing or damaged", map.field[0] ? map.field : "its state");
    }
    if (count != device_count(m))
        return wh_fail(err, WH_E_INVAL, "devices", "%u in the state, %u in this machine", count, device_count(m));
    return WH_OK;
}

static int load_input(wh_machine *m, const wh_reader *doc, wh_error *err)
{
    wh_reader r = wh_map_find(doc, "input");
    if (wh_get_array(&r) != WH_CHANNELS)
        wh_reader_fail(&r, "input");
    for (unsigned i = 0; i < WH_CHANNELS && !r.status; i++)
        wh_channel_load(&m->channel[i], &r);
    atomic_store(&m->input_waiting, (1u << WH_CHANNELS) - 1);
    return r.status ? wh_fail(err, WH_E_FORMAT, "input", "missing or damaged") : WH_OK;
}

/* A guest that has seen one model's extensions must not wake up on another. A document without a name is older than
 * the names, and the model was rva22's forerunner. */
static int check_model(const wh_machine *m, const wh_reader *doc, wh_error *err)
{
    const char *have = wh_cpu_model_name(m->config.cpu);
    const char *saved = "rva22";
    size_t len = strlen(saved);
    if (wh_map_has(doc, "cpu")) {
        wh_reader r = wh_map_find(doc, "cpu");
        saved = wh_get_str(&r, &len);
        if (r.status || len > 32)
            return wh_fail(err, WH_E_FORMAT, "cpu", "damaged");
    }
    if (len != strlen(have) || memcmp(saved, have, len) != 0)
        return wh_fail(err, WH_E_INVAL, "cpu", "the state is of CPU model %.*s, this machine is %s", (int)len, saved,
                       have);
    return WH_OK;
}

/* What must be right before anything is changed. */
static int check_document(const wh_machine *m, wh_reader *doc, wh_error *err)
{
    wh_reader whole = *doc;
    wh_get_skip(&whole);
    if (whole.status || whole.p != whole.end)
        return wh_fail(err, WH_E_FORMAT, "state", "not one whole msgpack document");
    uint64_t format = wh_map_uint(doc, "format", doc), ram = wh_map_uint(doc, "ram_bytes", doc);
    uint64_t boot = wh_map_uint(doc, "boot", doc);
    if (doc->status)
        return wh_fail(err, WH_E_FORMAT, doc->field, "missing or damaged");
    if (format != FORMAT)
        return wh_fail(err, WH_E_VERSION, "format", "%llu, %u is understood", (unsigned long long)format, FORMAT);
    if (ram != m->ram.bytes)
        return wh_fail(err, WH_E_INVAL, "ram_bytes", "%llu in the state, %llu in this machine", (unsigned long long)ram,
                       (unsigned long long)m->ram.bytes);
    if (boot != m->config.boot)
        return wh_fail(err, WH_E_INVAL, "boot", "%llu in the state, %u in this machine", (unsigned long long)boot,
                       m->config.boot);
    return check_model(m, doc, err);
}

int wh_machine_load(wh_machine *m, const uint8_t *buf, size_t len, wh_error *err)
{
    if (m->run_state != WH_NEW)
        return wh_fail(err, WH_E_STATE, "machine", "state is loaded into a new machine only");
    wh_reader doc;
    wh_reader_init(&doc, buf, len);
    int status = check_document(m, &doc, err);
    if (status)
        return status;
    pthread_mutex_lock(&m->lock);
    uint64_t mtime = wh_map_uint(&doc, "mtime", &doc);
    wh_clock_freeze(m);
    wh_clock_set(m, mtime);
    status = doc.status ? wh_fail(err, WH_E_FORMAT, "mtime", "missing or damaged") : load_harts(m, &doc, err);
    if (!status)
        status = load_devices(m, &doc, err);
    if (!status)
        status = load_input(m, &doc, err);
    if (!status && wh_icount_on(m)) {
        wh_icount_load(m, &doc, &doc);
        if (doc.status)
            status = wh_fail(err, WH_E_FORMAT, "icount", "damaged");
    }
    pthread_mutex_unlock(&m->lock);
    pthread_mutex_lock(&m->run_lock);
    m->run_state = status ? WH_BROKEN : WH_READY; /* half a state must never run */
    pthread_mutex_unlock(&m->run_lock);
    return status;
}

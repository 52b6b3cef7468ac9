/* Making and freeing a machine, its devices, its figures. */
#include "board/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

static int check_config(const wh_machine_config *c, wh_error *err)
{
    if (c->ram_bytes < WH_MIN_RAM || c->ram_bytes > WH_MAX_RAM || c->ram_bytes % (2u << 20))
        return wh_fail(err, WH_E_INVAL, "memory", "%llu bytes: a multiple of 2 MiB from 16 MiB to 64 GiB is allowed",
                       (unsigned long long)c->ram_bytes);
    if (!c->harts || c->harts > WH_MAX_HARTS)
        return wh_fail(err, WH_E_INVAL, "cpus", "%u: 1 to %u are allowed", c->harts, WH_MAX_HARTS);
    if (c->boot != WH_BOOT_LINUX && c->boot != WH_BOOT_FIRMWARE)
        return wh_fail(err, WH_E_INVAL, "boot", "%u: 0 (Linux) or 1 (firmware)", c->boot);
    if (c->icount > WH_ICOUNT_PACED)
        return wh_fail(err, WH_E_INVAL, "icount", "%u: 0 (off), 1 (free) or 2 (paced)", c->icount);
    if (c->icount && !c->seed)
        return wh_fail(err, WH_E_INVAL, "seed", "0: a machine that counts instructions for time needs a seed");
    if (!wh_cpu_model_known(c->cpu))
        return wh_fail(err, WH_E_INVAL, "cpu", "%u: no such CPU model", c->cpu);
    if (c->engine > WH_ENGINE_JIT)
        return wh_fail(err, WH_E_INVAL, "engine", "%u: 0 (auto), 1 (interpreter) or 2 (jit)", c->engine);
    return WH_OK;
}

/* From config.seed by splitmix64 (Steele, Lea, Flood), so that a seeded machine is the same every time. */
static int fill_seed(wh_machine *m, wh_error *err)
{
    if (!m->config.seed) {
        if (getrandom(m->seed, sizeof m->seed, 0) != (ssize_t)sizeof m->seed)
            return wh_fail(err, WH_E_IO, "seed", "getrandom: %s", strerror(errno));
        return WH_OK;
    }
    uint64_t state = m->config.seed;
    for (size_t i = 0; i < sizeof m->seed; i += 8) {
        uint64_t z = state += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        memcpy(m->seed + i, &z, 8);
    }
    return WH_OK;
}

/* A host that lets us translate is not needed unless the translator was asked for by name. */
static int make_engine(wh_machine *m, wh_error *err)
{
    wh_error ignored;
    if (m->config.engine == WH_ENGINE_JIT)
        return wh_jit_new(WH_JIT_BYTES, &m->jit, err);
    if (m->config.engine == WH_ENGINE_AUTO)
        (void)wh_jit_new(WH_JIT_BYTES, &m->jit, &ignored);
    return WH_OK;
}

static int make_harts(wh_machine *m, wh_error *err)
{
    m->cpu_env = (wh_cpu_env){
        .ram = &m->ram,
        .ctx = m,
        .engine = m->jit != NULL ? wh_jit_engine() : NULL,
        .jit = m->jit,
        .hart_count = m->config.harts,
        .model = m->config.cpu,
        .direct_boot = m->config.boot == WH_BOOT_LINUX,
        .mmio_read = wh_bus_read,
        .mmio_write = wh_bus_write,
        .time_now = wh_clock_now,
        .steps_until = wh_icount_on(m) ? wh_icount_steps_until : NULL,
    };
    m->hart = aligned_alloc(WH_CACHE_LINE, m->config.harts * sizeof *m->hart);
    if (!m->hart)
        return wh_fail(err, WH_E_NOMEM, "cpus", "no memory");
    memset(m->hart, 0, m->config.harts * sizeof *m->hart);
    for (unsigned i = 0; i < m->config.harts; i++) {
        wh_board_hart *h = &m->hart[i];
        h->machine = m;
        h->index = i;
        int status = wh_hart_new(&m->cpu_env, i, &h->cpu, err);
        if (status)
            return status;
        m->harts_made++;
    }
    return WH_OK;
}

static int make_channels(wh_machine *m, wh_error *err)
{
    for (unsigned i = 0; i < WH_CHANNELS; i++)
        if (wh_channel_init(&m->channel[i], m, i))
            return wh_fail(err, WH_E_NOMEM, "channels", "no memory");
    return WH_OK;
}

static int add_standard_virtio(wh_machine *m, wh_error *err)
{
    wh_channel_end console = wh_channel_device_end(&m->channel[WH_CH_CONSOLE]);
    wh_channel_end agent = wh_channel_device_end(&m->channel[WH_CH_AGENT]);
    wh_device *d;
    wh_virtio_env env = wh_bus_virtio_env(m);
    int status = wh_virtio_console_new(&env, &console, &agent, &d, err);
    if (!status)
        status = wh_bus_add_virtio(m, d, err);
    if (status)
        return status;
    env = wh_bus_virtio_env(m);
    status = wh_virtio_rng_new(&env, m->config.seed, &d, err);
    return status ? status : wh_bus_add_virtio(m, d, err);
}

static int build(wh_machine *m, wh_error *err)
{
    int status = wh_ram_new(m->config.ram_bytes, m->config.harts, &m->ram, err);
    if (!status && m->config.harts == 1)
        wh_ram_use_plain_atomics(&m->ram);
    if (!status)
        status = fill_seed(m, err);
    if (!status && wh_events_init(&m->events))
        status = wh_fail(err, WH_E_IO, "events", "eventfd: %s", strerror(errno));
    if (!status && (m->wanted_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        status = wh_fail(err, WH_E_IO, "memory", "eventfd: %s", strerror(errno));
    if (!status)
        status = wh_run_init(m, err);
    if (!status)
        status = wh_debug_init(m, err);
    if (!status)
        status = make_channels(m, err);
    if (!status)
        status = make_engine(m, err);
    if (!status)
        status = make_harts(m, err);
    if (!status)
        status = wh_bus_init(m, err);
    return status ? status : add_standard_virtio(m, err);
}

int wh_machine_new(const wh_machine_config *config, wh_machine **out, wh_error *err)
{
    *out = NULL;
    int status = check_config(config, err);
    if (status)
        return status;
    wh_machine *m = calloc(1, sizeof *m);
    if (!m)
        return wh_fail(err, WH_E_NOMEM, "machine", "no memory");
    m->config = *config;
    m->inputs.fd = m->ram.ram_fd = m->ram.share_fd = m->events.fd = m->debug.event_fd = m->wanted_fd = m->io_epoll =
        m->io_event = m->io_timer = -1;
    pthread_mutex_init(&m->lock, NULL);
    wh_clock_freeze(m);
    wh_clock_set(m, 0);
    status = build(m, err);
    if (status) {
        wh_machine_free(m);
        return status;
    }
    *out = m;
    return WH_OK;
}

/* Also for a machine that was only half made. */
void wh_machine_free(wh_machine *m)
{
    if (!m)
        return;
    if (m->threads || m->hart_threads || m->restore.filling)
        wh_machine_stop(m);
    wh_bus_destroy(m);
    for (unsigned i = 0; i < m->harts_made; i++)
        wh_hart_free(m->hart[i].cpu);
    free(m->hart);
    wh_jit_free(m->jit);
    for (unsigned i = 0; i < WH_CHANNELS; i++)
        wh_channel_destroy(&m->channel[i]);
    wh_inputs_close(m);
    wh_run_destroy(m);
    wh_debug_destroy(m);
    wh_events_destroy(&m->events);
    wh_restore_free(m);
    wh_ram_free(&m->ram);
    if (m->wanted_fd >= 0)
        close(m->wanted_fd);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

int wh_machine_ram_fd(wh_machine *m)
{
    return m->ram.ram_fd;
}

int wh_machine_wanted_fd(wh_machine *m)
{
    return m->wanted_fd;
}

int wh_machine_share_fd(wh_machine *m)
{
    return m->ram.share_fd;
}

wh_hart *wh_machine_hart(wh_machine *m, unsigned index)
{
    return index < m->config.harts ? m->hart[index].cpu : NULL;
}

wh_ram *wh_machine_ram(wh_machine *m)
{
    return &m->ram;
}

static int check_addable(wh_machine *m, unsigned have, unsigned max, const char *field, wh_error *err)
{
    if (m->run_state != WH_NEW)
        return wh_fail(err, WH_E_STATE, field, "devices are added before anything is loaded");
    if (have >= max || m->slots_used >= WH_VIRTIO_SLOTS)
        return wh_fail(err, WH_E_FULL, field, "no virtio slot is left for another one");
    return WH_OK;
}

#define MTU_MIN 68u /* of IPv4, and of the driver (virtio 1.3, 5.1.4.1) */

int wh_machine_add_nic(wh_machine *m, const uint8_t mac[6], uint32_t mtu, wh_error *err)
{
    wh_device *d;
    wh_virtio_env env = wh_bus_virtio_env(m);
    wh_net_config config = {.mtu = (uint16_t)mtu, .pairs = m->config.harts};
    memcpy(config.mac, mac, sizeof config.mac);
    int status = check_addable(m, m->nics, WH_MAX_NICS, "nics", err);
    if (!status && mtu != 0 && (mtu < MTU_MIN || mtu > UINT16_MAX))
        status = wh_fail(err, WH_E_INVAL, "mtu", "%u is not in %u..%u", mtu, MTU_MIN, UINT16_MAX);
    if (!status)
        status = wh_virtio_net_new(&env, &config, &d, err);
    if (!status)
        status = wh_bus_add_virtio(m, d, err);
    if (!status)
        m->nic[m->nics++] = d;
    if (!status && wh_icount_on(m))
        status = wh_virtio_net_gate(d, err);
    return status;
}

int wh_machine_nic_fds(wh_machine *m, uint32_t nic, int *ring_fd, int *to_switch_event, int *to_guest_event)
{
    if (nic >= m->nics)
        return WH_E_NOTFOUND;
    wh_virtio_net_fds(m->nic[nic], ring_fd, to_switch_event, to_guest_event);
    return WH_OK;
}

int wh_machine_add_disk(wh_machine *m, int fd, int read_only, const char *serial, wh_error *err)
{
    wh_device *d;
    wh_virtio_env env = wh_bus_virtio_env(m);
    int status = check_addable(m, m->disks, WH_MAX_DISKS, "disks", err);
    if (!status)
        status = wh_virtio_blk_new(&env, fd, read_only != 0, serial, &d, err);
    if (!status)
        status = wh_bus_add_virtio(m, d, err);
    if (!status)
        m->disk[m->disks++] = d;
    return status;
}

int wh_machine_disk_share_fd(wh_machine *m, uint32_t disk, int *share_fd)
{
    if (disk >= m->disks)
        return WH_E_NOTFOUND;
    *share_fd = wh_virtio_blk_share_fd(m->disk[disk]);
    return WH_OK;
}

static void add_device_stats(wh_machine *m, wh_machine_stats *out)
{
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->nics; i++) {
        wh_net_stats s;
        wh_virtio_net_get_stats(m->nic[i], &s);
        out->net_tx_frames += s.tx_frames;
        out->net_rx_frames += s.rx_frames;
        out->net_tx_bytes += s.tx_bytes;
        out->net_rx_bytes += s.rx_bytes;
        out->net_dropped += s.dropped;
    }
    for (unsigned i = 0; i < m->disks; i++) {
        wh_blk_stats s;
        wh_virtio_blk_get_stats(m->disk[i], &s);
        out->blk_reads += s.reads;
        out->blk_writes += s.writes;
    }
    pthread_mutex_unlock(&m->lock);
}

static void add_translator_stats(wh_machine *m, wh_machine_stats *out)
{
    wh_jit_stats s;
    if (m->jit == NULL)
        return;
    wh_jit_get_stats(m->jit, &s);
    out->jit_blocks = s.blocks;
    out->jit_instructions = s.instructions;
    out->jit_discarded = s.discarded;
    out->jit_resets = s.resets;
}

/* A busy hart may not come back for minutes: what it is at counts too. */
static uint64_t with_present(const _Atomic uint64_t *sum, const _Atomic uint64_t *since)
{
    uint64_t start = atomic_load_explicit(since, memory_order_relaxed), now = wh_now_ns();
    return atomic_load_explicit(sum, memory_order_relaxed) + (start != 0 && now > start ? now - start : 0);
}

static uint64_t exits(const wh_board_hart *h, enum wh_exit cause)
{
    return atomic_load_explicit(&h->exits[cause], memory_order_relaxed);
}

void wh_machine_get_stats(wh_machine *m, wh_machine_stats *out)
{
    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < m->config.harts; i++) {
        wh_hart_stats s;
        wh_hart_get_stats(m->hart[i].cpu, &s);
        out->instructions += s.instructions;
        out->traps += s.traps;
        out->interrupts += s.interrupts;
        out->mmio += s.mmio;
        out->tlb_misses += s.tlb_misses;
        out->exits_attention += exits(&m->hart[i], WH_EXIT_ATTENTION);
        out->exits_wfi += exits(&m->hart[i], WH_EXIT_WFI);
        out->exits_sbi += exits(&m->hart[i], WH_EXIT_SBI);
        out->exits_pause += exits(&m->hart[i], WH_EXIT_PAUSE);
        out->exits_limit += exits(&m->hart[i], WH_EXIT_LIMIT);
        out->exits_debug += exits(&m->hart[i], WH_EXIT_DEBUG);
        out->wfi_ns += with_present(&m->hart[i].wfi_ns, &m->hart[i].wfi_since);
        out->throttled_ns += atomic_load_explicit(&m->hart[i].throttled_ns, memory_order_relaxed);
        out->run_ns += with_present(&m->hart[i].run_ns, &m->hart[i].run_since);
    }
    wh_door_stats door;
    wh_ram_door_stats(&m->ram, &door);
    out->pages_restored = door.named;
    out->fault_wait_ns = door.wait_ns;
    out->fault_wait_median_ns = door.wait_median_ns;
    out->fault_wait_max_ns = door.wait_max_ns;
    out->pages_faulted = door.faulted;
    out->pages_absent = door.absent;
    add_translator_stats(m, out);
    add_device_stats(m, out);
}

/* The memory map, the devices that are always there, and the way of interrupts: device -> PLIC -> hart. */
#include "board/machine.h"

#include <assert.h>

/* Board lock held by every caller but the ones in wh_machine_new. */
static void set_hart_line(void *ctx, unsigned hart, unsigned bit, bool level)
{
    wh_machine *m = ctx;
    bool machine_bit = (bit & 3) == 3; /* MSIP, MTIP, MEIP: nobody is in M-mode when the SBI is built in */
    if (m->cpu_env.direct_boot && machine_bit)
        return;
    wh_hart_irq(m->hart[hart].cpu, bit, level);
    if (level)
        wh_hart_wake(&m->hart[hart]);
}

static void set_plic_line(void *ctx, unsigned line, bool level)
{
    wh_machine *m = ctx;
    wh_plic_set_line(m->plic, line, level);
}

static void guest_poweroff(void *ctx, unsigned code)
{
    wh_machine *m = ctx;
    wh_events_end(&m->events, WH_EV_POWEROFF, code, code ? "the guest reported a failure" : "");
    wh_run_halt(m);
}

static void guest_reboot(void *ctx)
{
    wh_machine *m = ctx;
    wh_events_end(&m->events, WH_EV_REBOOT, 0, "");
    wh_run_halt(m);
}

static void map(wh_machine *m, uint64_t base, uint64_t size, wh_device *d)
{
    assert(m->regions < WH_ARRAY_LEN(m->region));
    m->region[m->regions++] = (wh_region){base, size, d};
}

static wh_irq irq_of(wh_machine *m, unsigned line)
{
    return (wh_irq){set_plic_line, m, line};
}

int wh_bus_init(wh_machine *m, wh_error *err)
{
    wh_hart_line line = {set_hart_line, m};
    wh_aclint_env aclint = {line, m->config.harts, wh_clock_now, wh_clock_set, wh_io_arm_timer, m};
    wh_irq uart_irq = irq_of(m, WH_UART_IRQ);
    wh_channel_end uart_end = wh_channel_device_end(&m->channel[WH_CH_UART]);
    wh_rtc_env rtc = {irq_of(m, WH_RTC_IRQ), wh_clock_wall_ns, wh_io_arm_timer, m};
    wh_finisher_env finisher = {guest_poweroff, guest_reboot, m};
    int status = wh_plic_new(&line, m->config.harts, &m->plic, err);
    if (!status)
        status = wh_aclint_new(&aclint, &m->aclint, err);
    if (!status)
        status = wh_uart_new(&uart_irq, &uart_end, &m->uart, err);
    if (!status)
        status = wh_rtc_new(&rtc, &m->rtc, err);
    if (!status)
        status = wh_finisher_new(&finisher, &m->finisher, err);
    if (!status && m->config.boot == WH_BOOT_FIRMWARE)
        status = wh_rom_new(&m->rom, err);
    if (status)
        return status;
    map(m, WH_PLIC_BASE, WH_PLIC_SIZE, m->plic);
    map(m, WH_ACLINT_BASE, WH_ACLINT_SIZE, m->aclint);
    map(m, WH_UART_BASE, WH_UART_SIZE, m->uart);
    map(m, WH_RTC_BASE, WH_RTC_SIZE, m->rtc);
    map(m, WH_FINISHER_BASE, WH_FINISHER_SIZE, m->finisher);
    if (m->rom)
        map(m, WH_ROM_BASE, WH_ROM_SIZE, m->rom);
    for (unsigned i = 0; i < WH_VIRTIO_SLOTS; i++) {
        status = wh_empty_slot_new(&m->virtio[i], err);
        if (status)
            return status;
        map(m, WH_VIRTIO_BASE + (uint64_t)i * WH_VIRTIO_MMIO_SIZE, WH_VIRTIO_MMIO_SIZE, m->virtio[i]);
    }
    return WH_OK;
}

static void destroy(wh_device *d)
{
    if (d)
        d->ops->destroy(d);
}

void wh_bus_destroy(wh_machine *m)
{
    for (unsigned i = 0; i < WH_VIRTIO_SLOTS; i++)
        destroy(m->virtio[i]);
    destroy(m->uart);
    destroy(m->rtc);
    destroy(m->finisher);
    destroy(m->rom);
    destroy(m->aclint);
    destroy(m->plic);
}

wh_virtio_env wh_bus_virtio_env(wh_machine *m)
{
    return (wh_virtio_env){&m->ram, irq_of(m, WH_VIRTIO_IRQ + m->slots_used)};
}

int wh_bus_add_virtio(wh_machine *m, wh_device *d, wh_error *err)
{
    if (m->slots_used >= WH_VIRTIO_SLOTS) {
        destroy(d);
        return wh_fail(err, WH_E_FULL, "devices", "all %u virtio slots are used", WH_VIRTIO_SLOTS);
    }
    int status = d->poll_fd >= 0 ? wh_io_watch(m, d, err) : WH_OK;
    if (status) {
        destroy(d);
        return status;
    }
    for (unsigned i = 0; i < m->regions; i++)
        if (m->region[i].device == m->virtio[m->slots_used])
            m->region[i].device = d;
    destroy(m->virtio[m->slots_used]);
    m->virtio[m->slots_used++] = d;
    return WH_OK;
}

static const wh_region *find(const wh_machine *m, uint64_t pa, unsigned size)
{
    for (unsigned i = 0; i < m->regions; i++) {
        uint64_t offset = pa - m->region[i].base;
        if (offset < m->region[i].size)
            return size <= m->region[i].size - offset ? &m->region[i] : NULL;
    }
    return NULL;
}

int wh_bus_read(void *ctx, wh_hart *h, uint64_t pa, unsigned size, uint64_t *value)
{
    (void)h;
    wh_machine *m = ctx;
    const wh_region *r = find(m, pa, size);
    if (!r)
        return -1;
    pthread_mutex_lock(&m->lock);
    int fault = r->device->ops->read(r->device, pa - r->base, size, value);
    pthread_mutex_unlock(&m->lock);
    return fault;
}

int wh_bus_write(void *ctx, wh_hart *h, uint64_t pa, unsigned size, uint64_t value)
{
    (void)h;
    wh_machine *m = ctx;
    const wh_region *r = find(m, pa, size);
    if (!r)
        return -1;
    pthread_mutex_lock(&m->lock);
    int fault = r->device->ops->write(r->device, pa - r->base, size, value);
    pthread_mutex_unlock(&m->lock);
    return fault;
}

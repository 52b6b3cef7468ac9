/* The SBI that is built in for direct boot: RISC-V SBI 2.0 BASE, TIME, IPI, RFENCE, SRST, DBCN and the legacy calls
 * that early consoles use; HSM is in hsm.c. Runs on the calling hart's thread between two of its instructions. */
#include "board/machine.h"

#include <sched.h>

#define EXT_BASE         0x10u
#define EXT_TIME         0x54494d45u
#define EXT_IPI          0x735049u
#define EXT_RFENCE       0x52464e43u
#define EXT_HSM          0x48534du
#define EXT_SRST         0x53525354u
#define EXT_DBCN         0x4442434eu
#define LEGACY_SET_TIMER 0u
#define LEGACY_PUTCHAR   1u
#define LEGACY_GETCHAR   2u
#define LEGACY_SHUTDOWN  8u

#define ERR_FAILED        (-1)
#define ERR_NOT_SUPPORTED (-2)
#define ERR_INVALID_PARAM (-3)

#define SPEC_VERSION 0x02000000u
#define IMPL_ID      0x5748u /* "WH"; not registered */
#define IMPL_VERSION 1u
#define SSIP_BIT     1u
#define A0           10u
#define CHUNK        512u

struct reply {
    int64_t error;
    uint64_t value;
};

static uint64_t arg(const wh_board_hart *h, unsigned i)
{
    return wh_hart_get_x(h->cpu, A0 + i);
}

static bool known(uint64_t ext)
{
    return ext == EXT_BASE || ext == EXT_TIME || ext == EXT_IPI || ext == EXT_RFENCE || ext == EXT_HSM ||
           ext == EXT_SRST || ext == EXT_DBCN || ext == LEGACY_SET_TIMER || ext == LEGACY_PUTCHAR ||
           ext == LEGACY_GETCHAR || ext == LEGACY_SHUTDOWN;
}

static struct reply base_call(wh_board_hart *h, uint64_t fid)
{
    switch (fid) {
    case 0:
        return (struct reply){0, SPEC_VERSION};
    case 1:
        return (struct reply){0, IMPL_ID};
    case 2:
        return (struct reply){0, IMPL_VERSION};
    case 3:
        return (struct reply){0, known(arg(h, 0))};
    case 4: /* mvendorid, marchid, mimpid: what the hart's CSRs read */
    case 5:
    case 6:
        return (struct reply){0, 0};
    default:
        return (struct reply){ERR_NOT_SUPPORTED, 0};
    }
}

/* The harts that (mask, base) names, as a mask of this machine's harts; false when one does not exist. */
static bool select_harts(const wh_machine *m, uint64_t mask, uint64_t base, uint64_t *selected)
{
    uint64_t all = m->config.harts == 64 ? ~0ull : (1ull << m->config.harts) - 1;
    if (base == UINT64_MAX) {
        *selected = all;
        return true;
    }
    if (base >= m->config.harts)
        return false;
    *selected = mask << base;
    return *selected >> base == mask && !(*selected & ~all);
}

static struct reply ipi_call(wh_board_hart *h, uint64_t fid)
{
    uint64_t targets;
    if (fid)
        return (struct reply){ERR_NOT_SUPPORTED, 0};
    if (!select_harts(h->machine, arg(h, 0), arg(h, 1), &targets))
        return (struct reply){ERR_INVALID_PARAM, 0};
    for (; targets; targets &= targets - 1) {
        wh_board_hart *t = &h->machine->hart[__builtin_ctzll(targets)];
        wh_hart_irq(t->cpu, SSIP_BIT, true);
        wh_hart_wake(t);
    }
    return (struct reply){0, 0};
}

/* A hart that is not executing fences before its next instruction, so that only executing ones are waited for. The
 * caller itself counts as not executing: two harts that fence each other do not wait for one another. */
static void await_fences(wh_machine *m, uint64_t targets)
{
    atomic_thread_fence(memory_order_seq_cst);
    for (uint64_t t = targets; t; t &= t - 1) {
        wh_board_hart *h = &m->hart[__builtin_ctzll(t)];
        while (atomic_load(&h->executing) && !wh_hart_fences_done(h->cpu))
            sched_yield();
    }
}

enum { REMOTE_FENCE_I = 0, REMOTE_SFENCE_VMA = 1, REMOTE_SFENCE_VMA_ASID = 2 };

static struct reply rfence_call(wh_board_hart *h, uint64_t fid)
{
    uint64_t targets;
    if (fid > REMOTE_SFENCE_VMA_ASID) /* the rest is for hypervisors */
        return (struct reply){ERR_NOT_SUPPORTED, 0};
    if (!select_harts(h->machine, arg(h, 0), arg(h, 1), &targets))
        return (struct reply){ERR_INVALID_PARAM, 0};
    uint32_t asid = fid == REMOTE_SFENCE_VMA_ASID ? (uint32_t)(arg(h, 4) & 0xffff) : WH_ANY_ASID;
    for (uint64_t t = targets; t; t &= t - 1) {
        wh_hart *target = h->machine->hart[__builtin_ctzll(t)].cpu;
        if (fid == REMOTE_FENCE_I)
            wh_hart_request_fence(target, WH_FENCE_I);
        else
            wh_hart_request_fence_range(target, arg(h, 2), arg(h, 3), asid);
    }
    await_fences(h->machine, targets);
    return (struct reply){0, 0};
}

static struct reply srst_call(wh_board_hart *h, uint64_t fid)
{
    wh_machine *m = h->machine;
    uint64_t type = arg(h, 0), reason = arg(h, 1);
    if (fid)
        return (struct reply){ERR_NOT_SUPPORTED, 0};
    if (type > 2 || reason > 1)
        return (struct reply){ERR_INVALID_PARAM, 0};
    if (type == 0)
        wh_events_end(&m->events, WH_EV_POWEROFF, (uint32_t)reason,
                      reason ? "the guest reported a system failure" : "");
    else
        wh_events_end(&m->events, WH_EV_REBOOT, 0, "");
    wh_run_halt(m);
    return (struct reply){0, 0};
}

static struct reply console_write(wh_board_hart *h, uint64_t len, uint64_t pa)
{
    wh_machine *m = h->machine;
    uint64_t n = len < CHUNK ? len : CHUNK; /* the caller repeats; our stay outside guest code is bounded */
    const uint8_t *from = wh_ram_has(&m->ram, pa, len) ? wh_ram_at(&m->ram, pa, n) : NULL;
    if (!from)
        return (struct reply){ERR_INVALID_PARAM, 0};
    wh_channel_end end = wh_channel_device_end(&m->channel[WH_CH_UART]);
    end.output(end.ctx, from, n);
    return (struct reply){0, n};
}

/* Through the UART, which is where input waits: firmware has no other console either. */
static size_t take_input(wh_machine *m, uint8_t *to, size_t cap)
{
    enum { RBR = 0, LSR = 5, LSR_DR = 1 };
    uint64_t status, byte;
    size_t n = 0;
    pthread_mutex_lock(&m->lock);
    m->uart->ops->poll(m->uart);
    while (n < cap && !m->uart->ops->read(m->uart, LSR, 1, &status) && status & LSR_DR &&
           !m->uart->ops->read(m->uart, RBR, 1, &byte))
        to[n++] = (uint8_t)byte;
    pthread_mutex_unlock(&m->lock);
    return n;
}

static struct reply console_read(wh_board_hart *h, uint64_t len, uint64_t pa)
{
    wh_machine *m = h->machine;
    uint64_t most = len < CHUNK ? len : CHUNK;
    uint8_t *to = wh_ram_has(&m->ram, pa, len) ? wh_ram_at(&m->ram, pa, most) : NULL;
    if (!to)
        return (struct reply){ERR_INVALID_PARAM, 0};
    size_t n = take_input(m, to, most);
    wh_ram_mark_dirty_range(&m->ram, pa, n);
    return (struct reply){0, n};
}

static void put_byte(wh_machine *m, uint8_t byte)
{
    wh_channel_end end = wh_channel_device_end(&m->channel[WH_CH_UART]);
    end.output(end.ctx, &byte, 1);
}

static struct reply dbcn_call(wh_board_hart *h, uint64_t fid)
{
    if (fid < 2 && arg(h, 2)) /* the high half of an address: beyond all memory */
        return (struct reply){ERR_INVALID_PARAM, 0};
    switch (fid) {
    case 0:
        return console_write(h, arg(h, 0), arg(h, 1));
    case 1:
        return console_read(h, arg(h, 0), arg(h, 1));
    case 2:
        put_byte(h->machine, (uint8_t)arg(h, 0));
        return (struct reply){0, 0};
    default:
        return (struct reply){ERR_NOT_SUPPORTED, 0};
    }
}

/* Legacy calls return one value in a0 and leave a1 alone. */
static bool legacy_call(wh_board_hart *h, uint64_t ext)
{
    wh_machine *m = h->machine;
    uint8_t byte;
    int64_t result = 0;
    switch (ext) {
    case LEGACY_SET_TIMER:
        wh_hart_set_stimecmp(h->cpu, arg(h, 0));
        break;
    case LEGACY_PUTCHAR:
        put_byte(m, (uint8_t)arg(h, 0));
        break;
    case LEGACY_GETCHAR:
        result = take_input(m, &byte, 1) ? byte : -1;
        break;
    case LEGACY_SHUTDOWN:
        wh_events_end(&m->events, WH_EV_POWEROFF, 0, "");
        wh_run_halt(m);
        break;
    default:
        return false;
    }
    wh_hart_set_x(h->cpu, A0, (uint64_t)result);
    return true;
}

void wh_sbi_call(wh_board_hart *h)
{
    uint64_t ext = arg(h, 7), fid = arg(h, 6);
    struct reply r = {ERR_NOT_SUPPORTED, 0};
    if (legacy_call(h, ext))
        return;
    switch (ext) {
    case EXT_BASE:
        r = base_call(h, fid);
        break;
    case EXT_TIME:
        if (fid == 0) {
            wh_hart_set_stimecmp(h->cpu, arg(h, 0));
            r.error = 0;
        }
        break;
    case EXT_IPI:
        r = ipi_call(h, fid);
        break;
    case EXT_RFENCE:
        r = rfence_call(h, fid);
        break;
    case EXT_HSM:
        wh_hsm_call(h, fid, &r.error, &r.value);
        break;
    case EXT_SRST:
        r = srst_call(h, fid);
        break;
    case EXT_DBCN:
        r = dbcn_call(h, fid);
        break;
    default:
        break;
    }
    wh_hart_set_x(h->cpu, A0, (uint64_t)r.error);
    wh_hart_set_x(h->cpu, A0 + 1, r.value);
}

/* SBI HSM: hart state management (RISC-V SBI 2.0, chapter 9). States are guarded by the board lock; a hart changes from
 * START_PENDING and SUSPENDED to STARTED only on its own thread. */
#include "board/machine.h"

#define ERR_NOT_SUPPORTED     (-2)
#define ERR_INVALID_PARAM     (-3)
#define ERR_INVALID_ADDRESS   (-5)
#define ERR_ALREADY_AVAILABLE (-6)

#define SUSPEND_RETENTIVE     0u
#define SUSPEND_NON_RETENTIVE 0x80000000u

static uint64_t arg(const wh_board_hart *h, unsigned i)
{
    return wh_hart_get_x(h->cpu, 10 + i);
}

static bool executable(const wh_machine *m, uint64_t pa)
{
    return !(pa & 1) && wh_ram_at(&m->ram, pa, 2);
}

static int64_t start(wh_machine *m, uint64_t index, uint64_t pc, uint64_t opaque)
{
    if (index >= m->config.harts)
        return ERR_INVALID_PARAM;
    if (!executable(m, pc))
        return ERR_INVALID_ADDRESS;
    wh_board_hart *t = &m->hart[index];
    if (t->hsm != WH_HSM_STOPPED)
        return ERR_ALREADY_AVAILABLE;
    t->start_pc = pc;
    t->start_opaque = opaque;
    t->hsm = WH_HSM_START_PENDING;
    wh_hart_wake(t);
    return 0;
}

static int64_t suspend(wh_board_hart *h, uint64_t type, uint64_t pc, uint64_t opaque)
{
    if (type != SUSPEND_RETENTIVE && type != SUSPEND_NON_RETENTIVE)
        return type >> 32 || (type & 0x7fffffffu) < 0x10000000u ? ERR_INVALID_PARAM : ERR_NOT_SUPPORTED;
    h->resume_restarts = type == SUSPEND_NON_RETENTIVE;
    if (h->resume_restarts && !executable(h->machine, pc))
        return ERR_INVALID_ADDRESS;
    h->start_pc = pc;
    h->start_opaque = opaque;
    h->hsm = WH_HSM_SUSPENDED;
    return 0;
}

void wh_hsm_call(wh_board_hart *h, uint64_t fid, int64_t *error, uint64_t *value)
{
    wh_machine *m = h->machine;
    *error = 0;
    pthread_mutex_lock(&m->lock);
    switch (fid) {
    case 0:
        *error = start(m, arg(h, 0), arg(h, 1), arg(h, 2));
        break;
    case 1:
        h->hsm = WH_HSM_STOPPED;
        break;
    case 2:
        if (arg(h, 0) < m->config.harts)
            *value = m->hart[arg(h, 0)].hsm;
        else
            *error = ERR_INVALID_PARAM;
        break;
    case 3:
        *error = suspend(h, arg(h, 0) & 0xffffffffu, arg(h, 1), arg(h, 2));
        break;
    default:
        *error = ERR_NOT_SUPPORTED;
        break;
    }
    pthread_mutex_unlock(&m->lock);
}

bool wh_hsm_advance(wh_board_hart *h, uint64_t *until)
{
    wh_machine *m = h->machine;
    *until = UINT64_MAX;
    pthread_mutex_lock(&m->lock);
    if (h->hsm == WH_HSM_START_PENDING ||
        (h->hsm == WH_HSM_SUSPENDED && h->resume_restarts && wh_hart_runnable(h->cpu))) {
        wh_hart_enter_supervisor(h->cpu, h->start_pc, h->start_opaque);
        h->hsm = WH_HSM_STARTED;
    } else if (h->hsm == WH_HSM_SUSPENDED) {
        *until = wh_hart_next_timer(h->cpu);
        if (wh_hart_runnable(h->cpu) && !h->resume_restarts)
            h->hsm = WH_HSM_STARTED;
    }
    bool run = h->hsm == WH_HSM_STARTED;
    pthread_mutex_unlock(&m->lock);
    return run;
}

bool wh_hsm_step(wh_board_hart *h)
{
    uint32_t seq = atomic_load(&h->wake);
    uint64_t until;
    bool run = wh_hsm_advance(h, &until);
    if (!run && atomic_load(&h->machine->go))
        wh_hart_sleep(h, seq, until, UINT64_MAX);
    return run;
}

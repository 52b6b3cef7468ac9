/* board: one machine with QEMU's `virt` memory map. Its public face is the machine part of api.cdef; this header adds
 * what only C needs (csrc/main and tests).
 *
 *   0x00001000 reset vector (machines with firmware)
 *   0x00100000 test finisher   0x00101000 RTC (irq 11)   0x02000000 ACLINT   0x0c000000 PLIC   0x10000000 UART (irq 10)
 *   0x10001000 + 0x1000 * i    virtio-mmio slot i (irq 1 + i), eight of them: console, rng, then what is added
 *   0x80000000 RAM */
#ifndef WH_BOARD_H
#define WH_BOARD_H

#include "base/base.h"
#include "cpu/cpu.h"
#include "cpu/debug.h"

/* For the tools around the machine: only while it is paused, stopped by a debugger, halted or not started. */
wh_hart *wh_machine_hart(wh_machine *m, unsigned index);
wh_ram *wh_machine_ram(wh_machine *m);

/* A machine with config.icount may be driven by the caller's thread: wh_icount_start instead of wh_machine_start, then
 * wh_icount_run as often as wanted, until the machine's count of steps (cpu.h, of all harts) is `until`, exactly. */
enum wh_icount_stop {
    WH_ICOUNT_REACHED,
    WH_ICOUNT_IDLE, /* nothing will happen before input comes from outside */
    WH_ICOUNT_ENDED /* an event says how; or it is paused */
};
int wh_icount_start(wh_machine *m, wh_error *err);
enum wh_icount_stop wh_icount_run(wh_machine *m, uint64_t until);
uint64_t wh_icount_steps(const wh_machine *m);
/* Two machines that are in the same state (registers, devices, time, RAM) have the same digest, no matter what they ran
 * on. The machine is paused, or driven by the caller. */
int wh_machine_digest(wh_machine *m, uint8_t out[16], wh_error *err);
/* Give back all that an idle machine does (idle.c), and more, at once: for tests. The same conditions. */
void wh_machine_give_back(wh_machine *m);

/* ---- debugging (debug.c). A machine runs when it is neither paused nor stopped by its debugger, of which there is one
 * at most; its time stands still in both. Any thread; the debugger's own where it says so. */
typedef struct wh_debug_action {
    bool hold; /* the hart stays where it is while others go on */
    wh_debug_step step;
} wh_debug_action;
typedef struct wh_debug_stop_reason {
    unsigned hart;
    wh_debug_hit hit; /* why NONE: no hart has stopped by itself */
    bool ended;       /* the guest is no more; exit_code as in WH_EV_POWEROFF */
    int exit_code;
} wh_debug_stop_reason;

void wh_debug_hold(wh_machine *m);   /* before start: its first instruction waits for wh_debug_go or a detach */
int wh_debug_attach(wh_machine *m);  /* WH_E_EXISTS: there is one already; WH_E_STATE: the machine has ended;
                                        WH_E_UNSUPPORTED: wh_icount_start */
void wh_debug_detach(wh_machine *m); /* forgets points, steps and holds, and goes on */
bool wh_debug_attached(wh_machine *m);
/* The debugger's thread. */
bool wh_debug_stop(wh_machine *m); /* returns when everything stands still; false: the machine has ended */
/* Only when stopped. actions: one per hart. Returns at once; wh_debug_event_fd becomes readable when a hart has met a
 * point or finished its step (then wh_debug_stop waits for the others) or the machine has ended. */
int wh_debug_go(wh_machine *m, const wh_debug_action *actions);
int wh_debug_event_fd(wh_machine *m);                              /* borrowed */
bool wh_debug_take_stop(wh_machine *m, wh_debug_stop_reason *out); /* false: nothing to tell */
wh_debug_points *wh_debug_table(wh_machine *m);                    /* to be changed while stopped */
unsigned wh_debug_hart_count(const wh_machine *m);
const char *wh_debug_hart_state(wh_machine *m, unsigned index); /* its SBI HSM state */
void wh_debug_kill(wh_machine *m);                              /* ends the guest as a power-off with code 137 */

#endif

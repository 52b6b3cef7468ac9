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

/* For the tools around the machine: only while it is paused, halted or not started. */
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

#endif

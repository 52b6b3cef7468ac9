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

#endif

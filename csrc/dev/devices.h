/* The plain devices of the board, at the addresses where QEMU's virt board has them. */
#ifndef WH_DEVICES_H
#define WH_DEVICES_H

#include "dev/dev.h"

#define WH_PLIC_SOURCES  96u /* 1..95 are usable, 0 means none */
#define WH_ACLINT_SIZE   0x10000u
#define WH_PLIC_SIZE     0x600000u
#define WH_UART_SIZE     0x100u
#define WH_RTC_SIZE      0x1000u
#define WH_FINISHER_SIZE 0x1000u
#define WH_ROM_SIZE      0xf000u

/* A bit of a hart's mip, as the board forwards it. */
typedef struct wh_hart_line {
    void (*set)(void *ctx, unsigned hart, unsigned bit, bool level);
    void *ctx;
} wh_hart_line;

/* ACLINT (MSWI, MTIMER) in the SiFive CLINT layout. now: mtime. changed: the earliest deadline moved. */
typedef struct wh_aclint_env {
    wh_hart_line line;
    unsigned harts;
    uint64_t (*now)(void *ctx);
    void (*set_now)(void *ctx, uint64_t mtime);
    void (*changed)(void *ctx);
    void *ctx;
} wh_aclint_env;
int wh_aclint_new(const wh_aclint_env *env, wh_device **out, wh_error *err);
/* mtime at which tick() has something to raise, or UINT64_MAX. */
uint64_t wh_aclint_deadline(const wh_device *d);
void wh_aclint_tick(wh_device *d);

/* PLIC with contexts M, S per hart (context 2h, 2h+1). */
int wh_plic_new(const wh_hart_line *line, unsigned harts, wh_device **out, wh_error *err);
void wh_plic_set_line(wh_device *d, unsigned source, bool level);

/* 16550A with FIFO; transmits at once. poll: the channel has input. */
int wh_uart_new(const wh_irq *irq, const wh_channel_end *channel, wh_device **out, wh_error *err);

/* Goldfish RTC. now_ns: wall time. changed: the alarm moved. */
typedef struct wh_rtc_env {
    wh_irq irq;
    uint64_t (*now_ns)(void *ctx);
    void (*changed)(void *ctx);
    void *ctx;
} wh_rtc_env;
int wh_rtc_new(const wh_rtc_env *env, wh_device **out, wh_error *err);
uint64_t wh_rtc_deadline(const wh_device *d); /* wall nanoseconds, or UINT64_MAX */
void wh_rtc_tick(wh_device *d);

/* SiFive test finisher: the guest asks for the end. */
typedef struct wh_finisher_env {
    void (*poweroff)(void *ctx, unsigned code);
    void (*reboot)(void *ctx);
    void *ctx;
} wh_finisher_env;
int wh_finisher_new(const wh_finisher_env *env, wh_device **out, wh_error *err);

/* The reset vector. set: where it leads, the device tree, and what firmware of the fw_dynamic kind starts next in
 * S-mode (0: nothing). */
int wh_rom_new(wh_device **out, wh_error *err);
void wh_rom_set(wh_device *d, uint64_t entry, uint64_t tree, uint64_t next);

/* A virtio-mmio slot with nothing in it: device id 0. */
int wh_empty_slot_new(wh_device **out, wh_error *err);

#endif

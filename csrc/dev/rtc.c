/* Goldfish RTC (Android emulator's timer device, docs/GOLDFISH-VIRTUAL-HARDWARE.TXT): wall time in nanoseconds, one
 * alarm. A guest that sets the time moves an offset; the host's clock is never touched. */
#include "dev/devices.h"

#include <stdlib.h>

enum {
    TIME_LOW = 0x00, /* reading it latches TIME_HIGH */
    TIME_HIGH = 0x04,
    ALARM_LOW = 0x08, /* writing it arms the alarm */
    ALARM_HIGH = 0x0c,
    IRQ_ENABLED = 0x10,
    CLEAR_ALARM = 0x14,
    ALARM_STATUS = 0x18,
    CLEAR_INTERRUPT = 0x1c
};

struct rtc {
    wh_device dev;
    wh_rtc_env env;
    uint64_t offset; /* guest time minus host time, modulo 2^64 */
    uint64_t alarm;
    uint32_t time_high, alarm_high, set_high;
    bool armed, pending, enabled;
};

static uint64_t guest_now(const struct rtc *c)
{
    return c->env.now_ns(c->env.ctx) + c->offset;
}

static void update(struct rtc *c)
{
    wh_irq_set(&c->env.irq, c->pending && c->enabled);
}

void wh_rtc_tick(wh_device *d)
{
    struct rtc *c = (struct rtc *)d;
    if (c->armed && guest_now(c) >= c->alarm) {
        c->armed = false;
        c->pending = true;
        update(c);
    }
}

uint64_t wh_rtc_deadline(const wh_device *d)
{
    const struct rtc *c = (const struct rtc *)d;
    return c->armed ? c->alarm - c->offset : UINT64_MAX;
}

static int rtc_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    struct rtc *c = (struct rtc *)d;
    *value = 0;
    if (size != 4)
        return -1;
    uint64_t now;
    switch (offset) {
    case TIME_LOW:
        now = guest_now(c);
        c->time_high = (uint32_t)(now >> 32);
        *value = (uint32_t)now;
        break;
    case TIME_HIGH:
        *value = c->time_high;
        break;
    case ALARM_LOW:
        *value = (uint32_t)c->alarm;
        break;
    case ALARM_HIGH:
        *value = (uint32_t)(c->alarm >> 32);
        break;
    case IRQ_ENABLED:
        *value = c->enabled;
        break;
    case ALARM_STATUS:
        *value = c->armed;
        break;
    default:
        break;
    }
    return 0;
}

static void rtc_set(struct rtc *c, uint64_t offset, uint32_t v)
{
    switch (offset) {
    case TIME_LOW: /* written after TIME_HIGH */
        c->offset = ((uint64_t)c->set_high << 32 | v) - c->env.now_ns(c->env.ctx);
        break;
    case TIME_HIGH:
        c->set_high = v;
        break;
    case ALARM_HIGH:
        c->alarm_high = v;
        break;
    case ALARM_LOW:
        c->alarm = (uint64_t)c->alarm_high << 32 | v;
        c->armed = true;
        break;
    case CLEAR_ALARM:
        c->armed = false;
        break;
    case IRQ_ENABLED:
        c->enabled = v & 1;
        break;
    case CLEAR_INTERRUPT:
        c->pending = false;
        break;
    default:
        break;
    }
}

static int rtc_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *c = (struct rtc *)d;
    if (size != 4)
        return -1;
    rtc_set(c, offset, (uint32_t)value);
    wh_rtc_tick(d); /* an alarm in the past rings at once */
    update(c);
    c->env.changed(c->env.ctx);
    return 0;
}

static void rtc_reset(wh_device *d)
{
    struct rtc *c = (struct rtc *)d;
    c->armed = c->pending = c->enabled = false;
    c->alarm = c->time_high = c->alarm_high = c->set_high = 0;
    update(c);
}

static void rtc_save(wh_device *d, wh_writer *w)
{
    struct rtc *c = (struct rtc *)d;
    wh_put_map(w, 8);
    wh_put_kuint(w, "offset", c->offset);
    wh_put_kuint(w, "alarm", c->alarm);
    wh_put_kuint(w, "time_high", c->time_high);
    wh_put_kuint(w, "alarm_high", c->alarm_high);
    wh_put_kuint(w, "set_high", c->set_high);
    wh_put_kuint(w, "armed", c->armed);
    wh_put_kuint(w, "pending", c->pending);
    wh_put_kuint(w, "enabled", c->enabled);
}

static void rtc_load(wh_device *d, wh_reader *r)
{
    struct rtc *c = (struct rtc *)d;
    c->offset = wh_map_uint(r, "offset", r);
    c->alarm = wh_map_uint(r, "alarm", r);
    c->time_high = (uint32_t)wh_map_uint(r, "time_high", r);
    c->alarm_high = (uint32_t)wh_map_uint(r, "alarm_high", r);
    c->set_high = (uint32_t)wh_map_uint(r, "set_high", r);
    c->armed = wh_map_uint(r, "armed", r) != 0;
    c->pending = wh_map_uint(r, "pending", r) != 0;
    c->enabled = wh_map_uint(r, "enabled", r) != 0;
    update(c);
    c->env.changed(c->env.ctx);
}

static void rtc_destroy(wh_device *d)
{
    free(d);
}

static const wh_device_ops rtc_ops = {
    .name = "rtc",
    .read = rtc_read,
    .write = rtc_write,
    .reset = rtc_reset,
    .save = rtc_save,
    .load = rtc_load,
    .destroy = rtc_destroy,
};

int wh_rtc_new(const wh_rtc_env *env, wh_device **out, wh_error *err)
{
    struct rtc *c = calloc(1, sizeof *c);
    if (!c)
        return wh_fail(err, WH_E_NOMEM, "rtc", "no memory");
    c->dev = (wh_device){&rtc_ops, -1};
    c->env = *env;
    *out = &c->dev;
    return WH_OK;
}

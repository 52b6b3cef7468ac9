/* SiFive test finisher: one register; what is written ends the machine. And the virtio-mmio slot with nothing in it. */
#include "dev/devices.h"

#include <stdlib.h>

#define FAIL  0x3333u
#define PASS  0x5555u
#define RESET 0x7777u

struct finisher {
    wh_device dev;
    wh_finisher_env env;
};

static int finisher_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    (void)d, (void)offset, (void)size;
    *value = 0;
    return 0;
}

static int finisher_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    struct finisher *f = (struct finisher *)d;
    if (offset || size == 1)
        return 0;
    switch (value & 0xffff) {
    case FAIL:
        f->env.poweroff(f->env.ctx, value >> 16 & 0xffff);
        break;
    case PASS:
        f->env.poweroff(f->env.ctx, 0);
        break;
    case RESET:
        f->env.reboot(f->env.ctx);
        break;
    default:
        break;
    }
    return 0;
}

static void stateless_reset(wh_device *d)
{
    (void)d;
}

static void stateless_save(wh_device *d, wh_writer *w)
{
    (void)d;
    wh_put_map(w, 0);
}

static void stateless_load(wh_device *d, wh_reader *r)
{
    (void)d, (void)r;
}

static void stateless_destroy(wh_device *d)
{
    free(d);
}

static const wh_device_ops finisher_ops = {
    .name = "finisher",
    .read = finisher_read,
    .write = finisher_write,
    .reset = stateless_reset,
    .save = stateless_save,
    .load = stateless_load,
    .destroy = stateless_destroy,
};

int wh_finisher_new(const wh_finisher_env *env, wh_device **out, wh_error *err)
{
    struct finisher *f = calloc(1, sizeof *f);
    if (!f)
        return wh_fail(err, WH_E_NOMEM, "finisher", "no memory");
    f->dev = (wh_device){&finisher_ops, -1};
    f->env = *env;
    *out = &f->dev;
    return WH_OK;
}

static int empty_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    (void)d;
    *value = 0;
    if (size == 4 && offset == 0)
        *value = 0x74726976; /* "virt" */
    else if (size == 4 && offset == 4)
        *value = 2;
    return 0;
}

static int empty_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    (void)d, (void)offset, (void)size, (void)value;
    return 0;
}

static const wh_device_ops empty_ops = {
    .name = "empty",
    .read = empty_read,
    .write = empty_write,
    .reset = stateless_reset,
    .save = stateless_save,
    .load = stateless_load,
    .destroy = stateless_destroy,
};

int wh_empty_slot_new(wh_device **out, wh_error *err)
{
    wh_device *d = calloc(1, sizeof *d);
    if (!d)
        return wh_fail(err, WH_E_NOMEM, "virtio", "no memory");
    *d = (wh_device){&empty_ops, -1};
    *out = d;
    return WH_OK;
}

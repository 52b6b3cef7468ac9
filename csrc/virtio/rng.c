/* rng: the virtio entropy device (virtio 1.2, section 5.4). With a seed its bytes are a reproducible stream
 * (SplitMix64, Steele et al., OOPSLA 2014) that goes on across a save and load; without one they are the host's. */
#include "virtio/transport.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define RNG_QUEUE       0u
#define RNG_REQUEST_MAX 4096u /* a larger buffer is answered in part; the driver asks again */
#define DEVICE_ID_RNG   4u

struct rng {
    wh_virtio v;
    bool seeded;
    uint64_t state;
    wh_chain chain;
};

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* len is a multiple of 8. Returns the bytes that are good. */
static uint32_t fill(struct rng *g, uint8_t *out, uint32_t len)
{
    if (!g->seeded) {
        ssize_t n = getrandom(out, len, 0);
        return n < 0 ? 0 : (uint32_t)n;
    }
    for (uint32_t i = 0; i < len; i += 8) {
        uint64_t z = splitmix64(&g->state);
        for (unsigned b = 0; b < 8; b++)
            out[i + b] = (uint8_t)(z >> (8 * b)); /* the same bytes on every host */
    }
    return len;
}

static void serve(struct rng *g)
{
    unsigned budget = g->v.queue[RNG_QUEUE].num; /* another hart can refill the queue for ever */
    while (budget-- > 0 && wh_virtio_pop(&g->v, RNG_QUEUE, &g->chain)) {
        uint8_t bytes[RNG_REQUEST_MAX];
        if (g->chain.in_bytes == 0) {
            wh_virtio_break(&g->v, "entropy request with nothing to write to");
            return;
        }
        uint32_t want = g->chain.in_bytes < sizeof bytes ? g->chain.in_bytes : (uint32_t)sizeof bytes;
        uint32_t got = fill(g, bytes, (want + 7) & ~7u);
        got = wh_chain_write(&g->chain, g->v.ram, 0, bytes, got < want ? got : want);
        wh_virtio_push(&g->v, RNG_QUEUE, &g->chain, got);
    }
    wh_virtio_signal(&g->v, RNG_QUEUE);
    if (wh_virtio_live(&g->v) && !wh_virtq_idle(&g->v.queue[RNG_QUEUE], g->v.ram))
        wh_virtio_kick(&g->v);
}

static void rng_notify(wh_virtio *v, unsigned queue)
{
    (void)queue;
    serve((struct rng *)v);
}

static void rng_poll(wh_device *d)
{
    serve((struct rng *)d);
}

static void rng_save(wh_virtio *v, wh_writer *w)
{
    const struct rng *g = (const struct rng *)v;
    wh_put_map(w, 2);
    wh_put_kuint(w, "seeded", g->seeded);
    wh_put_kuint(w, "state", g->state);
}

static void rng_load(wh_virtio *v, wh_reader *r)
{
    struct rng *g = (struct rng *)v;
    const wh_reader map = *r;
    g->seeded = wh_map_uint(&map, "seeded", r) != 0;
    g->state = wh_map_uint(&map, "state", r);
    wh_get_skip(r);
}

static void rng_destroy(wh_device *d)
{
    if (d->poll_fd >= 0)
        close(d->poll_fd);
    free(d);
}

static const wh_device_ops RNG_OPS = {
    .name = "virtio-rng",
    .read = wh_virtio_mmio_read,
    .write = wh_virtio_mmio_write,
    .poll = rng_poll,
    .reset = wh_virtio_reset,
    .save = wh_virtio_save,
    .load = wh_virtio_load,
    .destroy = rng_destroy,
};

static const wh_virtio_type RNG_TYPE = {
    .name = "rng",
    .device_id = DEVICE_ID_RNG,
    .queues = 1,
    .queue_max = 64,
    .notify = rng_notify,
    .save = rng_save,
    .load = rng_load,
};

int wh_virtio_rng_new(const wh_virtio_env *env, uint64_t seed, wh_device **out, wh_error *err)
{
    *out = NULL;
    struct rng *g = calloc(1, sizeof *g);
    if (!g)
        return wh_fail(err, WH_E_NOMEM, "rng", "out of memory");
    g->v.device = (wh_device){&RNG_OPS, -1};
    wh_virtio_init(&g->v, &RNG_TYPE, env, 0);
    g->seeded = seed != 0;
    g->state = seed;
    int status = wh_virtio_kick_new(&g->v, err);
    if (status != WH_OK) {
        rng_destroy(&g->v.device);
        return status;
    }
    *out = &g->v.device;
    return WH_OK;
}

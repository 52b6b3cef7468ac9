/* Byte channels between devices and the outside: the last 64 KiB of output, and input that waits for the device.
 *
 * A console must never hold the guest up, so its oldest output goes when nobody has read it. The agent's channel
 * carries answers that are worthless with a hole in them: as soon as a reader says how far it is
 * (wh_machine_channel_consumed), what it has not read stays, and the device keeps what does not fit until the reader
 * has gone on. */
#include "board/machine.h"

#include <stdlib.h>
#include <string.h>

int wh_channel_init(wh_channel *c, wh_machine *m, unsigned id)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    c->id = id;
    c->machine = m;
    c->consumed = c->consumed_next = UINT64_MAX;
    c->output = malloc(WH_CHANNEL_BYTES);
    c->input = malloc(WH_CHANNEL_BYTES);
    return c->output && c->input ? WH_OK : WH_E_NOMEM;
}

void wh_channel_destroy(wh_channel *c)
{
    if (!c->machine)
        return;
    free(c->output);
    free(c->input);
    pthread_mutex_destroy(&c->lock);
    c->machine = NULL;
}

static void ring_put(uint8_t *ring, uint64_t at, const uint8_t *data, size_t len)
{
    size_t start = at % WH_CHANNEL_BYTES, first = WH_CHANNEL_BYTES - start;
    first = first < len ? first : len;
    memcpy(ring + start, data, first);
    memcpy(ring, data + first, len - first);
}

static void ring_get(const uint8_t *ring, uint64_t at, uint8_t *data, size_t len)
{
    size_t start = at % WH_CHANNEL_BYTES, first = WH_CHANNEL_BYTES - start;
    first = first < len ? first : len;
    memcpy(data, ring + start, first);
    memcpy(data + first, ring, len - first);
}

/* How many more bytes may be written now. Lock held. */
static uint64_t room_for_output(const wh_channel *c)
{
    return c->consumed == UINT64_MAX ? UINT64_MAX : WH_CHANNEL_BYTES - (c->written - c->consumed);
}

static size_t device_output(void *ctx, const uint8_t *data, size_t len)
{
    wh_channel *c = ctx;
    pthread_mutex_lock(&c->lock);
    uint64_t room = room_for_output(c);
    if (len > room) {
        len = room;
        c->refused = true;
    }
    size_t skip = len > WH_CHANNEL_BYTES ? len - WH_CHANNEL_BYTES : 0;
    ring_put(c->output, c->written + skip, data + skip, len - skip);
    c->written += len;
    pthread_mutex_unlock(&c->lock);
    if (len)
        wh_events_output(&c->machine->events, c->id);
    return len;
}

static size_t device_input(void *ctx, uint8_t *data, size_t cap)
{
    wh_channel *c = ctx;
    pthread_mutex_lock(&c->lock);
    uint64_t n = c->in_shown - c->in_tail;
    n = n < cap ? n : cap;
    ring_get(c->input, c->in_tail, data, n);
    c->in_tail += n;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static size_t device_input_ready(void *ctx)
{
    wh_channel *c = ctx;
    pthread_mutex_lock(&c->lock);
    size_t n = c->in_shown - c->in_tail;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void device_opened(void *ctx, bool open)
{
    wh_channel *c = ctx;
    wh_events_channel(&c->machine->events, c->id, open);
}

wh_channel_end wh_channel_device_end(wh_channel *c)
{
    return (wh_channel_end){c, device_output, device_input, device_input_ready, device_opened};
}

/* Only what the guest has not read yet belongs to the machine; what it wrote belongs to whoever reads. */
void wh_channel_save(wh_channel *c, wh_writer *w)
{
    uint8_t *pending = malloc(WH_CHANNEL_BYTES);
    if (!pending) {
        w->status = WH_E_NOMEM;
        return;
    }
    pthread_mutex_lock(&c->lock);
    size_t n = c->in_head - c->in_tail;
    ring_get(c->input, c->in_tail, pending, n);
    pthread_mutex_unlock(&c->lock);
    wh_put_bin(w, pending, n);
    free(pending);
}

void wh_channel_load(wh_channel *c, wh_reader *r)
{
    size_t n;
    const uint8_t *pending = wh_get_bin(r, &n);
    if (n > WH_CHANNEL_BYTES) {
        wh_reader_fail(r, "input");
        return;
    }
    pthread_mutex_lock(&c->lock);
    c->in_tail = 0;
    c->in_head = c->in_shown = n;
    if (pending)
        memcpy(c->input, pending, n);
    pthread_mutex_unlock(&c->lock);
}

bool wh_channel_admit(wh_channel *c, wh_channel_note_fn note)
{
    uint8_t *bytes = NULL;
    pthread_mutex_lock(&c->lock);
    size_t n = c->in_head - c->in_shown;
    bool consumed = c->consumed != c->consumed_next, room = consumed && c->refused;
    if (n && !(bytes = malloc(n)))
        n = 0; /* it stays where it is */
    if (n)
        ring_get(c->input, c->in_shown, bytes, n);
    c->in_shown += n;
    uint64_t offset = c->consumed = c->consumed_next;
    if (room)
        c->refused = false;
    pthread_mutex_unlock(&c->lock);
    if (n)
        note(c->machine, WH_INPUT_BYTES, c->id, bytes, n, 0);
    if (consumed)
        note(c->machine, WH_INPUT_CONSUMED, c->id, NULL, 0, offset);
    free(bytes);
    return n || room;
}

bool wh_channel_waits(wh_channel *c)
{
    pthread_mutex_lock(&c->lock);
    bool waits = c->in_head != c->in_shown || c->consumed != c->consumed_next;
    pthread_mutex_unlock(&c->lock);
    return waits;
}

void wh_channel_let_in(wh_channel *c, const uint8_t *data, size_t len)
{
    pthread_mutex_lock(&c->lock);
    uint64_t room = WH_CHANNEL_BYTES - (c->in_head - c->in_tail), n = len < room ? len : room;
    ring_put(c->input, c->in_head, data, n);
    c->in_head += n;
    c->in_shown = c->in_head;
    pthread_mutex_unlock(&c->lock);
}

bool wh_channel_let_consume(wh_channel *c, uint64_t offset)
{
    pthread_mutex_lock(&c->lock);
    c->consumed = c->consumed_next = offset;
    bool room = c->refused;
    c->refused = false;
    pthread_mutex_unlock(&c->lock);
    return room;
}

/* The start of the kept window. Lock held. */
static uint64_t kept_from(const wh_channel *c)
{
    return c->written > WH_CHANNEL_BYTES ? c->written - WH_CHANNEL_BYTES : 0;
}

static void wake_device(wh_channel *c)
{
    atomic_fetch_or(&c->machine->input_waiting, 1u << c->id);
    wh_run_kick_io(c->machine);
}

int wh_machine_channel_read(wh_machine *m, uint32_t channel, uint64_t *offset, uint8_t *buf, size_t cap, size_t *got)
{
    *got = 0;
    if (channel >= WH_CHANNELS)
        return WH_E_INVAL;
    wh_channel *c = &m->channel[channel];
    pthread_mutex_lock(&c->lock);
    uint64_t start = kept_from(c);
    if (*offset < start)
        *offset = start;
    if (*offset > c->written)
        *offset = c->written;
    uint64_t n = c->written - *offset;
    n = n < cap ? n : cap;
    ring_get(c->output, *offset, buf, n);
    pthread_mutex_unlock(&c->lock);
    *got = n;
    return WH_OK;
}

int wh_machine_channel_consumed(wh_machine *m, uint32_t channel, uint64_t offset)
{
    if (channel >= WH_CHANNELS)
        return WH_E_INVAL;
    if (channel != WH_CH_AGENT)
        return WH_E_UNSUPPORTED;
    if (m->inputs.playing) /* the recorded reader counts, not this one */
        return WH_OK;
    wh_channel *c = &m->channel[channel];
    pthread_mutex_lock(&c->lock);
    if (offset != UINT64_MAX) {
        offset = offset > kept_from(c) ? offset : kept_from(c);
        offset = offset < c->written ? offset : c->written;
    }
    bool wake = true;
    c->consumed_next = offset;
    if (!wh_icount_on(m)) {
        c->consumed = offset;
        wake = c->refused && room_for_output(c) > 0;
        if (wake)
            c->refused = false;
    }
    pthread_mutex_unlock(&c->lock);
    if (wake)
        wake_device(c);
    return WH_OK;
}

int wh_machine_channel_write(wh_machine *m, uint32_t channel, const uint8_t *data, size_t len, size_t *taken)
{
    *taken = 0;
    if (channel >= WH_CHANNELS)
        return WH_E_INVAL;
    if (m->inputs.playing)
        return WH_E_STATE;
    wh_channel *c = &m->channel[channel];
    pthread_mutex_lock(&c->lock);
    uint64_t room = WH_CHANNEL_BYTES - (c->in_head - c->in_tail);
    uint64_t n = len < room ? len : room;
    ring_put(c->input, c->in_head, data, n);
    c->in_head += n;
    if (!wh_icount_on(m))
        c->in_shown = c->in_head;
    pthread_mutex_unlock(&c->lock);
    *taken = n;
    if (n)
        wake_device(c);
    return n || !len ? WH_OK : WH_E_AGAIN;
}

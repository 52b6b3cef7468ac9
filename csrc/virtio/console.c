/* console: the virtio console device (virtio 1.2, section 5.3) with two ports: port 0 is a console (hvc0), port 1 a
 * plain channel named org.qemu.guest_agent.0, as guest agents look for it.
 *
 * With MULTIPORT the driver asks and we answer over the control queues. What we owe it is kept as bits per port, not as
 * a list of messages, so that a driver that never takes its control messages costs nothing. Both ports count as open on
 * our side from the start: the board's rings take what the guest writes. The console's ring takes everything; the
 * agent's may refuse when its reader is behind: then the buffer stays in the queue, which fills, and the guest's writer
 * sleeps (a generic port's writer does; hvc0's would spin). Input waits in the board's ring until the guest has the
 * port open and has given a buffer. Without MULTIPORT (small firmware) there is port 0 alone, always open. */
#include "virtio/transport.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE_ID_CONSOLE 3u
#define F_MULTIPORT       (1ull << 1)
#define PORTS             2u
#define CONTROL_IN        2u /* queues 0 and 1 are port 0's, 4 and 5 port 1's (5.3.2) */
#define CONTROL_OUT       3u
#define AGENT_NAME        "org.qemu.guest_agent.0"

enum { CONFIG_MAX_PORTS = 4, CONFIG_BYTES = 12 };
enum { PORT_CONSOLE = 0, PORT_AGENT = 1 };
enum {
    EV_DEVICE_READY = 0,
    EV_PORT_ADD = 1,
    EV_PORT_READY = 3,
    EV_CONSOLE_PORT = 4,
    EV_PORT_OPEN = 6,
    EV_PORT_NAME = 7
};
#define OWED(event) (1u << (event))
#define OWED_ALL    (OWED(EV_PORT_ADD) | OWED(EV_CONSOLE_PORT) | OWED(EV_PORT_NAME) | OWED(EV_PORT_OPEN))

struct control {
    uint32_t id;
    uint16_t event, value;
};
#define CONTROL_BYTES 8u
_Static_assert(sizeof(struct control) == CONTROL_BYTES, "wire format");

struct port {
    wh_channel_end end;
    uint32_t owed; /* control messages that the driver has not got yet */
    uint32_t sent; /* bytes of the transmit queue's next chain that the ring has taken already */
    bool open;     /* the guest has it open */
};

struct console {
    wh_virtio v;
    struct port port[PORTS];
    wh_chain chain;
};

static unsigned in_queue(unsigned port)
{
    return port == 0 ? 0 : 2 * port + 2;
}

static void set_open(struct console *c, unsigned port, bool open)
{
    if (c->port[port].open == open)
        return;
    c->port[port].open = open;
    c->port[port].end.opened(c->port[port].end.ctx, open);
}

/* After a turn: what another hart added meanwhile had no notification if the last pop did not find the queue empty. */
static void finish(struct console *c, unsigned queue)
{
    if (!wh_virtio_live(&c->v))
        return;
    wh_virtio_signal(&c->v, queue);
    if (!wh_virtq_idle(&c->v.queue[queue], c->v.ram))
        wh_virtio_kick(&c->v);
}

/* ---- control queues -----------------------------------------------------------------------------------------------
 */

static bool send_control(struct console *c, unsigned port, unsigned event)
{
    if (!wh_virtio_pop(&c->v, CONTROL_IN, &c->chain))
        return false;
    struct control msg = {htole32(port), htole16((uint16_t)event), htole16(1)};
    uint8_t bytes[CONTROL_BYTES + sizeof AGENT_NAME];
    uint32_t len = CONTROL_BYTES;
    memcpy(bytes, &msg, CONTROL_BYTES);
    if (event == EV_PORT_NAME) {
        memcpy(bytes + len, AGENT_NAME, sizeof AGENT_NAME - 1); /* the length of the buffer ends the name (5.3.6.2) */
        len += sizeof AGENT_NAME - 1;
    }
    if (c->chain.in_bytes < len) {
        wh_virtio_break(&c->v, "control buffer too short for a message");
        return false;
    }
    wh_chain_write(&c->chain, c->v.ram, 0, bytes, len);
    wh_virtio_push(&c->v, CONTROL_IN, &c->chain, len);
    return true;
}

/* Send what is owed while there are buffers. Event numbers rise in the order that a driver needs them. */
static void pay(struct console *c)
{
    for (unsigned p = 0; p < PORTS; p++) {
        while (c->port[p].owed != 0) {
            unsigned event = (unsigned)__builtin_ctz(c->port[p].owed);
            if (!send_control(c, p, event))
                goto done;
            c->port[p].owed &= c->port[p].owed - 1;
        }
    }
done:
    if (wh_virtio_live(&c->v))
        wh_virtio_signal(&c->v, CONTROL_IN);
}

static void deliver(struct console *c, unsigned port);

static void take_control(struct console *c, const struct control *msg)
{
    uint32_t id = le32toh(msg->id);
    uint16_t event = le16toh(msg->event), value = le16toh(msg->value);
    if (event == EV_DEVICE_READY && value == 1) {
        for (unsigned p = 0; p < PORTS; p++)
            c->port[p].owed |= OWED(EV_PORT_ADD);
        return;
    }
    if (id >= PORTS)
        return; /* about a port that does not exist: nothing to say to it */
    if (event == EV_PORT_READY && value == 1) {
        c->port[id].owed |= OWED(EV_PORT_OPEN);
        c->port[id].owed |= id == PORT_CONSOLE ? OWED(EV_CONSOLE_PORT) : OWED(EV_PORT_NAME);
    } else if (event == EV_PORT_OPEN) {
        set_open(c, id, value != 0);
        deliver(c, id);
    }
}

static void control(struct console *c)
{
    unsigned budget = c->v.queue[CONTROL_OUT].num;
    while (budget-- > 0 && wh_virtio_pop(&c->v, CONTROL_OUT, &c->chain)) {
        struct control msg;
        if (wh_chain_read(&c->chain, 0, &msg, CONTROL_BYTES) != CONTROL_BYTES) {
            wh_virtio_break(&c->v, "control message too short");
            return;
        }
        wh_virtio_push(&c->v, CONTROL_OUT, &c->chain, 0);
        take_control(c, &msg);
    }
    finish(c, CONTROL_OUT);
    pay(c);
}

/* ---- data queues --------------------------------------------------------------------------------------------------
 */

static bool port_open(const struct console *c, unsigned port)
{
    if (wh_virtio_has(&c->v, F_MULTIPORT))
        return c->port[port].open;
    return port == PORT_CONSOLE;
}

/* Outside to guest: fill buffers while there is input. */
static void deliver(struct console *c, unsigned port)
{
    const wh_channel_end *end = &c->port[port].end;
    unsigned queue = in_queue(port);
    unsigned budget = c->v.queue[queue].num;
    while (budget-- > 0 && port_open(c, port) && end->input_ready(end->ctx) > 0) {
        if (!wh_virtio_pop(&c->v, queue, &c->chain))
            break;
        if (c->chain.in_count == 0) {
            wh_virtio_break(&c->v, "console input buffer with nothing to write to");
            return;
        }
        uint32_t written = 0;
        for (unsigned i = 0; i < c->chain.in_count; i++) {
            const wh_segment *s = &c->chain.seg[c->chain.out_count + i];
            size_t n = end->input(end->ctx, s->host, s->len);
            wh_ram_mark_dirty_range(c->v.ram, s->pa, n);
            written += (uint32_t)n;
            if (n < s->len)
                break;
        }
        wh_virtio_push(&c->v, queue, &c->chain, written);
    }
    if (!wh_virtio_live(&c->v))
        return;
    wh_virtio_signal(&c->v, queue);
    if (port_open(c, port) && end->input_ready(end->ctx) > 0 && !wh_virtq_idle(&c->v.queue[queue], c->v.ram))
        wh_virtio_kick(&c->v); /* the budget ended this turn */
}

/* Hand on what the ring has not taken of this chain; false: it took less, and the rest waits. The guest may have
 * changed the chain since it was partly sent; it then gets what it asks for. */
static bool send_chain(const wh_chain *chain, struct port *port)
{
    uint32_t before = 0; /* bytes of the chain in front of segment i */
    for (unsigned i = 0; i < chain->out_count; i++) {
        const wh_segment *s = &chain->seg[i];
        if (port->sent < before + s->len) {
            uint32_t skip = port->sent - before;
            size_t taken = port->end.output(port->end.ctx, s->host + skip, s->len - skip);
            port->sent += (uint32_t)taken;
            if (taken < s->len - skip)
                return false;
        }
        before += s->len;
    }
    port->sent = 0;
    return true;
}

/* Guest to outside. The ring's reader has us polled when a refusal is over, so that nothing is asked for meanwhile. */
static void collect(struct console *c, unsigned port)
{
    unsigned queue = in_queue(port) + 1;
    unsigned budget = c->v.queue[queue].num;
    while (budget-- > 0 && wh_virtio_pop(&c->v, queue, &c->chain)) {
        if (!send_chain(&c->chain, &c->port[port])) {
            wh_virtq_unpop(&c->v.queue[queue], 1, c->chain.descs);
            wh_virtio_signal(&c->v, queue);
            return;
        }
        wh_virtio_push(&c->v, queue, &c->chain, 0);
    }
    finish(c, queue);
}

static void console_notify(wh_virtio *v, unsigned queue)
{
    struct console *c = (struct console *)v;
    unsigned port = queue < 2 ? 0 : queue / 2 - 1;
    if (queue == CONTROL_IN)
        pay(c);
    else if (queue == CONTROL_OUT)
        control(c);
    else if (queue & 1)
        collect(c, port);
    else
        deliver(c, port);
}

static void console_poll(wh_device *d)
{
    struct console *c = (struct console *)d;
    for (unsigned q = 0; q < c->v.queues; q++)
        if (wh_virtio_live(&c->v) && c->v.queue[q].ready)
            console_notify(&c->v, q);
}

/* ---- life ---------------------------------------------------------------------------------------------------------
 */

static void console_reset(wh_virtio *v)
{
    struct console *c = (struct console *)v;
    for (unsigned p = 0; p < PORTS; p++) {
        c->port[p].owed = c->port[p].sent = 0;
        set_open(c, p, false);
    }
}

static void console_save(wh_virtio *v, wh_writer *w)
{
    const struct console *c = (const struct console *)v;
    wh_put_array(w, PORTS);
    for (unsigned p = 0; p < PORTS; p++) {
        wh_put_map(w, 3);
        wh_put_kuint(w, "owed", c->port[p].owed);
        wh_put_kuint(w, "sent", c->port[p].sent);
        wh_put_kuint(w, "open", c->port[p].open);
    }
}

static void console_load(wh_virtio *v, wh_reader *r)
{
    struct console *c = (struct console *)v;
    uint32_t owed[PORTS] = {0}, sent[PORTS] = {0};
    bool open[PORTS] = {false};
    if (wh_get_array(r) != PORTS)
        wh_reader_refuse(r, "console");
    for (unsigned p = 0; p < PORTS; p++) {
        const wh_reader map = *r;
        owed[p] = (uint32_t)wh_map_uint(&map, "owed", r) & OWED_ALL;
        if (wh_map_has(&map, "sent")) /* not in states of before there was back-pressure */
            sent[p] = (uint32_t)wh_map_uint(&map, "sent", r);
        open[p] = wh_map_uint(&map, "open", r) != 0;
        wh_get_skip(r);
    }
    if (r->status != WH_OK)
        return;
    for (unsigned p = 0; p < PORTS; p++) {
        c->port[p].owed = owed[p];
        c->port[p].sent = sent[p];
        set_open(c, p, open[p]);
    }
}

static void console_destroy(wh_device *d)
{
    if (d->poll_fd >= 0)
        close(d->poll_fd);
    free(d);
}

static const wh_device_ops CONSOLE_OPS = {
    .name = "virtio-console",
    .read = wh_virtio_mmio_read,
    .write = wh_virtio_mmio_write,
    .poll = console_poll,
    .reset = wh_virtio_reset,
    .save = wh_virtio_save,
    .load = wh_virtio_load,
    .destroy = console_destroy,
};

static const wh_virtio_type CONSOLE_TYPE = {
    .name = "console",
    .device_id = DEVICE_ID_CONSOLE,
    .queues = 2 + 2 * PORTS,
    .queue_max = 128,
    .notify = console_notify,
    .reset = console_reset,
    .save = console_save,
    .load = console_load,
};

int wh_virtio_console_new(const wh_virtio_env *env, const wh_channel_end *console, const wh_channel_end *agent,
                          wh_device **out, wh_error *err)
{
    *out = NULL;
    struct console *c = calloc(1, sizeof *c);
    if (!c)
        return wh_fail(err, WH_E_NOMEM, "console", "out of memory");
    c->v.device = (wh_device){&CONSOLE_OPS, -1};
    wh_virtio_init(&c->v, &CONSOLE_TYPE, env, F_MULTIPORT);
    c->port[PORT_CONSOLE].end = *console;
    c->port[PORT_AGENT].end = *agent;
    c->v.config[CONFIG_MAX_PORTS] = PORTS;
    c->v.config_len = CONFIG_BYTES;
    int status = wh_virtio_kick_new(&c->v, err);
    if (status != WH_OK) {
        console_destroy(&c->v.device);
        return status;
    }
    *out = &c->v.device;
    return WH_OK;
}

/* The console device: the multiport handshake as a Linux driver does it, data both ways on both ports, waiting input,
 * and a driver that does not play along. */
#include "virtio_guest.h"

#define F_MULTIPORT (1ull << 1)
enum { RX0 = 0, TX0 = 1, CTRL_RX = 2, CTRL_TX = 3, RX1 = 4, TX1 = 5, QUEUES = 6 };
enum { READY = 0, ADD = 1, PORT_READY = 3, CONSOLE_PORT = 4, OPEN = 6, NAME = 7 };

/* The outside of one port. */
struct outside {
    uint8_t out[4096], in[4096];
    size_t out_len, in_len;
    size_t out_cap; /* what it takes before it refuses; more than out holds: everything, the rest is dropped */
    int opens, closes;
};

static size_t on_output(void *ctx, const uint8_t *data, size_t len)
{
    struct outside *o = ctx;
    size_t room = o->out_cap > o->out_len ? o->out_cap - o->out_len : 0, taken = len < room ? len : room;
    len = taken;
    if (len > sizeof o->out - o->out_len)
        len = sizeof o->out - o->out_len;
    memcpy(o->out + o->out_len, data, len);
    o->out_len += len;
    return taken;
}

static size_t on_input(void *ctx, uint8_t *data, size_t cap)
{
    struct outside *o = ctx;
    size_t n = cap < o->in_len ? cap : o->in_len;
    memcpy(data, o->in, n);
    memmove(o->in, o->in + n, o->in_len - n);
    o->in_len -= n;
    return n;
}

static size_t on_input_ready(void *ctx)
{
    return ((struct outside *)ctx)->in_len;
}

static void on_opened(void *ctx, bool open)
{
    struct outside *o = ctx;
    if (open)
        o->opens++;
    else
        o->closes++;
}

static wh_device *make_console(struct guest *g)
{
    struct outside *o = g->user;
    wh_virtio_env env = guest_env(g);
    wh_channel_end end[2];
    wh_device *d = NULL;
    for (unsigned i = 0; i < 2; i++)
        end[i] = (wh_channel_end){&o[i], on_output, on_input, on_input_ready, on_opened};
    CHECK_EQ(wh_virtio_console_new(&env, &end[0], &end[1], &d, NULL), 0);
    return d;
}

static void console_open(struct guest *g, struct outside *o, bool rebirth)
{
    memset(g, 0, sizeof *g);
    memset(o, 0, 2 * sizeof *o);
    o[0].out_cap = o[1].out_cap = SIZE_MAX;
    CHECK_EQ(wh_ram_new(RAM_BYTES, 1, &g->ram, NULL), 0);
    g->user = o;
    g->make = make_console;
    g->next_buffer = BUFFER_AREA;
    g->dev = make_console(g);
    g->rebirth = rebirth;
}

static uint64_t send_bytes(struct guest *g, unsigned queue, const void *data, uint32_t len)
{
    uint64_t off = guest_buffer(g, len);
    memcpy(at(g, off), data, len);
    const struct part p = {off, len, 0};
    uint16_t head = add_chain(g, queue, &p, 1);
    checkpoint(g);
    kick(g, queue);
    expect_used(g, queue, head, 0);
    return off;
}

static void send_control(struct guest *g, uint32_t id, uint16_t event, uint16_t value)
{
    const struct {
        uint32_t id;
        uint16_t event, value;
    } msg = {id, event, value};
    send_bytes(g, CTRL_TX, &msg, 8);
    checkpoint(g);
}

/* Give one buffer on the queue; its notification may already fill it. */
static uint16_t give(struct guest *g, unsigned queue, uint32_t len, uint64_t *off)
{
    *off = guest_buffer(g, len);
    const struct part p = {*off, len, WRITE};
    uint16_t head = add_chain(g, queue, &p, 1);
    checkpoint(g);
    kick(g, queue);
    return head;
}

static void expect_control(struct guest *g, uint32_t id, uint16_t event)
{
    uint64_t off;
    uint16_t head = give(g, CTRL_RX, 64, &off);
    const struct {
        uint32_t id;
        uint16_t event, value;
    } want = {id, event, 1};
    const char *name = event == NAME ? "org.qemu.guest_agent.0" : "";
    expect_used(g, CTRL_RX, head, (uint32_t)(8 + strlen(name)));
    CHECK(memcmp(at(g, off), &want, 8) == 0);
    CHECK(memcmp(at(g, off + 8), name, strlen(name)) == 0);
}

static void handshake(struct guest *g)
{
    guest_start(g, F_MULTIPORT | WH_VIRTIO_F_EVENT_IDX, QUEUES, 16);
    CHECK_EQ(reg_read(g, R_CONFIG + 4), 2); /* max_nr_ports */
    send_control(g, ~0u, READY, 1);
    expect_control(g, 0, ADD);
    expect_control(g, 1, ADD);
    send_control(g, 0, PORT_READY, 1);
    send_control(g, 1, PORT_READY, 1);
    expect_control(g, 0, CONSOLE_PORT);
    expect_control(g, 0, OPEN);
    expect_control(g, 1, OPEN);
    expect_control(g, 1, NAME);
    send_control(g, 0, OPEN, 1);
}

static void expect_input(struct guest *g, unsigned queue, uint16_t head, uint64_t off, const char *text)
{
    expect_used(g, queue, head, (uint32_t)strlen(text));
    CHECK(memcmp(at(g, off), text, strlen(text)) == 0);
}

static void type(struct outside *o, const char *text)
{
    memcpy(o->in + o->in_len, text, strlen(text));
    o->in_len += strlen(text);
}

static void ordinary(bool rebirth)
{
    static struct outside o[2];
    struct guest g;
    console_open(&g, o, rebirth);
    handshake(&g);
    CHECK(o[0].opens > 0 && o[1].opens == 0);

    send_bytes(&g, TX0, "login: ", 7);
    CHECK(o[0].out_len == 7 && memcmp(o[0].out, "login: ", 7) == 0);
    uint64_t off;
    uint16_t head = give(&g, RX0, 64, &off);
    type(&o[0], "root\n");
    dirty_clear(&g);
    g.dev->ops->poll(g.dev);
    expect_input(&g, RX0, head, off, "root\n");
    CHECK(dirty(&g, off));

    /* The agent's port: input waits until someone in the guest opens it. */
    type(&o[1], "{\"execute\":\"guest-ping\"}");
    head = give(&g, RX1, 10, &off);
    g.dev->ops->poll(g.dev);
    expect_no_used(&g, RX1);
    send_control(&g, 1, OPEN, 1);
    CHECK(o[1].opens > 0);
    expect_input(&g, RX1, head, off, "{\"execute\"");
    head = give(&g, RX1, 100, &off); /* the rest comes with the next buffer */
    expect_input(&g, RX1, head, off, ":\"guest-ping\"}");
    send_bytes(&g, TX1, "{\"return\":{}}\n", 14);
    CHECK(o[1].out_len == 14 && memcmp(o[1].out, "{\"return\":{}}\n", 14) == 0);
    int closes = o[1].closes;
    send_control(&g, 1, OPEN, 0);
    CHECK(o[1].closes > closes);
    type(&o[1], "late");
    head = give(&g, RX1, 100, &off);
    expect_no_used(&g, RX1);
    CHECK_EQ(o[1].in_len, 4);
    CHECK_EQ(o[0].out_len, 7);
    guest_close(&g);
}

/* Input over many small buffers arrives whole and in order; a chain of several segments is filled through. */
static void long_input(bool rebirth)
{
    static struct outside o[2];
    struct guest g;
    console_open(&g, o, rebirth);
    handshake(&g);
    for (unsigned i = 0; i < 1000; i++)
        o[0].in[i] = (uint8_t)(i * 11);
    o[0].in_len = 1000;
    for (unsigned done = 0; done < 1000;) {
        uint64_t off = guest_buffer(&g, 37);
        const struct part p[] = {{off, 7, WRITE}, {off + 7, 30, WRITE}};
        uint16_t head = add_chain(&g, RX0, p, 2);
        checkpoint(&g);
        kick(&g, RX0);
        uint32_t n = 1000 - done < 37 ? 1000 - done : 37;
        expect_used(&g, RX0, head, n);
        for (unsigned i = 0; i < n; i++)
            CHECK_EQ(*at(&g, off + i), (uint8_t)((done + i) * 11));
        done += n;
        if (failures)
            break;
    }
    guest_close(&g);
}

/* The agent's reader is behind: buffers stay in the queue, none of their bytes is lost or doubled, and they are used
 * only when the ring has taken them whole. */
static void slow_reader(bool rebirth)
{
    static struct outside o[2];
    struct guest g;
    console_open(&g, &o[0], rebirth);
    handshake(&g);
    send_control(&g, 1, OPEN, 1);
    uint64_t off = guest_buffer(&g, 3000);
    for (unsigned i = 0; i < 3000; i++)
        *at(&g, off + i) = (uint8_t)(i * 7 + (i >> 8));
    o[1].out_cap = 150;
    const struct part chain[2][3] = {{{off, 100, 0}, {off + 100, 100, 0}, {off + 200, 100, 0}},
                                     {{off + 300, 700, 0}, {off + 1000, 1000, 0}, {off + 2000, 1000, 0}}};
    uint16_t heads[2];
    for (unsigned i = 0; i < 2; i++)
        heads[i] = add_chain(&g, TX1, chain[i], 3);
    checkpoint(&g);
    kick(&g, TX1);
    kick(&g, TX1); /* a guest that asks again gets nothing by it */
    CHECK_EQ(o[1].out_len, 150);
    expect_no_used(&g, TX1);
    for (unsigned cap = 200; cap <= 3000; cap += 50) {
        checkpoint(&g);
        o[1].out_cap = cap;
        g.dev->ops->poll(g.dev);
        CHECK_EQ(o[1].out_len, cap);
        if (cap == 300)
            expect_used(&g, TX1, heads[0], 0);
        else if (cap == 3000)
            expect_used(&g, TX1, heads[1], 0);
        else
            expect_no_used(&g, TX1);
    }
    CHECK(memcmp(o[1].out, at(&g, off), 3000) == 0);
    CHECK_EQ(o[0].out_len, 0);

    /* A reset in the middle of a chain: the next one begins at its own first byte. */
    o[1].out_len = 0;
    o[1].out_cap = 10;
    add_chain(&g, TX1, chain[0], 3);
    kick(&g, TX1);
    CHECK_EQ(o[1].out_len, 10);
    reg_write(&g, R_STATUS, 0);
    o[1].out_cap = SIZE_MAX;
    handshake(&g);
    send_bytes(&g, TX1, "fresh", 5);
    CHECK(o[1].out_len == 15 && memcmp(o[1].out + 10, "fresh", 5) == 0);
    guest_close(&g);
}

/* Small firmware knows no MULTIPORT: port 0 just works. */
static void single_port(void)
{
    static struct outside o[2];
    struct guest g;
    console_open(&g, o, true);
    guest_start(&g, 0, 2, 8);
    send_bytes(&g, TX0, "U-Boot", 6);
    CHECK(o[0].out_len == 6);
    uint64_t off;
    uint16_t head = give(&g, RX0, 8, &off);
    type(&o[0], "x");
    g.dev->ops->poll(g.dev);
    expect_input(&g, RX0, head, off, "x");
    guest_close(&g);
}

static void odd_drivers(void)
{
    static struct outside o[2];
    struct guest g;
    console_open(&g, o, false);
    handshake(&g);
    send_control(&g, 2, OPEN, 1); /* ports and events that there are not */
    send_control(&g, UINT32_MAX, PORT_READY, 1);
    send_control(&g, 0, 99, 1);
    send_control(&g, 0, READY, 0); /* the driver failed */
    for (unsigned i = 0; i < 100; i++)
        send_control(&g, 0, READY, 1); /* what is owed is owed once */
    expect_control(&g, 0, ADD);
    expect_control(&g, 1, ADD);
    uint64_t off;
    give(&g, CTRL_RX, 64, &off);
    expect_no_used(&g, CTRL_RX);
    CHECK_EQ(reg_read(&g, R_STATUS), 15);
    int closes = o[0].closes;
    reg_write(&g, R_STATUS, 0); /* a reset closes what was open */
    CHECK_EQ(o[0].closes, closes + 1);

    const struct part stub = {BUFFER_AREA, 7, 0};
    handshake(&g);
    add_chain(&g, CTRL_TX, &stub, 1);
    kick(&g, CTRL_TX);
    expect_broken(&g, "too short");
    handshake(&g);
    send_control(&g, 1, PORT_READY, 1);
    const struct part tiny = {BUFFER_AREA, 8, WRITE}; /* no room for the name */
    add_chain(&g, CTRL_RX, &tiny, 1);
    add_chain(&g, CTRL_RX, &tiny, 1);
    kick(&g, CTRL_RX);
    expect_broken(&g, "control buffer too short");
    handshake(&g);
    type(&o[0], "y");
    add_chain(&g, RX0, &stub, 1); /* nothing to write to */
    kick(&g, RX0);
    expect_broken(&g, "nothing to write to");
    CHECK_EQ(o[0].in_len, 1); /* the byte is not lost */
    guest_close(&g);
}

int main(void)
{
    ordinary(false);
    ordinary(true);
    long_input(false);
    long_input(true);
    slow_reader(false);
    slow_reader(true);
    single_port();
    odd_drivers();
    return report("virtio_console");
}

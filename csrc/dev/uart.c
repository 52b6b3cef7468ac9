/* UART: a 16550A as PC16550D's data sheet tells it. It transmits at once, so that its transmitter is always empty; the
 * baud rate is kept and means nothing. Input waits in the channel and enters the FIFO when there is room, so that no
 * byte is overrun. */
#include "dev/devices.h"

#include <stdlib.h>
#include <string.h>

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
#define IER_RDI     0x01u
#define IER_THRI    0x02u
#define LCR_DLAB    0x80u
#define MCR_OUT2    0x08u
#define MCR_LOOP    0x10u
#define FCR_ENABLE  0x01u
#define FCR_CLEAR_R 0x02u
#define LSR_DR      0x01u
#define LSR_EMPTY   0x60u
#define IIR_NONE    0x01u
#define IIR_THRI    0x02u
#define IIR_RDI     0x04u
#define IIR_TIMEOUT 0x0cu
#define FIFO_SIZE   16u

struct uart {
    wh_device dev;
    wh_irq irq;
    wh_channel_end channel;
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    bool thr_event; /* "transmitter empty" was not yet seen by the driver */
    uint8_t fifo[FIFO_SIZE];
    unsigned used;
};

static unsigned trigger_level(const struct uart *u)
{
    static const uint8_t level[4] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

static uint8_t interrupt_id(const struct uart *u)
{
    if (u->ier & IER_RDI && u->used)
        return u->used >= trigger_level(u) ? IIR_RDI : IIR_TIMEOUT;
    if (u->ier & IER_THRI && u->thr_event)
        return IIR_THRI;
    return IIR_NONE;
}

static void update(struct uart *u)
{
    wh_irq_set(&u->irq, interrupt_id(u) != IIR_NONE);
}

static void refill(struct uart *u)
{
    if (u->mcr & MCR_LOOP)
        return;
    unsigned cap = u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
    if (u->used < cap)
        u->used += (unsigned)u->channel.input(u->channel.ctx, u->fifo + u->used, cap - u->used);
}

static uint8_t receive(struct uart *u)
{
    if (!u->used)
        return 0;
    uint8_t byte = u->fifo[0];
    memmove(u->fifo, u->fifo + 1, --u->used);
    if (!u->used)
        refill(u);
    return byte;
}

static void transmit(struct uart *u, uint8_t byte)
{
    if (!(u->mcr & MCR_LOOP))
        u->channel.output(u->channel.ctx, &byte, 1);
    else if (u->used < FIFO_SIZE)
        u->fifo[u->used++] = byte;
    u->thr_event = true;
}

/* In loop mode the modem inputs are the modem outputs: RTS-CTS, DTR-DSR, OUT1-RI, OUT2-DCD. */
static uint8_t modem_status(const struct uart *u)
{
    if (!(u->mcr & MCR_LOOP))
        return 0xb0; /* DCD, DSR, CTS */
    return (uint8_t)((u->mcr & 2) << 3 | (u->mcr & 1) << 5 | (u->mcr & 4) << 4 | (u->mcr & 8) << 4);
}

static uint8_t read_register(struct uart *u, unsigned reg)
{
    uint8_t id;
    switch (reg) {
    case RBR_THR:
        return u->lcr & LCR_DLAB ? u->dll : receive(u);
    case IER:
        return u->lcr & LCR_DLAB ? u->dlm : u->ier;
    case IIR_FCR:
        id = interrupt_id(u);
        if (id == IIR_THRI) /* reading it acknowledges this one cause */
            u->thr_event = false;
        return (uint8_t)(id | (u->fcr & FCR_ENABLE ? 0xc0 : 0));
    case LCR:
        return u->lcr;
    case MCR:
        return u->mcr;
    case LSR:
        return (uint8_t)(LSR_EMPTY | (u->used ? LSR_DR : 0));
    case MSR:
        return modem_status(u);
    default:
        return u->scr;
    }
}

static int uart_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    struct uart *u = (struct uart *)d;
    *value = 0;
    if (size != 1 || offset > SCR)
        return size == 1 ? 0 : -1;
    *value = read_register(u, (unsigned)offset);
    update(u);
    return 0;
}

static void write_fcr(struct uart *u, uint8_t v)
{
    if ((v ^ u->fcr) & FCR_ENABLE || v & FCR_CLEAR_R)
        u->used = 0;
    u->fcr = v & 0xc9;
    refill(u);
}

static void write_ier(struct uart *u, uint8_t v)
{
    if (v & ~u->ier & IER_THRI) /* enabling it while the transmitter is empty is a new cause */
        u->thr_event = true;
    u->ier = v & 0x0f;
}

static void write_register(struct uart *u, unsigned reg, uint8_t v)
{
    switch (reg) {
    case RBR_THR:
        if (u->lcr & LCR_DLAB)
            u->dll = v;
        else
            transmit(u, v);
        break;
    case IER:
        if (u->lcr & LCR_DLAB)
            u->dlm = v;
        else
            write_ier(u, v);
        break;
    case IIR_FCR:
        write_fcr(u, v);
        break;
    case LCR:
        u->lcr = v;
        break;
    case MCR:
        u->mcr = v & 0x1f;
        refill(u);
        break;
    case SCR:
        u->scr = v;
        break;
    default: /* LSR and MSR are read-only */
        break;
    }
}

static int uart_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    struct uart *u = (struct uart *)d;
    if (size != 1)
        return -1;
    if (offset <= SCR) {
        write_register(u, (unsigned)offset, (uint8_t)value);
        update(u);
    }
    return 0;
}

static void uart_poll(wh_device *d)
{
    struct uart *u = (struct uart *)d;
    refill(u);
    update(u);
}

static void uart_reset(wh_device *d)
{
    struct uart *u = (struct uart *)d;
    u->ier = u->fcr = u->lcr = u->scr = u->dll = u->dlm = 0;
    u->mcr = MCR_OUT2;
    u->thr_event = false;
    u->used = 0;
    update(u);
}

static void uart_save(wh_device *d, wh_writer *w)
{
    struct uart *u = (struct uart *)d;
    wh_put_map(w, 9);
    wh_put_kuint(w, "ier", u->ier);
    wh_put_kuint(w, "fcr", u->fcr);
    wh_put_kuint(w, "lcr", u->lcr);
    wh_put_kuint(w, "mcr", u->mcr);
    wh_put_kuint(w, "scr", u->scr);
    wh_put_kuint(w, "dll", u->dll);
    wh_put_kuint(w, "dlm", u->dlm);
    wh_put_kuint(w, "thr_event", u->thr_event);
    wh_put_kbin(w, "fifo", u->fifo, u->used);
}

static void uart_load(wh_device *d, wh_reader *r)
{
    struct uart *u = (struct uart *)d;
    u->ier = wh_map_uint(r, "ier", r) & 0x0f;
    u->fcr = wh_map_uint(r, "fcr", r) & 0xc9;
    u->lcr = (uint8_t)wh_map_uint(r, "lcr", r);
    u->mcr = wh_map_uint(r, "mcr", r) & 0x1f;
    u->scr = (uint8_t)wh_map_uint(r, "scr", r);
    u->dll = (uint8_t)wh_map_uint(r, "dll", r);
    u->dlm = (uint8_t)wh_map_uint(r, "dlm", r);
    u->thr_event = wh_map_uint(r, "thr_event", r) != 0;
    wh_reader at = wh_map_find(r, "fifo");
    size_t len;
    const uint8_t *bytes = wh_get_bin(&at, &len);
    if (!bytes || len > FIFO_SIZE) {
        wh_reader_fail(r, "fifo");
        return;
    }
    memcpy(u->fifo, bytes, len);
    u->used = (unsigned)len;
    update(u);
}

static void uart_destroy(wh_device *d)
{
    free(d);
}

static const wh_device_ops uart_ops = {
    .name = "uart",
    .read = uart_read,
    .write = uart_write,
    .poll = uart_poll,
    .reset = uart_reset,
    .save = uart_save,
    .load = uart_load,
    .destroy = uart_destroy,
};

int wh_uart_new(const wh_irq *irq, const wh_channel_end *channel, wh_device **out, wh_error *err)
{
    struct uart *u = calloc(1, sizeof *u);
    if (!u)
        return wh_fail(err, WH_E_NOMEM, "uart", "no memory");
    u->dev = (wh_device){&uart_ops, -1};
    u->irq = *irq;
    u->channel = *channel;
    u->mcr = MCR_OUT2;
    *out = &u->dev;
    return WH_OK;
}

/* The log of an icount machine's inputs: what came from outside, and before which turn. With the same machine, boot
 * contents and seed it makes the same run again.
 *
 * A stream of msgpack values. First a map {"wherry-inputs": 1, "seed", "ram_bytes", "harts", "boot", "cpu", "nics"}:
 * what the machine must be. Then one array [turn, steps, kind, index, value] for each input, in order: turn and steps
 * are the machine's counts when it was let in (steps tells a run that has gone another way), kind is enum
 * wh_input_kind, index the channel or NIC, value the bytes, or the offset up to which a channel's reader has read. One
 * kind is different: TIME belongs to the inside of a turn of a paced machine in which nobody could run; its value is
 * the machine's time, in ns, at which something came from outside before the next timer did. Pauses, and when output
 * was read, are no inputs: the guest can't see them.
 *
 * A damaged log is refused before the machine starts; so is one whose tail is cut off. */
#include "board/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 1u
#define LOG_MAX (1u << 30)

static int put_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

static bool has_number(uint64_t kind)
{
    return kind == WH_INPUT_CONSUMED || kind == WH_INPUT_TIME;
}

static void put_header(const wh_machine *m, wh_writer *w)
{
    wh_put_map(w, 7);
    wh_put_kuint(w, "wherry-inputs", VERSION);
    wh_put_kuint(w, "seed", m->config.seed);
    wh_put_kuint(w, "ram_bytes", m->config.ram_bytes);
    wh_put_kuint(w, "harts", m->config.harts);
    wh_put_kuint(w, "boot", m->config.boot);
    wh_put_kuint(w, "cpu", m->config.cpu);
    wh_put_kuint(w, "nics", m->nics);
}

/* A log that can't be written any more is worth nothing: the guest ends with that as its reason. */
void wh_inputs_note(wh_machine *m, enum wh_input_kind kind, unsigned index, const uint8_t *data, size_t len,
                    uint64_t value)
{
    if (m->inputs.fd < 0)
        return;
    wh_writer w;
    wh_writer_init(&w);
    wh_put_array(&w, 5);
    wh_put_uint(&w, m->icount.turns);
    wh_put_uint(&w, m->icount.steps);
    wh_put_uint(&w, kind);
    wh_put_uint(&w, index);
    if (has_number(kind))
        wh_put_uint(&w, value);
    else
        wh_put_bin(&w, data, len);
    if (w.status || put_all(m->inputs.fd, w.data, w.len)) {
        wh_events_end(&m->events, WH_EV_CRASH, 0, "the log of inputs can't be written");
        wh_run_halt(m);
    }
    wh_writer_free(&w);
}

static int check_state(const wh_machine *m, wh_error *err)
{
    if (!wh_icount_on(m))
        return wh_fail(err, WH_E_STATE, "icount", "only a machine with icount has inputs to log");
    if (m->run_state != WH_NEW && m->run_state != WH_READY)
        return wh_fail(err, WH_E_STATE, "machine", "it was started before");
    if (m->inputs.fd >= 0 || m->inputs.playing)
        return wh_fail(err, WH_E_STATE, "inputs", "they are recorded or played back already");
    return WH_OK;
}

int wh_machine_record(wh_machine *m, int fd, wh_error *err)
{
    int status = check_state(m, err);
    if (status)
        return status;
    wh_writer w;
    wh_writer_init(&w);
    put_header(m, &w);
    m->inputs.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    bool bad = w.status || m->inputs.fd < 0 || put_all(m->inputs.fd, w.data, w.len);
    wh_writer_free(&w);
    return bad ? wh_fail(err, WH_E_IO, "inputs", "%s", strerror(errno)) : WH_OK;
}

/* ---- playing back ------------------------------------------------------------------------------------------------ */

struct entry {
    uint64_t turn, steps, kind, index, value;
    const uint8_t *data;
    size_t len;
};

static void get_entry(wh_reader *r, struct entry *e)
{
    *e = (struct entry){0};
    if (wh_get_array(r) != 5)
        wh_reader_fail(r, "entry");
    e->turn = wh_get_uint(r);
    e->steps = wh_get_uint(r);
    e->kind = wh_get_uint_max(r, WH_INPUT_TIME);
    e->index = wh_get_uint(r);
    if (has_number(e->kind))
        e->value = wh_get_uint(r);
    else
        e->data = wh_get_bin(r, &e->len);
}

static bool allowed(const wh_machine *m, const struct entry *e)
{
    switch (e->kind) {
    case WH_INPUT_BYTES:
        return e->index < WH_CHANNELS && e->len > 0 && e->len <= WH_CHANNEL_BYTES;
    case WH_INPUT_CONSUMED:
        return e->index == WH_CH_AGENT;
    case WH_INPUT_TIME:
        return e->index == 0;
    default:
        return e->index < m->nics && e->len > 0 && e->len <= WH_RING_MAX_FRAME;
    }
}

static int check_header(const wh_machine *m, wh_reader map, wh_error *err)
{
    uint64_t version = wh_map_uint(&map, "wherry-inputs", &map);
    const struct {
        const char *key;
        uint64_t here;
    } same[] = {{"seed", m->config.seed},   {"ram_bytes", m->config.ram_bytes},
                {"harts", m->config.harts}, {"boot", m->config.boot},
                {"cpu", m->config.cpu},     {"nics", m->nics}};
    if (!map.status && version != VERSION)
        return wh_fail(err, WH_E_VERSION, "inputs", "version %llu, %u is understood", (unsigned long long)version,
                       VERSION);
    for (size_t i = 0; i < WH_ARRAY_LEN(same); i++) {
        uint64_t there = wh_map_uint(&map, same[i].key, &map);
        if (!map.status && there != same[i].here)
            return wh_fail(err, WH_E_INVAL, same[i].key, "%llu in the log of inputs, %llu in this machine",
                           (unsigned long long)there, (unsigned long long)same[i].here);
    }
    return map.status ? wh_fail(err, WH_E_FORMAT, "inputs", "%s is missing or damaged", map.field) : WH_OK;
}

/* The whole log once, before anything is believed. *r is left at the first entry. */
static int check_log(const wh_machine *m, wh_reader *r, wh_error *err)
{
    wh_reader map = *r;
    wh_get_skip(r);
    if (r->status)
        return wh_fail(err, WH_E_FORMAT, "inputs", "not a log of inputs");
    int status = check_header(m, map, err);
    if (status)
        return status;
    uint64_t turn = 0;
    for (wh_reader at = *r; at.p < at.end;) {
        struct entry e;
        const uint8_t *begin = at.p;
        get_entry(&at, &e);
        if (at.status || !allowed(m, &e) || e.turn < turn)
            return wh_fail(err, WH_E_FORMAT, "inputs", "the log of inputs is damaged at byte %zu",
                           (size_t)(begin - m->inputs.log));
        turn = e.turn;
    }
    return WH_OK;
}

static void look_ahead(wh_inputs *in)
{
    struct entry e = {0};
    wh_reader at = in->at;
    in->pending = at.p < at.end;
    if (in->pending)
        get_entry(&at, &e);
    in->turn = e.turn;
    in->steps = e.steps;
    in->kind = e.kind;
}

static int read_log(wh_inputs *in, int fd, size_t *len, wh_error *err)
{
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > (off_t)LOG_MAX)
        return wh_fail(err, WH_E_INVAL, "inputs", "the log is not a file of 1 byte to 1 GiB");
    *len = (size_t)st.st_size;
    in->log = malloc(*len);
    if (!in->log)
        return wh_fail(err, WH_E_NOMEM, "inputs", "no memory");
    for (size_t at = 0; at < *len;) {
        ssize_t n = pread(fd, in->log + at, *len - at, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return wh_fail(err, WH_E_IO, "inputs", "%s", n ? strerror(errno) : "the log became shorter");
        at += (size_t)n;
    }
    return WH_OK;
}

int wh_machine_replay(wh_machine *m, int fd, wh_error *err)
{
    wh_inputs *in = &m->inputs;
    size_t len = 0;
    int status = check_state(m, err);
    if (status)
        return status;
    status = read_log(in, fd, &len, err);
    if (!status) {
        wh_reader_init(&in->at, in->log, len);
        status = check_log(m, &in->at, err);
    }
    if (status) {
        free(in->log);
        in->log = NULL;
        return status;
    }
    in->playing = true;
    look_ahead(in);
    return WH_OK;
}

bool wh_inputs_play(wh_machine *m, uint32_t *channels)
{
    wh_inputs *in = &m->inputs;
    while (in->pending && in->turn <= m->icount.turns) {
        struct entry e;
        if (in->turn != m->icount.turns || in->steps != m->icount.steps)
            return false;
        if (in->kind == WH_INPUT_TIME)
            return true;
        get_entry(&in->at, &e);
        if (e.kind == WH_INPUT_BYTES) {
            wh_channel_let_in(&m->channel[e.index], e.data, e.len);
            *channels |= 1u << e.index;
        } else if (e.kind == WH_INPUT_CONSUMED) {
            *channels |= wh_channel_let_consume(&m->channel[e.index], e.value) ? 1u << e.index : 0;
        } else {
            (void)wh_virtio_net_let_in(m->nic[e.index], e.data, (uint32_t)e.len);
        }
        look_ahead(in);
    }
    return true;
}

bool wh_inputs_passed(wh_machine *m, uint64_t due, uint64_t *passed)
{
    wh_inputs *in = &m->inputs;
    uint64_t now = wh_icount_ns(m);
    struct entry e;
    if (!in->pending || in->kind != WH_INPUT_TIME || in->turn != m->icount.turns)
        return false;
    wh_reader next = in->at;
    get_entry(&next, &e);
    if (e.value < now || e.value - now >= due) /* a timer comes first, and the entry's time later in this turn */
        return false;
    in->at = next;
    look_ahead(in);
    *passed = e.value - now;
    return true;
}

void wh_inputs_close(wh_machine *m)
{
    if (m->inputs.fd >= 0)
        close(m->inputs.fd);
    free(m->inputs.log);
    m->inputs.fd = -1;
    m->inputs.log = NULL;
    m->inputs.playing = m->inputs.pending = false;
}

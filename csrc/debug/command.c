/* Which packet means what, and what is told of a stop (GDB manual, "Packets", "Stop Reply Packets", "General Query
 * Packets"). */
#include "debug/gdb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void wh_gdb_error(wh_gdb *g, unsigned number)
{
    wh_rsp_clear(&g->out);
    wh_rsp_printf(&g->out, "E%02x", number & 0xff);
}

void wh_gdb_ok(wh_gdb *g)
{
    wh_rsp_text(&g->out, "OK");
}

wh_hart *wh_gdb_hart(wh_gdb *g)
{
    return wh_machine_hart(g->machine, g->general);
}

static void stop_reply(wh_gdb *g, unsigned signal)
{
    wh_rsp_printf(&g->out, "T%02xthread:%x;", signal, g->stopped_by + 1);
}

static void ended_reply(wh_gdb *g, int code)
{
    wh_rsp_printf(&g->out, "W%02x", (unsigned)code & 0xff);
    g->phase = WH_GDB_GONE;
}

static void became_stopped(wh_gdb *g, unsigned hart)
{
    g->phase = WH_GDB_STOPPED;
    g->stopped_by = g->general = g->resume = hart;
}

bool wh_gdb_report(wh_gdb *g)
{
    wh_debug_stop_reason why;
    wh_rsp_clear(&g->out);
    if (!wh_debug_take_stop(g->machine, &why))
        return false;
    if (why.ended) {
        ended_reply(g, why.exit_code);
        return true;
    }
    (void)wh_debug_stop(g->machine); /* the others too */
    became_stopped(g, why.hart);
    stop_reply(g, GDB_SIGTRAP);
    if (why.hit.why == WH_DEBUG_WATCH) {
        const char *kind = why.hit.watch == WH_WATCH_WRITE  ? "watch"
                           : why.hit.watch == WH_WATCH_READ ? "rwatch"
                                                            : "awatch";
        wh_rsp_printf(&g->out, "%s:%llx;", kind, (unsigned long long)why.hit.address);
    }
    return true;
}

void wh_gdb_interrupted(wh_gdb *g)
{
    wh_debug_stop_reason why;
    wh_rsp_clear(&g->out);
    if (!wh_debug_stop(g->machine)) {
        if (wh_debug_take_stop(g->machine, &why) && why.ended)
            ended_reply(g, why.exit_code);
        return;
    }
    if (wh_gdb_report(g))
        return; /* a hart has met a point at the same time */
    became_stopped(g, g->stopped_by);
    stop_reply(g, GDB_SIGINT);
}

static void supported(wh_gdb *g)
{
    wh_rsp_printf(&g->out, "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+", WH_RSP_MAX);
}

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static void features(wh_gdb *g, wh_rsp_in *in)
{
    uint64_t offset, length;
    if (!wh_rsp_word(in, "target.xml:")) {
        wh_gdb_error(g, 0);
        return;
    }
    if (g->description == NULL)
        g->description = wh_gdb_describe(wh_machine_hart(g->machine, 0));
    if (g->description == NULL || !wh_rsp_number(in, &offset) || !wh_rsp_char(in, ',') || !wh_rsp_number(in, &length)) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    size_t all = strlen(g->description);
    size_t from = offset < all ? (size_t)offset : all, left = all - from;
    size_t part = length < left ? (size_t)length : left;
    part = part < WH_RSP_MAX / 2 ? part : WH_RSP_MAX / 2;
    wh_rsp_text(&g->out, part == left ? "l" : "m");
    wh_rsp_bytes(&g->out, g->description + from, part);
}

static void query(wh_gdb *g, wh_rsp_in *in)
{
    if (wh_rsp_word(in, "Supported"))
        supported(g);
    else if (wh_rsp_word(in, "Xfer:features:read:"))
        features(g, in);
    else if (wh_rsp_word(in, "fThreadInfo"))
        wh_gdb_thread_list(g, true);
    else if (wh_rsp_word(in, "sThreadInfo"))
        wh_gdb_thread_list(g, false);
    else if (wh_rsp_word(in, "ThreadExtraInfo,"))
        wh_gdb_thread_info(g, in);
    else if (wh_rsp_word(in, "Attached"))
        wh_rsp_text(&g->out, "1"); /* so that GDB leaves by detaching */
    else if (wh_rsp_word(in, "Symbol::"))
        wh_gdb_ok(g);
    else if (wh_rsp_word(in, "Rcmd,"))
        wh_gdb_monitor(g, in);
    else if (in->at + 1 == in->end && *in->at == 'C')
        wh_rsp_printf(&g->out, "QC%x", g->general + 1);
}

/* Z and z: TYPE,ADDRESS,KIND. Both kinds of breakpoint are the same here: neither touches guest memory. */
static void point(wh_gdb *g, wh_rsp_in *in, bool insert)
{
    static const enum wh_watch watches[] = {WH_WATCH_WRITE, WH_WATCH_READ, WH_WATCH_ACCESS};
    wh_debug_points *p = wh_debug_table(g->machine);
    uint64_t type, address, kind;
    if (!wh_rsp_number(in, &type) || !wh_rsp_char(in, ',') || !wh_rsp_number(in, &address) || !wh_rsp_char(in, ',') ||
        !wh_rsp_number(in, &kind)) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    int status;
    if (type <= 1)
        status =
            insert ? wh_debug_add_break(p, address, (uint32_t)type) : wh_debug_del_break(p, address, (uint32_t)type);
    else if (type <= 4)
        status = insert ? wh_debug_add_watch(p, address, kind, watches[type - 2])
                        : wh_debug_del_watch(p, address, kind, watches[type - 2]);
    else
        return;
    if (status == WH_OK || status == WH_E_NOTFOUND) /* removing what is not there has succeeded */
        wh_gdb_ok(g);
    else
        wh_gdb_error(g, status == WH_E_FULL ? ENOSPC : EINVAL);
}

static void leave(wh_gdb *g, bool kill)
{
    if (kill)
        wh_debug_kill(g->machine);
    wh_gdb_ok(g);
    g->phase = WH_GDB_GONE; /* the end of the connection detaches */
}

static void v_packet(wh_gdb *g, wh_rsp_in *in)
{
    if (wh_rsp_word(in, "Cont?"))
        wh_rsp_text(&g->out, "vCont;c;C;s;S;r");
    else if (wh_rsp_word(in, "Cont"))
        wh_gdb_vcont(g, in);
    else if (wh_rsp_word(in, "Kill"))
        leave(g, true);
}

static void memory_or_register(wh_gdb *g, char name, wh_rsp_in *in)
{
    switch (name) {
    case 'g':
        wh_gdb_read_all(g);
        break;
    case 'G':
        wh_gdb_write_all(g, in);
        break;
    case 'p':
        wh_gdb_read_one(g, in);
        break;
    case 'P':
        wh_gdb_write_one(g, in);
        break;
    case 'm':
        wh_gdb_read_memory(g, in);
        break;
    default:
        wh_gdb_write_memory(g, in, name == 'X');
        break;
    }
}

void wh_gdb_command(wh_gdb *g)
{
    wh_rsp_in in = {(const char *)g->in.data, (const char *)g->in.data + g->in.len};
    char name = in.at < in.end ? *in.at++ : '\0';
    wh_rsp_clear(&g->out);
    switch (name) {
    case '?':
        stop_reply(g, GDB_SIGTRAP);
        break;
    case 'g':
    case 'G':
    case 'p':
    case 'P':
    case 'm':
    case 'M':
    case 'X':
        memory_or_register(g, name, &in);
        break;
    case 'Z':
    case 'z':
        point(g, &in, name == 'Z');
        break;
    case 'H':
        wh_gdb_set_thread(g, &in);
        break;
    case 'T':
        wh_gdb_thread_alive(g, &in);
        break;
    case 'c':
    case 's':
        wh_gdb_resume_packet(g, &in, name == 's');
        break;
    case 'v':
        v_packet(g, &in);
        break;
    case 'q':
        query(g, &in);
        break;
    case 'Q':
        if (wh_rsp_word(&in, "StartNoAckMode")) {
            g->no_ack = true;
            wh_gdb_ok(g);
        }
        break;
    case 'D':
        leave(g, false);
        break;
    case 'k':
        leave(g, true);
        break;
    default:
        break; /* an empty reply: not supported */
    }
}

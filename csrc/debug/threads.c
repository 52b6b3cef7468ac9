/* Harts as threads, and how they go on (GDB manual, "vCont", "qfThreadInfo"). Thread n + 1 is hart n. */
#include "debug/gdb.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { ANY = -1, ALL = -2 }; /* thread 0: whichever; -1: every one */

/* A thread id: a hart's index, ANY or ALL. False: it names none. */
static bool thread(wh_gdb *g, wh_rsp_in *in, int *out)
{
    uint64_t id;
    if (wh_rsp_word(in, "-1")) {
        *out = ALL;
        return true;
    }
    if (!wh_rsp_number(in, &id) || id > wh_debug_hart_count(g->machine))
        return false;
    *out = (int)id - 1;
    return true;
}

void wh_gdb_set_thread(wh_gdb *g, wh_rsp_in *in)
{
    int which;
    bool resume = wh_rsp_char(in, 'c');
    if ((!resume && !wh_rsp_char(in, 'g')) || !thread(g, in, &which)) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    if (resume) {
        g->resume_all = which < 0;
        g->resume = which < 0 ? g->resume : (unsigned)which;
    } else if (which >= 0) {
        g->general = (unsigned)which;
    }
    wh_gdb_ok(g);
}

void wh_gdb_thread_alive(wh_gdb *g, wh_rsp_in *in)
{
    int which;
    if (thread(g, in, &which))
        wh_gdb_ok(g);
    else
        wh_gdb_error(g, ESRCH);
}

void wh_gdb_thread_list(wh_gdb *g, bool first)
{
    unsigned harts = wh_debug_hart_count(g->machine);
    g->listed = first ? 0 : g->listed;
    if (g->listed >= harts) {
        wh_rsp_text(&g->out, "l");
        return;
    }
    for (; g->listed < harts; g->listed++) /* 64 of them fit well */
        wh_rsp_printf(&g->out, "%c%x", g->out.len == 0 ? 'm' : ',', g->listed + 1);
}

void wh_gdb_thread_info(wh_gdb *g, wh_rsp_in *in)
{
    static const char *const levels[] = {"user", "supervisor", "?", "machine"};
    int which;
    if (!thread(g, in, &which) || which < 0) {
        wh_gdb_error(g, ESRCH);
        return;
    }
    char text[64];
    unsigned index = (unsigned)which;
    int n = snprintf(text, sizeof text, "hart %u, %s, %s", index,
                     levels[wh_hart_privilege(wh_machine_hart(g->machine, index)) & 3],
                     wh_debug_hart_state(g->machine, index));
    wh_rsp_hex(&g->out, text, (size_t)n);
}

static void go(wh_gdb *g, const wh_debug_action *actions)
{
    if (wh_debug_go(g->machine, actions) == WH_OK) {
        g->phase = WH_GDB_RUNNING;
        return;
    }
    wh_debug_stop_reason why; /* it has ended under us */
    int code = wh_debug_take_stop(g->machine, &why) && why.ended ? why.exit_code : 0;
    wh_rsp_printf(&g->out, "W%02x", (unsigned)code & 0xff);
    g->phase = WH_GDB_GONE;
}

/* c and s, with an optional address to go on at. */
void wh_gdb_resume_packet(wh_gdb *g, wh_rsp_in *in, bool step)
{
    wh_debug_action actions[WH_MAX_HARTS] = {0};
    uint64_t address;
    if (wh_rsp_number(in, &address))
        wh_hart_set_pc(wh_machine_hart(g->machine, g->resume), address);
    if (step) {
        for (unsigned i = 0; i < wh_debug_hart_count(g->machine); i++)
            actions[i].hold = i != g->resume;
        actions[g->resume].step.on = true;
    }
    go(g, actions);
}

/* One action of vCont, without its thread. False: none that we know. */
static bool action(wh_rsp_in *in, wh_debug_action *out)
{
    uint64_t ignored;
    *out = (wh_debug_action){0};
    if (wh_rsp_char(in, 'c'))
        return true;
    if (wh_rsp_char(in, 's')) {
        out->step.on = true;
        return true;
    }
    if (wh_rsp_char(in, 'r')) {
        out->step.on = true;
        return wh_rsp_number(in, &out->step.first) && wh_rsp_char(in, ',') && wh_rsp_number(in, &out->step.last);
    }
    /* with a signal, which means nothing to a hart */
    out->step.on = wh_rsp_char(in, 'S');
    return (out->step.on || wh_rsp_char(in, 'C')) && wh_rsp_number(in, &ignored);
}

/* vCont;ACTION[:THREAD]... The first action that fits a thread counts; a thread that none fits is held. */
void wh_gdb_vcont(wh_gdb *g, wh_rsp_in *in)
{
    unsigned harts = wh_debug_hart_count(g->machine);
    wh_debug_action actions[WH_MAX_HARTS] = {0}, one;
    bool given[WH_MAX_HARTS] = {false}, any = false;
    while (wh_rsp_char(in, ';')) {
        int which = ALL;
        if (!action(in, &one) || (wh_rsp_char(in, ':') && !thread(g, in, &which))) {
            wh_gdb_error(g, EINVAL);
            return;
        }
        if (which == ANY)
            which = (int)g->stopped_by;
        for (unsigned i = 0; i < harts; i++) {
            if (given[i] || (which != ALL && (unsigned)which != i))
                continue;
            actions[i] = one;
            given[i] = any = true;
        }
    }
    if (!any || in->at != in->end) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    for (unsigned i = 0; i < harts; i++)
        actions[i].hold = !given[i];
    go(g, actions);
}

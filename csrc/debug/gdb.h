/* gdb: the inside of the GDB remote stub. Private to debug/. What Python sees of it is in api.cdef (wh_gdb_*).
 *
 * One thread serves one connection, in all-stop mode: while the machine stands still it answers packets, while the
 * machine runs it waits for a stop or for Ctrl-C. Threads are harts, numbered from 1. Nothing that comes over the
 * connection can do more than what a person at the machine could: read and write its registers and RAM, stop, end it.
 */
#ifndef WH_GDB_H
#define WH_GDB_H

#include "board/board.h"
#include "debug/rsp.h"

#include <pthread.h>

enum { GDB_SIGINT = 2, GDB_SIGTRAP = 5, GDB_SIGKILL = 9 };

struct wh_gdb {
    wh_machine *machine;
    int fd;
    pthread_t thread;
    _Atomic bool ended;

    wh_rsp in;
    wh_rsp_out out;
    uint8_t frame[WH_RSP_FRAME_MAX]; /* the reply that was sent last: sent again when the other side wants it */
    size_t frame_len;
    bool no_ack;

    /* What the packets have settled. */
    unsigned general, resume; /* hart index: of g, m ...; of c and s without vCont */
    bool resume_all;          /* Hc0, Hc-1 */
    bool physical;            /* memory packets name physical addresses */
    unsigned listed;          /* qsThreadInfo: where to go on */
    unsigned stopped_by;      /* hart index of the last stop */
    char *description;        /* target.xml, made when it is first asked for */

    enum {
        WH_GDB_STOPPED,
        WH_GDB_RUNNING, /* the reply to the packet that began it is due when it stops */
        WH_GDB_GONE     /* detached, killed or over: the connection ends after the reply */
    } phase;
};

/* command.c: answer the packet in g->in; the reply is in g->out (empty: not supported), or phase is RUNNING. */
void wh_gdb_command(wh_gdb *g);
/* The stop reply of what the machine has to tell; false: it goes on. */
bool wh_gdb_report(wh_gdb *g);
void wh_gdb_interrupted(wh_gdb *g);
void wh_gdb_error(wh_gdb *g, unsigned number);
void wh_gdb_ok(wh_gdb *g);

/* threads.c: H, T, q*Thread*, vCont, c, s. */
void wh_gdb_set_thread(wh_gdb *g, wh_rsp_in *in);
void wh_gdb_thread_alive(wh_gdb *g, wh_rsp_in *in);
void wh_gdb_thread_list(wh_gdb *g, bool first);
void wh_gdb_thread_info(wh_gdb *g, wh_rsp_in *in);
void wh_gdb_resume_packet(wh_gdb *g, wh_rsp_in *in, bool step);
void wh_gdb_vcont(wh_gdb *g, wh_rsp_in *in);

/* registers.c: g, G, p, P. */
void wh_gdb_read_all(wh_gdb *g);
void wh_gdb_write_all(wh_gdb *g, wh_rsp_in *in);
void wh_gdb_read_one(wh_gdb *g, wh_rsp_in *in);
void wh_gdb_write_one(wh_gdb *g, wh_rsp_in *in);
/* Numbers that target.xml gives registers. */
enum { WH_GDB_PC = 32, WH_GDB_F0 = 33, WH_GDB_CSR0 = 65, WH_GDB_PRIV = WH_GDB_CSR0 + 4096 };

/* memory.c: m, M, X. */
void wh_gdb_read_memory(wh_gdb *g, wh_rsp_in *in);
void wh_gdb_write_memory(wh_gdb *g, wh_rsp_in *in, bool binary);

/* describe.c: target.xml of this hart, 0-terminated, malloc'ed; NULL: no memory. */
char *wh_gdb_describe(wh_hart *h);

/* monitor.c: qRcmd. */
void wh_gdb_monitor(wh_gdb *g, wh_rsp_in *in);

wh_hart *wh_gdb_hart(wh_gdb *g); /* the one that g, p, m ... are about */

#endif

/* One run of the command: a machine, what it is to do, and how far it is. */
#ifndef WH_MAIN_SESSION_H
#define WH_MAIN_SESSION_H

#include "board/board.h"
#include "main/gdb_socket.h"
#include "main/options.h"
#include "main/symbols.h"

struct wh_session {
    const struct wh_options *opt;
    wh_machine *machine;
    struct wh_symbols symbols;
    uint64_t shown; /* UART bytes written to stdout */
    struct wh_marker marker;
    bool marker_seen;
    bool input_open;
    wh_gdb_socket gdb;
    uint64_t begun, ran; /* host ns: when the command began, when the first instructions had been executed */
};

/* drive.c: until the run is over; the exit status. The first for a machine with threads of its own, the second for one
 * with icount, on the caller's. */
int wh_drive(struct wh_session *s);
int wh_drive_icount(struct wh_session *s);
void wh_show_output(struct wh_session *s); /* what the UART has new, to standard output */

#endif

/* gdb_socket: the Unix socket at which wherry-core lets a debugger in, one at a time. */
#ifndef WH_GDB_SOCKET_H
#define WH_GDB_SOCKET_H

#include "base/base.h"

typedef struct wh_gdb_socket {
    const char *path;
    int fd; /* -1: not open */
    wh_gdb *debugger;
} wh_gdb_socket;

/* path is kept and removed by close; a socket that is there already is replaced. 0, or -1 with errno set. */
int wh_gdb_socket_open(wh_gdb_socket *s, const char *path);
/* fd is readable: let one in. */
void wh_gdb_socket_ready(wh_gdb_socket *s, wh_machine *m);
void wh_gdb_socket_close(wh_gdb_socket *s);

#endif

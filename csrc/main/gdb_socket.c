#include "main/gdb_socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int wh_gdb_socket_open(wh_gdb_socket *s, const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct stat there;
    *s = (wh_gdb_socket){.path = path, .fd = -1};
    if (strlen(path) >= sizeof at.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(at.sun_path, path, strlen(path) + 1);
    if (lstat(path, &there) == 0 && S_ISSOCK(there.st_mode))
        (void)unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0177); /* who may write to it owns the guest */
    int status = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&at, sizeof at);
    (void)umask(mask);
    if (status == 0)
        status = listen(fd, 4);
    if (status != 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        errno = why;
        return -1;
    }
    s->fd = fd;
    return 0;
}

void wh_gdb_socket_ready(wh_gdb_socket *s, wh_machine *m)
{
    wh_error err = {0};
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (s->debugger != NULL && wh_gdb_ended(s->debugger)) {
        wh_gdb_free(s->debugger);
        s->debugger = NULL;
    }
    wh_gdb *debugger = NULL;
    if (wh_gdb_new(m, fd, &debugger, &err) == WH_OK) {
        s->debugger = debugger;
        return;
    }
    fprintf(stderr, "wherry-core: %s: %s\n", err.field, err.message);
    close(fd);
}

void wh_gdb_socket_close(wh_gdb_socket *s)
{
    wh_gdb_free(s->debugger);
    s->debugger = NULL;
    if (s->fd < 0)
        return;
    close(s->fd);
    (void)unlink(s->path);
    s->fd = -1;
}

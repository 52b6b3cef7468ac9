#include "main/snapshots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool wh_marker_seen(struct wh_marker *m, const uint8_t *data, size_t len)
{
    size_t want = m->text ? strlen(m->text) : 0;
    for (size_t i = 0; want && i < len; i++) {
        if (m->kept == want) {
            memmove(m->tail, m->tail + 1, want - 1);
            m->kept--;
        }
        m->tail[m->kept++] = data[i];
        if (m->kept == want && !memcmp(m->tail, m->text, want))
            return true;
    }
    return false;
}

static int host_error(const char *path, wh_error *err)
{
    return wh_fail(err, WH_E_IO, path, "%s", strerror(errno));
}

/* A rename is on the disk when its folder is. */
static int sync_folder(const char *path, wh_error *err)
{
    char folder[4096];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path + 1) : 1, slash ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int status = fd < 0 || fsync(fd) ? host_error(folder, err) : WH_OK;
    if (fd >= 0)
        close(fd);
    return status;
}

int wh_snapshot_save_as(wh_machine *m, const char *path, wh_error *err)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof temporary)
        return wh_fail(err, WH_E_INVAL, "snapshot", "the path is too long");
    int status = wh_machine_pause(m, NULL);
    if (status)
        return wh_fail(err, status, "snapshot", "the machine has ended");
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return host_error(temporary, err);
    status = wh_machine_snapshot(m, fd, NULL, 0, err);
    if (close(fd) && !status)
        status = host_error(temporary, err);
    if (!status && rename(temporary, path))
        status = host_error(path, err);
    if (status)
        unlink(temporary);
    return status ? status : sync_folder(path, err);
}

int wh_snapshot_open(const char *path, wh_machine_config *config, int *fd, wh_error *err)
{
    uint64_t pages;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return host_error(path, err);
    int status = wh_snapshot_info(*fd, config, &pages, err);
    if (status) {
        close(*fd);
        *fd = -1;
    }
    return status;
}

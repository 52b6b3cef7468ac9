/* Batches of disk blocks (view.c) placed into the file of the guest that arrives. What comes is not believed: block
 * numbers and lengths are checked before anything is written. */
#include "disk/view.h"
#include "state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int write_span(int fd, const uint8_t *data, uint64_t len, uint64_t at)
{
    while (len > 0) {
        ssize_t done = pwrite(fd, data, len, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return errno == ENOSPC || errno == EDQUOT ? WH_E_FULL : WH_E_IO;
        data += done;
        at += (uint64_t)done;
        len -= (uint64_t)done;
    }
    return WH_OK;
}

/* A hole where the file system has them, else zeros. */
static int clear_span(wh_diskview *v, uint64_t len, uint64_t at)
{
    if (!fallocate(v->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len))
        return WH_OK;
    const uint64_t most = (uint64_t)WH_DISK_RUN * WH_DISK_BLOCK;
    memset(v->run, 0, most);
    int status = WH_OK;
    for (uint64_t part; len > 0 && !status; at += part, len -= part) {
        part = len < most ? len : most;
        status = write_span(v->fd, v->run, part, at);
    }
    return status;
}

static int place_entry(wh_diskview *v, wh_reader *r, wh_disk_info *out, wh_error *err)
{
    if (wh_get_array(r) != 3 && !r->status)
        return wh_fail(err, WH_E_FORMAT, "batch", "an entry that is not of three parts");
    uint64_t first = wh_get_uint(r), count = wh_get_uint(r);
    if (r->status)
        return wh_fail(err, WH_E_FORMAT, "batch", "a damaged entry");
    if (first >= v->blocks || count == 0 || count > v->blocks - first)
        return wh_fail(err, WH_E_FORMAT, "batch", "blocks %llu and %llu more are not of this disk",
                       (unsigned long long)first, (unsigned long long)count);
    uint64_t at = first * WH_DISK_BLOCK, len = wh_disk_span(v, first, count);
    int status;
    if (wh_get_nil(r)) {
        status = clear_span(v, len, at);
        out->zero_blocks += count;
    } else {
        size_t have;
        const uint8_t *data = wh_get_bin(r, &have);
        if (r->status || have != len)
            return wh_fail(err, WH_E_FORMAT, "batch", "%llu blocks do not come as so many bytes",
                           (unsigned long long)count);
        status = write_span(v->fd, data, len, at);
        out->data_blocks += count;
    }
    return status ? wh_fail(err, status, "disk", "writing it: %s", strerror(errno)) : WH_OK;
}

int wh_diskview_unpack(wh_diskview *v, const uint8_t *buf, size_t len, wh_disk_info *out, wh_error *err)
{
    *out = (wh_disk_info){.bytes = len};
    wh_reader r;
    wh_reader_init(&r, buf, len);
    uint32_t entries = wh_get_array(&r);
    if (r.status)
        return wh_fail(err, WH_E_FORMAT, "batch", "not an array");
    for (uint32_t i = 0; i < entries; i++) {
        int status = place_entry(v, &r, out, err);
        if (status)
            return status;
    }
    return r.p == r.end ? WH_OK : wh_fail(err, WH_E_FORMAT, "batch", "bytes behind its end");
}

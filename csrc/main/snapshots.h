/* Snapshots as wherry-core makes and takes them. */
#ifndef WH_MAIN_SNAPSHOTS_H
#define WH_MAIN_SNAPSHOTS_H

#include "board/board.h"

/* Finds a text in a stream that comes in pieces. */
struct wh_marker {
    const char *text; /* NULL: never found */
    uint8_t tail[256];
    size_t kept;
};
#define WH_MARKER_MAX 255u

/* True once text has gone by. */
bool wh_marker_seen(struct wh_marker *m, const uint8_t *data, size_t len);

/* Pause the machine and write it to `path`: whole, synced and then renamed, or not at all. */
int wh_snapshot_save_as(wh_machine *m, const char *path, wh_error *err);
/* The configuration in the snapshot at path, and the file open for wh_machine_restore. */
int wh_snapshot_open(const char *path, wh_machine_config *config, int *fd, wh_error *err);

#endif

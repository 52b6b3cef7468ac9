/* A digest of a whole machine, for comparing runs: its state document and its RAM. */
#include "board/machine.h"

#include <endian.h>
#include <string.h>

/* One lane of the mixer of splitmix64 (Steele, Lea, Flood) over 8-byte words; it finds accidents, it is no MAC. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static void add(uint64_t sum[2], const uint8_t *data, size_t len)
{
    for (size_t at = 0; at < len; at += 8) {
        uint64_t word = 0;
        memcpy(&word, data + at, len - at < 8 ? len - at : 8);
        sum[0] = mix(sum[0] ^ le64toh(word));
        sum[1] = mix(sum[1] + sum[0]);
    }
    sum[0] = mix(sum[0] ^ len);
}

static int digest_ram(wh_machine *m, uint8_t out[16], wh_error *err)
{
    wh_ramview *view;
    int status = wh_ramview_open(m->ram.ram_fd, m->ram.share_fd, &view, err);
    if (status)
        return status;
    status = wh_ramview_checksum(view, out);
    wh_ramview_close(view);
    return status ? wh_fail(err, status, "memory", "no checksum") : WH_OK;
}

int wh_machine_digest(wh_machine *m, uint8_t out[16], wh_error *err)
{
    pthread_mutex_lock(&m->run_lock);
    bool rests = wh_run_at_rest(m) && m->run_state != WH_NEW;
    pthread_mutex_unlock(&m->run_lock);
    if (!rests)
        return wh_fail(err, WH_E_STATE, "machine", "it must be paused to be compared");
    uint8_t ram[16];
    int status = digest_ram(m, ram, err);
    if (status)
        return status;
    wh_writer w;
    wh_writer_init(&w);
    pthread_mutex_lock(&m->lock);
    uint64_t turns = m->icount.turns; /* counts also the looks at which nothing had come */
    m->icount.turns = 0;
    wh_snapshot_write(m, &w);
    m->icount.turns = turns;
    pthread_mutex_unlock(&m->lock);
    uint64_t sum[2] = {0, 0};
    add(sum, ram, sizeof ram);
    add(sum, w.data, w.len);
    status = w.status;
    wh_writer_free(&w);
    sum[0] = htole64(sum[0]);
    sum[1] = htole64(sum[1]);
    memcpy(out, sum, sizeof sum);
    return status ? wh_fail(err, status, "machine", "no memory for its state") : WH_OK;
}

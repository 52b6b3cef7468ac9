/* life: how a switch and its workers begin and end. */
#include "switch/moved.h"
#include "switch/network.h"
#include "switch/pack.h"
#include "switch/peer.h"
#include "switch/port.h"
#include "switch/steer.h"
#include "switch/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#define AGE_S_DEFAULT 300u
#define FDB_DEFAULT   65536u

static void stop(wh_switch *s)
{
    if (!s->running)
        return;
    atomic_store(&s->stop, true);
    wh_switch_wake(s);
    pthread_join(s->thread, NULL);
    s->running = false;
}

static void worker_free(wh_switch *s)
{
    wh_aside_clear(s);
    wh_egress_free(s);
    wh_coalesce_free(&s->coalesce);
    wh_packs_free(s->packs);
    wh_udp_free(s->udp);
    int fds[] = {s->epoll_fd, s->wake_fd};
    for (size_t i = 0; i < WH_ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_mutex_destroy(&s->gate);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void tables_free(struct wh_shared *all)
{
    void *v;
    wh_switch *s = all->worker[0];
    for (uint32_t i = 0; (v = wh_idmap_next(&all->ports, &i));)
        wh_port_free(s, v);
    for (uint32_t i = 0; (v = wh_idmap_next(&all->networks, &i));)
        wh_network_free(v);
    for (uint32_t i = 0; (v = wh_idmap_next(&all->peers, &i));) {
        wh_stream_free(s, v);
        wh_egress_forget(s, v);
    }
    for (uint32_t i = 0; (v = wh_idmap_next(&all->peers, &i));)
        wh_peer_free(v);
    wh_frameq_clear(&all->parked);
    wh_idmap_free(&all->ports);
    wh_idmap_free(&all->networks);
    wh_idmap_free(&all->peers);
}

static void free_all(struct wh_shared *all)
{
    for (uint32_t i = 0; i < all->workers; i++)
        stop(all->worker[i]);
    if (all->workers) {
        all->worker[0]->alone = true;
        tables_free(all);
    }
    for (uint32_t i = 0; i < all->workers; i++)
        worker_free(all->worker[i]);
    wh_crypto_free(all->crypto);
    wh_eventq_close(&all->events);
    free(all);
}

static int configure(struct wh_shared *all, const wh_switch_config *c, wh_error *err)
{
    if (c->node_id == 0)
        return wh_fail(err, WH_E_INVAL, "node_id", "0 is no node");
    if (c->fdb_max > WH_FDB_LIMIT)
        return wh_fail(err, WH_E_INVAL, "fdb_max", "%u is more than %u", c->fdb_max, WH_FDB_LIMIT);
    if (c->workers > WH_WORKERS_MAX)
        return wh_fail(err, WH_E_INVAL, "workers", "%u are more than %u", c->workers, WH_WORKERS_MAX);
    all->ports_off = c->ports_off != 0;
    all->fdb_max = c->fdb_max ? c->fdb_max : FDB_DEFAULT;
    if (wh_crypto_new(&all->crypto))
        return wh_fail(err, WH_E_NOMEM, "switch", "out of memory");
    return wh_eventq_init(&all->events, err);
}

static int open_fds(wh_switch *s, int udp_fd, wh_error *err)
{
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->epoll_fd < 0 || s->wake_fd < 0 || wh_switch_watch(s, s->wake_fd, EPOLLIN, WH_TAG(WH_TAG_WAKE, 0)))
        return wh_fail(err, WH_E_IO, "epoll", "%s", strerror(errno));
    if (udp_fd < 0)
        return WH_OK;
    int status = wh_udp_new(udp_fd, &s->udp, err);
    if (!status && wh_switch_watch(s, udp_fd, EPOLLIN, WH_TAG(WH_TAG_UDP, 0)))
        status = wh_fail(err, WH_E_IO, "udp_fd", "epoll: %s", strerror(errno));
    return status;
}

/* Part of all from its first line on, also when it fails. */
static int worker_new(struct wh_shared *all, const wh_switch_config *c, wh_error *err)
{
    wh_switch *s = calloc(1, sizeof(*s));
    if (!s)
        return wh_fail(err, WH_E_NOMEM, "switch", "out of memory");
    s->all = all;
    s->index = all->workers;
    all->worker[all->workers++] = s;
    s->epoll_fd = s->wake_fd = -1;
    pthread_mutex_init(&s->gate, NULL);
    pthread_mutex_init(&s->lock, NULL);
    s->alone = c->workers <= 1;
    s->node_id = c->node_id;
    s->fdb_age_ns = (c->fdb_age_s ? c->fdb_age_s : AGE_S_DEFAULT) * 1000000000ull;
    s->now_ns = wh_now_ns();
    all->timer_ns = s->now_ns + s->fdb_age_ns / 8;
    s->egress.at_ns = UINT64_MAX;
    wh_spin_init(&s->spin, s->now_ns);
    if (s->index)
        s->hash_seed = all->worker[0]->hash_seed;
    else if (getrandom(&s->hash_seed, sizeof(s->hash_seed), 0) != sizeof(s->hash_seed))
        return wh_fail(err, WH_E_IO, "random", "%s", strerror(errno));
    if (wh_packs_new(&s->packs))
        return wh_fail(err, WH_E_NOMEM, "switch", "out of memory");
    int fd = c->udp_fd, status = WH_OK;
    if (s->index && fd >= 0)
        status = wh_steer_share(c->udp_fd, &fd, err);
    if (!status)
        status = open_fds(s, fd, err);
    if (status && s->index && fd >= 0 && !s->udp)
        close(fd);
    return status;
}

int wh_switch_new(const wh_switch_config *config, wh_switch **out, wh_error *err)
{
    struct wh_shared *all = calloc(1, sizeof(*all));
    if (!all)
        return wh_fail(err, WH_E_NOMEM, "switch", "out of memory");
    all->events.fd = -1;
    uint32_t workers = config->workers ? config->workers : 1;
    int status = configure(all, config, err);
    while (!status && all->workers < workers)
        status = worker_new(all, config, err);
    if (!status && workers > 1 && config->udp_fd >= 0)
        status = wh_steer(config->udp_fd, workers, err);
    for (uint32_t i = 0; !status && i < workers; i++)
        status = wh_switch_start(all->worker[i], err);
    if (status) {
        for (uint32_t i = 0; i < all->workers; i++)
            stop(all->worker[i]);
        if (all->workers)
            wh_udp_give_back(all->worker[0]->udp);
        free_all(all);
        return status;
    }
    *out = all->worker[0];
    return WH_OK;
}

void wh_switch_free(wh_switch *s)
{
    if (s)
        free_all(s->all);
}

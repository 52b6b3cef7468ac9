/* control_networks: the calls of api.cdef about networks, their limits and the addresses bound in them, in the manner
 * of control.c. */
#include "switch/binding.h"
#include "switch/network.h"

int wh_switch_network_add(wh_switch *s, uint32_t vni, uint32_t mtu, wh_error *err)
{
    struct wh_network *n = NULL;
    int status = wh_network_new(s, vni, mtu, &n, err);
    if (status)
        return status;
    wh_switch_lock(s);
    status = wh_idmap_put(&s->all->networks, vni, n);
    wh_switch_unlock(s);
    if (status) {
        wh_network_free(n);
        return wh_fail(err, status, "vni", "network %u %s", vni,
                       status == WH_E_EXISTS ? "exists" : "does not fit memory");
    }
    return WH_OK;
}

int wh_switch_network_del(wh_switch *s, uint32_t vni)
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = !n ? WH_E_NOTFOUND : n->port_count ? WH_E_STATE : WH_OK;
    if (!status)
        wh_network_free(wh_idmap_take(&s->all->networks, vni));
    wh_switch_unlock(s);
    return status;
}

int wh_switch_network_peers(wh_switch *s, uint32_t vni, const uint32_t *nodes, uint32_t count, wh_error *err)
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = n ? wh_network_set_peers(s, n, nodes, count) : WH_E_NOTFOUND;
    wh_switch_unlock(s);
    return status ? wh_fail(err, status, status == WH_E_NOTFOUND ? "vni" : "count", "network %u, %u peers", vni, count)
                  : WH_OK;
}

int wh_switch_network_limits(wh_switch *s, uint32_t vni, uint32_t fdb_max, uint32_t storm_rate, wh_error *err)
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = n ? wh_network_limit(s, n, fdb_max, storm_rate) : WH_E_NOTFOUND;
    wh_switch_unlock(s);
    if (status == WH_E_NOTFOUND)
        return wh_fail(err, status, "vni", "no network %u", vni);
    return status ? wh_fail(err, status, "fdb_max", "%u is more than %u", fdb_max, WH_FDB_LIMIT) : WH_OK;
}

int wh_switch_network_proxy(wh_switch *s, uint32_t vni, int on)
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    if (n) {
        n->no_proxy = !on;
        if (!on)
            wh_neighs_clear(&n->neighs);
    }
    wh_switch_unlock(s);
    return n ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_network_bound(wh_switch *s, uint32_t vni, int on)
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    if (n && on && !n->bound)
        wh_neighs_clear(&n->neighs); /* what was believed before may be a lie */
    if (n)
        n->bound = on != 0;
    wh_switch_unlock(s);
    return n ? WH_OK : WH_E_NOTFOUND;
}

int wh_switch_bind(wh_switch *s, uint32_t vni, const uint8_t mac[6], const uint8_t ip[4], wh_error *err)
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = n ? wh_binding_set(n, ip, mac) : WH_E_NOTFOUND;
    wh_switch_unlock(s);
    return status ? wh_fail(err, status, "vni", "network %u: no address can be bound", vni) : WH_OK;
}

int wh_switch_unbind(wh_switch *s, uint32_t vni, const uint8_t mac[6], const uint8_t ip[4])
{
    wh_switch_lock(s);
    struct wh_network *n = wh_network_of(s, vni);
    int status = n && wh_binding_del(n, ip, mac) ? WH_OK : WH_E_NOTFOUND;
    wh_switch_unlock(s);
    return status;
}

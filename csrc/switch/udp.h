/* udp: the tunnel socket: batches of datagrams in and out by recvmmsg and sendmmsg. Owns the descriptor. */
#ifndef WH_SWITCH_UDP_H
#define WH_SWITCH_UDP_H

#include "switch/switch.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define WH_UDP_BATCH 64u

struct wh_addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    };
    socklen_t len; /* 0: none */
};

bool wh_addr_equal(const struct wh_addr *a, const struct wh_addr *b);
/* A caller's sockaddr in the form that this socket sends to (IPv4 becomes mapped on an IPv6 socket). */
int wh_udp_address(const struct wh_udp *u, const void *addr, uint32_t addr_len, struct wh_addr *out, wh_error *err);

int wh_udp_new(int fd, struct wh_udp **out, wh_error *err); /* fd is owned only on success */
void wh_udp_free(struct wh_udp *u);
void wh_udp_give_back(struct wh_udp *u); /* the descriptor is the caller's again: free will not close it */
int wh_udp_fd(const struct wh_udp *u);
/* Room for one datagram of WH_DATAGRAM_MAX to `to`; it leaves with the batch once wh_udp_commit gives its length. */
uint8_t *wh_udp_slot(wh_switch *s, const struct wh_addr *to);
void wh_udp_commit(wh_switch *s, size_t len);
void wh_udp_flush(wh_switch *s);
void wh_udp_receive(wh_switch *s); /* one batch, each datagram to wh_peer_input */

#endif

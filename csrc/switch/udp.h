/* udp: the tunnel socket. Datagrams leave by sendq.h at the end of a turn and come in by recvmmsg; where the sender (or
 * a NIC) laid several of one size into one packet, the kernel hands them on in one piece (UDP_GRO), which is cut here.
 * Owns the descriptor. */
#ifndef WH_SWITCH_UDP_H
#define WH_SWITCH_UDP_H

#include "switch/sendq.h"
#include "switch/switch.h"

#define WH_UDP_BATCH 64u /* datagrams after which a turn looks at something else */

/* A caller's sockaddr in the form that this socket sends to (IPv4 becomes mapped on an IPv6 socket). */
int wh_udp_address(const struct wh_udp *u, const void *addr, uint32_t addr_len, struct wh_addr *out, wh_error *err);

int wh_udp_new(int fd, struct wh_udp **out, wh_error *err); /* fd is owned only on success */
void wh_udp_free(struct wh_udp *u);
void wh_udp_give_back(struct wh_udp *u); /* the descriptor is the caller's again: free will not close it */
int wh_udp_fd(const struct wh_udp *u);
/* Room for one datagram of WH_DATAGRAM_MAX to `to`, of this traffic class; it leaves with the batch once wh_udp_commit
 * gives its length. NULL: the socket is full and so is the batch. */
uint8_t *wh_udp_slot(wh_switch *s, const struct wh_addr *to, uint8_t tos);
void wh_udp_commit(wh_switch *s, size_t len);
/* Nothing while the socket is full (egress.h). */
void wh_udp_flush(wh_switch *s);
/* The socket is full: does it take what is left now? */
bool wh_udp_retry(wh_switch *s);
void wh_udp_tick(wh_switch *s); /* its buffer becomes large again some time after it was full */
/* What waits, at least WH_UDP_BATCH datagrams of it, each to wh_peer_input, which may change its bytes. What a datagram
 * held stays in place until the function returns. True: there may be
 * more. */
bool wh_udp_receive(wh_switch *s);
/* Datagrams that the kernel dropped because nobody had read those before them; NULL: none. */
uint64_t wh_udp_dropped(const struct wh_udp *u);

#endif

/* steer: one UDP address, a socket for each worker, and which of them a datagram comes to.
 *
 * The kernel asks a program of ours (SO_ATTACH_REUSEPORT_CBPF) that reads the tunnel header: (sender + lane) modulo the
 * workers. So all datagrams of a sender's worker come to one of ours, by whatever address, and the replay window of a
 * lane has one owner. */
#ifndef WH_SWITCH_STEER_H
#define WH_SWITCH_STEER_H

#include "base/base.h"

/* A socket on the address of fd, which is bound already; the caller owns it. Sockets are numbered in this order. */
int wh_steer_share(int fd, int *out, wh_error *err);
/* All of them are there, so many. */
int wh_steer(int fd, uint32_t workers, wh_error *err);

static inline uint32_t wh_steer_to(uint32_t sender, uint32_t lane, uint32_t workers)
{
    return (sender + lane) % workers;
}

#endif

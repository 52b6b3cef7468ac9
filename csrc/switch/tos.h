/* tos: the traffic class of a frame's IP packet (DSCP and ECN), carried to the datagram's own and back.
 *
 * ECN is copied out and combined on arrival (RFC 6040, normal mode), so that a queue on the underlay can mark a guest's
 * packets instead of dropping them. DSCP is copied out but for the classes of network control (48 and above), which are
 * ours, and what the underlay made of it stays there (RFC 2983: uniform going in, pipe coming out). Frames that are no
 * IP have class 0. */
#ifndef WH_SWITCH_TOS_H
#define WH_SWITCH_TOS_H

#include "base/base.h"

enum { WH_ECN_NOT_ECT = 0, WH_ECN_ECT1 = 1, WH_ECN_ECT0 = 2, WH_ECN_CE = 3 };
#define WH_TOS_CONTROL 0xc0u /* CS6: probes and their answers */

uint8_t wh_tos_outer(const uint8_t *frame, uint32_t len);
/* Would its sender understand a mark of congestion (ECT, or CE already)? */
bool wh_tos_takes_mark(const uint8_t *frame, uint32_t len);
void wh_tos_mark(uint8_t *frame, uint32_t len); /* one that does */
/* The frame came in a datagram of this class. False: it must be dropped - a queue was full, and the sender of the frame
 * would not understand a mark. */
bool wh_tos_arrived(uint8_t *frame, uint32_t len, uint8_t outer);

#endif

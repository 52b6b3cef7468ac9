/* pmtu: how long a datagram may be on the way to one peer: packetization layer path MTU discovery for datagrams
 * (DPLPMTUD, RFC 8899), by probes that are filled up to a size and answered like others. Nothing is believed but
 * answers, which are authentic, and this host's own refusal to send: ICMP is not looked at.
 *
 * Sizes are of whole datagrams (UDP payload). The search goes up through sizes that real links have, then halves what
 * is between the largest that came through and the smallest that did not, down to WH_PMTU_STEP. Until it knows better
 * everything may be sent: what the path does not carry is lost with or without us. When it is done, the size is
 * confirmed again and again; if it no longer comes through (a black hole) the search starts anew below it; and once in
 * a while it is tried whether the path has become wider. Pure: the caller brings the time and sends. */
#ifndef WH_SWITCH_PMTU_H
#define WH_SWITCH_PMTU_H

#include "base/base.h"

#define WH_PMTU_BASE       1200u /* RFC 8899, 5.1.2 */
#define WH_PMTU_LEAST      512u  /* taken for granted: what carries less is no path for frames */
#define WH_PMTU_STEP       4
#define WH_PMTU_TRIES      3u
#define WH_PMTU_WAIT_NS    100000000ull /* for an answer, or three round trips */
#define WH_PMTU_CONFIRM_NS 5000000000ull
#define WH_PMTU_RAISE_NS   600000000000ull

struct wh_pmtu {
    uint16_t good, bad; /* largest that came through; smallest that did not, WH_DATAGRAM_MAX + 1: none */
    uint16_t limit;     /* what may be sent */
    uint16_t probing;   /* the size that is under way; 0: none */
    uint8_t tries;
    bool done;
    uint64_t next_ns; /* when the next probe is due */
    uint64_t raise_ns;
};

void wh_pmtu_reset(struct wh_pmtu *m, uint64_t now_ns); /* a path of which nothing is known */
/* The size of a probe that must leave now; 0: nothing before next_ns. */
uint16_t wh_pmtu_due(struct wh_pmtu *m, uint64_t now_ns, uint64_t rtt_ns);
void wh_pmtu_answered(struct wh_pmtu *m, uint16_t size, uint64_t now_ns);
void wh_pmtu_refused(struct wh_pmtu *m, uint16_t size, uint64_t now_ns); /* by this host */

#endif

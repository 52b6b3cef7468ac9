/* flow: which conversation a frame belongs to, as a number that no guest can choose: addresses, ports and protocol of
 * TCP and UDP, else the two stations and the kind of frame. */
#ifndef WH_SWITCH_FLOW_H
#define WH_SWITCH_FLOW_H

#include "base/base.h"

/* Of at least an Ethernet header. */
uint32_t wh_flow_hash(const uint8_t *frame, uint32_t len, uint64_t seed);

#endif

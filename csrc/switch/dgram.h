/* dgram: a port whose frames are datagrams of a bound socket (unix or UDP), one each and without a header: what QEMU's
 * -netdev dgram and other emulators speak.
 *
 * With a remote address frames go there; UDP ones from elsewhere are dropped (a unix socket's file says by its mode who
 * may send). Without one they go to whoever sent the last frame. Nobody there (yet, or any more) is no failure of the
 * port: its frames are lost and counted until somebody is. */
#ifndef WH_SWITCH_DGRAM_H
#define WH_SWITCH_DGRAM_H

#include "switch/frame.h"
#include "switch/switch.h"

struct wh_port;
struct wh_dgram;

int wh_dgram_new(int fd, const void *remote, uint32_t remote_len, struct wh_dgram **out, wh_error *err);
void wh_dgram_free(struct wh_dgram *d);
/* Forward up to most frames of p's socket. */
void wh_dgram_drain(wh_switch *s, struct wh_port *p, unsigned most);
void wh_dgram_deliver(wh_switch *s, struct wh_port *p, const struct wh_frame *f);

#endif

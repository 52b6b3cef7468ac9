/* virtio: the virtio-mmio (version 2) transport, split and packed virtqueues, and the devices net, blk, console and rng
 * (OASIS virtio 1.2, net 1.3). A guest that writes nonsense gets DEVICE_NEEDS_RESET and a configuration interrupt; the
 * rest of the machine does not notice. */
#ifndef WH_VIRTIO_H
#define WH_VIRTIO_H

#include "base/base.h"
#include "base/ring.h"
#include "dev/dev.h"

#define WH_VIRTIO_MMIO_SIZE 0x1000u

typedef struct wh_virtio_env {
    wh_ram *ram;
    wh_irq irq;
} wh_virtio_env;

typedef struct wh_net_stats {
    uint64_t tx_frames, rx_frames, tx_bytes, rx_bytes, dropped;
} wh_net_stats;
typedef struct wh_blk_stats {
    uint64_t reads, writes;
} wh_blk_stats;

typedef struct wh_net_config {
    uint8_t mac[6];
    uint16_t mtu;   /* told to the driver; 0: it keeps its own */
    unsigned pairs; /* queue pairs that the driver may use, at most 8; 0 and 1: no multi-queue */
} wh_net_config;
/* Makes its own ring file and eventfds; to_guest_event is its poll_fd. */
int wh_virtio_net_new(const wh_virtio_env *env, const wh_net_config *config, wh_device **out, wh_error *err);
void wh_virtio_net_fds(wh_device *d, int *ring_fd, int *to_switch_event, int *to_guest_event);
/* Move everything that can be moved between rings and queues now, as far as the driver has buffers: the guest stands
 * still, and what is in its RAM is saved and carried with it. With the board lock held. */
void wh_virtio_net_settle(wh_device *d);
/* Once, before anything runs: from now on frames come to the device only by these two. admit lets in what the switch
 * has sent, as far as there is room, and tells note of each frame; let_in one frame from elsewhere (false: no room).
 * The board lock is held; the device wants to be polled afterwards. */
int wh_virtio_net_gate(wh_device *d, wh_error *err);
void wh_virtio_net_admit(wh_device *d, void (*note)(void *ctx, const uint8_t *frame, uint32_t len), void *ctx);
bool wh_virtio_net_waits(wh_device *d); /* there is a frame to admit */
bool wh_virtio_net_let_in(wh_device *d, const uint8_t *frame, uint32_t len);
void wh_virtio_net_get_stats(wh_device *d, wh_net_stats *out);
/* fd is dup'ed; a regular file. Requests run on the I/O thread (poll), in order. */
int wh_virtio_blk_new(const wh_virtio_env *env, int fd, bool read_only, const char *serial, wh_device **out,
                      wh_error *err);
void wh_virtio_blk_get_stats(wh_device *d, wh_blk_stats *out);
int wh_virtio_blk_share_fd(wh_device *d); /* what it writes, for another process to follow (disk/share.h); borrowed */
/* Port 0 is a console (hvc0), port 1 is named org.qemu.guest_agent.0. */
int wh_virtio_console_new(const wh_virtio_env *env, const wh_channel_end *console, const wh_channel_end *agent,
                          wh_device **out, wh_error *err);
/* seed 0: getrandom; else a reproducible stream. */
int wh_virtio_rng_new(const wh_virtio_env *env, uint64_t seed, wh_device **out, wh_error *err);

/* Set a bit (page of RAM) for what the queues of this virtio device consist of. */
void wh_virtio_queue_pages(const wh_device *d, uint64_t *bitmap);

#endif

/* switchbench: what one switch does and takes, without a network. Linked with the switch's own objects.
 *
 *   switchbench ring MILLISECONDS   64-byte frames from one guest's ring to another's: "ring FRAMES WALL_NS WORKER_NS"
 *   switchbench peers COUNT         idle peers with keys: "peers COUNT BYTES"
 *   switchbench macs COUNT          MACs in one network: "macs COUNT BYTES"
 *
 * ring: this thread plays both guests and keeps at most 4096 frames under way, so that none is dropped; WORKER_NS is
 * the processor time that the switch's thread has had, which another program's load does not change. BYTES are those
 * that became private and dirty (smaps_rollup) while COUNT were added. */
#include "base/base.h"
#include "base/ring.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define VNI       7u
#define UNDER_WAY 4096u

static void must(int status, const char *what)
{
    if (status < 0) {
        fprintf(stderr, "switchbench: %s: status %d\n", what, status);
        exit(1);
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Processor time of the one other thread. */
static uint64_t worker_ns(void)
{
    unsigned long long total = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        char path[300];
        unsigned long long ns = 0;
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == getpid())
            continue;
        snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%llu", &ns) == 1)
            total += ns;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return total;
}

static uint64_t private_bytes(void)
{
    char line[200];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "Private_Dirty: %llu kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

static wh_switch *new_switch(uint32_t macs)
{
    wh_switch *sw;
    wh_error err = {0};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    must(bind(fd, (struct sockaddr *)&at, sizeof(at)), "bind");
    wh_switch_config config = {.node_id = 1, .fdb_age_s = 300, .fdb_max = macs, .udp_fd = fd};
    if (wh_switch_new(&config, &sw, &err) || wh_switch_network_add(sw, VNI, 1400, &err)) {
        fprintf(stderr, "switchbench: %s: %s\n", err.field, err.message);
        exit(1);
    }
    return sw;
}

struct nic {
    wh_ring *tx, *rx;
    int to_switch;
    uint8_t mac[6];
};

static void plug(wh_switch *sw, struct nic *n, uint8_t last)
{
    wh_error err = {0};
    int file = wh_ring_file_new(&err), to_guest = eventfd(0, EFD_NONBLOCK);
    must(file, "ring");
    n->to_switch = eventfd(0, EFD_NONBLOCK);
    memcpy(n->mac, (uint8_t[6]){2, 0, 0, 0, 0, last}, 6);
    must(wh_ring_map(file, 0, true, &n->tx, &err), "ring");
    must(wh_ring_map(file, 1, false, &n->rx, &err), "ring");
    must(wh_switch_port_ring(sw, last, VNI, file, n->to_switch, to_guest, n->mac, 1, &err), "port");
    wh_ring_wake(n->rx); /* polled: no doorbells */
}

static int ring(uint64_t length_ns)
{
    wh_switch *sw = new_switch(65536);
    struct nic a, b;
    plug(sw, &a, 1);
    plug(sw, &b, 2);
    uint8_t frame[60] = {0}; /* and four of checksum on a wire */
    memcpy(frame, b.mac, 6);
    memcpy(frame + 6, a.mac, 6);
    frame[12] = 8;
    uint64_t sent = 0, got = 0, one = 1, began = now_ns(), worked = worker_ns(), now = began;
    while (now - began < length_ns) {
        bool kick = false, any = false;
        for (unsigned n = 0; n < 256 && sent - got < UNDER_WAY; n++, sent++) {
            if (wh_ring_put(a.tx, frame, sizeof(frame), &kick) != WH_OK)
                break;
            any = any || kick;
        }
        if (any && write(a.to_switch, &one, sizeof(one)) != sizeof(one))
            return 1;
        const uint8_t *at;
        uint32_t len;
        while (wh_ring_peek(b.rx, &at, &len) == WH_OK) {
            wh_ring_consume(b.rx);
            got++;
        }
        now = now_ns();
    }
    printf("ring %llu %llu %llu\n", (unsigned long long)got, (unsigned long long)(now - began),
           (unsigned long long)(worker_ns() - worked));
    wh_counters counters;
    must(wh_switch_counters(sw, &counters), "counters");
    if (counters.drop_full)
        fprintf(stderr, "switchbench: %llu frames were dropped\n", (unsigned long long)counters.drop_full);
    wh_switch_free(sw);
    return 0;
}

static int peers(uint32_t count)
{
    wh_switch *sw = new_switch(65536);
    wh_error err = {0};
    uint8_t key[32];
    uint64_t before = private_bytes();
    for (uint32_t n = 2; n < count + 2; n++) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f010000 + n)};
        memset(key, (int)n, sizeof(key));
        must(wh_switch_peer_set(sw, n, n, &at, sizeof(at), &err), "peer");
        must(wh_switch_peer_tx_key(sw, n, 1, wh_switch_best_cipher(), key, &err), "key");
        must(wh_switch_peer_rx_key(sw, n, 1, wh_switch_best_cipher(), key, &err), "key");
        must(wh_switch_peer_rx_key(sw, n, 2, wh_switch_best_cipher(), key, &err), "key");
    }
    printf("peers %u %llu\n", count, (unsigned long long)(private_bytes() - before));
    wh_switch_free(sw);
    return 0;
}

static int macs(uint32_t count)
{
    wh_switch *sw = new_switch(count);
    wh_error err = {0};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f010002)};
    must(wh_switch_peer_set(sw, 2, 2, &at, sizeof(at), &err), "peer");
    uint64_t before = private_bytes();
    for (uint32_t n = 0; n < count; n++) {
        uint8_t mac[6] = {2, 0};
        memcpy(mac + 2, &n, 4);
        must(wh_switch_mac_set(sw, VNI, mac, 2, &err), "mac");
    }
    printf("macs %u %llu\n", count, (unsigned long long)(private_bytes() - before));
    wh_switch_free(sw);
    return 0;
}

int main(int argc, char **argv)
{
    uint32_t amount = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    if (amount && strcmp(argv[1], "ring") == 0)
        return ring(amount * 1000000ull);
    if (amount && strcmp(argv[1], "peers") == 0)
        return peers(amount);
    if (amount && strcmp(argv[1], "macs") == 0)
        return macs(amount);
    fprintf(stderr, "usage: switchbench ring MILLISECONDS | peers COUNT | macs COUNT\n");
    return 2;
}

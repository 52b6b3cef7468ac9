/* Writes a log to its disk (virtio-blk, polled): record n, of 4 KiB, goes to block n mod (blocks of the disk), each 5
 * ms or as soon as the one before is done, and is flushed; then it says "f N\n": record N is durable. A record begins
 * with its number, the rest follows from that. 'c' reads the disk back: "whole" when each block holds the record that
 * was written last (or what the image had, zeros), else "bad N". 'd' writes a different block at random each time, as
 * fast as it can, without flushing. 'q' powers off. Also a reader of the numbers on the disk finds where an earlier
 * boot ended: "begin N\n". */
#include "rt.h"
NO_TRAPS
FINISH_WITH_ZERO

#define STEP   50000ul /* of the 10 MHz time */
#define BLOCK  4096ul
#define BLOCKS 8192ul /* at most */
#define QUEUE  8u

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
static volatile struct desc desc[QUEUE] __attribute__((aligned(16)));
static volatile struct {
    uint16_t flags, idx, ring[QUEUE], used_event;
} avail __attribute__((aligned(2)));
static volatile struct {
    uint16_t flags, idx;
    struct {
        uint32_t id, len;
    } ring[QUEUE];
    uint16_t avail_event;
} used __attribute__((aligned(4)));
static volatile struct {
    uint32_t type, reserved;
    uint64_t sector;
} header __attribute__((aligned(16)));
static volatile uint8_t status;
static volatile uint64_t data[BLOCK / 8] __attribute__((aligned(4096)));
static uint64_t last[BLOCKS]; /* what each block was written with, and 0: never */
static uint64_t dev, blocks, served;

static uint64_t now(void)
{
    uint64_t t;
    __asm__ volatile("rdtime %0" : "=r"(t));
    return t;
}

static void find_disk(void)
{
    for (dev = 0x10001000; dev < 0x10009000; dev += 0x1000)
        if (read32(dev) == 0x74726976 && read32(dev + 8) == 2)
            return;
    put("no disk\n");
    end(3);
}

static void set64(uint64_t reg, volatile void *p)
{
    write32(dev + reg, (uint32_t)(uint64_t)p);
    write32(dev + reg + 4, (uint32_t)((uint64_t)p >> 32));
}

static void set_up(void)
{
    find_disk();
    write32(dev + 0x70, 0);
    write32(dev + 0x70, 1 | 2);
    write32(dev + 0x24, 1);
    write32(dev + 0x20, 1); /* VERSION_1 */
    write32(dev + 0x24, 0);
    write32(dev + 0x20, 1u << 9); /* FLUSH */
    write32(dev + 0x70, 1 | 2 | 8);
    write32(dev + 0x30, 0);
    write32(dev + 0x38, QUEUE);
    set64(0x80, desc);
    set64(0x90, &avail);
    set64(0xa0, &used);
    write32(dev + 0x44, 1);
    write32(dev + 0x70, 1 | 2 | 8 | 4);
    blocks = ((uint64_t)read32(dev + 0x104) << 32 | read32(dev + 0x100)) * 512 / BLOCK;
    if (blocks > BLOCKS)
        blocks = BLOCKS;
}

/* type 0: read, 1: write, 4: flush. Waits until it is done. */
static void request(uint32_t type, uint64_t block)
{
    header.type = type;
    header.sector = type == 4 ? 0 : block * (BLOCK / 512);
    status = 0xff;
    desc[0].addr = (uint64_t)&header, desc[0].len = 16, desc[0].flags = 1, desc[0].next = type == 4 ? 2 : 1;
    desc[1].addr = (uint64_t)data, desc[1].len = BLOCK, desc[1].flags = type == 0 ? 3 : 1, desc[1].next = 2;
    desc[2].addr = (uint64_t)&status, desc[2].len = 1, desc[2].flags = 2;
    avail.ring[avail.idx % QUEUE] = 0;
    __asm__ volatile("fence rw, rw" ::: "memory");
    avail.idx++;
    __asm__ volatile("fence rw, rw" ::: "memory");
    write32(dev + 0x50, 0);
    served++;
    while (used.idx != (uint16_t)served)
        __asm__ volatile("fence rw, rw" ::: "memory");
    if (status) {
        tell("failed", type);
        end(4);
    }
}

static void make_record(uint64_t n)
{
    data[0] = n;
    for (uint64_t i = 1, x = n + 1; i < BLOCK / 8; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17; /* xorshift64 */
        data[i] = x;
    }
}

static void check(void)
{
    for (uint64_t b = 0; b < blocks; b++) {
        request(0, b);
        uint64_t want = last[b], x = want + 1;
        int ok = data[0] == want;
        for (uint64_t i = 1; i < BLOCK / 8; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            ok &= data[i] == (want ? x : 0);
        }
        if (!ok) {
            put("bad ");
            put_number((long)b);
            put("\n");
            return;
        }
    }
    put("whole\n");
}

static uint64_t find_end(void)
{
    uint64_t n = 0;
    for (uint64_t b = 0; b < blocks; b++) {
        request(0, b);
        last[b] = data[0];
        n = data[0] > n ? data[0] : n;
    }
    return n;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    set_up();
    uint64_t n = find_end(), random = 88172645463325252ul, next = now();
    int fast = 0;
    put("begin ");
    put_number((long)n);
    put("\n");
    for (n++;; n++) {
        uint64_t block = n % blocks;
        if (fast) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            block = random % blocks;
        }
        make_record(n);
        request(1, block);
        last[block] = n;
        if (!fast) {
            request(4, 0);
            put("f ");
            put_number((long)n);
            put("\n");
        }
        int c = get();
        if (c == 'c')
            check();
        if (c == 'd')
            fast = 1;
        if (c == 'q')
            end(0);
        for (next = next + STEP > now() ? next + STEP : now(); !fast && now() < next;)
            ;
    }
}

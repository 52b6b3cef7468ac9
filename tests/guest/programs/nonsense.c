/* Every virtio device is driven with nonsense: queues outside RAM, rings full of random descriptors, chains that loop,
 * indices that jump, registers in any order. At the end each device is reset and must come up again. Prints
 * "devices=N", "rounds=N" and "needs_reset=N" (how many rounds a device gave up), then "alive". */
#include "rt.h"
FINISH_WITH_ZERO

#define SLOT(i)     (0x10001000ul + 0x1000ul * (i))
#define SLOTS       8
#define ROUNDS      1500
#define RAM         0x80000000ul
#define NEEDS_RESET 64u
#define R_STATUS    0x70
#define R_NOTIFY    0x50
#define R_QUEUE_SEL 0x30
#define R_QUEUE_MAX 0x34
#define R_QUEUE_NUM 0x38
#define R_READY     0x44
#define R_DESC      0x80
#define R_DRIVER    0x90
#define R_DEVICE    0xa0
#define DRIVER_OK   (1 | 2 | 4 | 8)

static uint64_t table[3 * PAGE / 8] __attribute__((aligned(4096)));
static uint64_t seed = 0x9e3779b97f4a7c15ul;

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)tval;
    if (cause >> 63)
        return epc;
    end(90 + (unsigned)(cause & 7)); /* device registers give no faults, whatever is written to them */
}

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* An address: in our table, anywhere in RAM but us, before, across or far behind it, or anything. */
static uint64_t address(void)
{
    switch (rnd() % 6) {
    case 0:
    case 1:
    case 2:
        return (uint64_t)table + rnd() % sizeof(table);
    case 3:
        return RAM + 0x1000000 + rnd() % 0x800000; /* 16 MiB and more from the start: nothing of ours is there */
    case 4:
        return ~0ul - rnd() % 64;
    default:
        return rnd() & ~(0xfful << (rnd() % 56)) & 0x7fffffff; /* below RAM */
    }
}

/* Random descriptors; a device must not write where it is told to only if that is no RAM, so lengths stay within the
 * table's pages or the free half of RAM for the ones that could hit this program. */
static void fill(void)
{
    for (unsigned i = 0; i < sizeof(table) / 8; i++)
        table[i] = rnd() % 3 ? rnd() : rnd() & 0xffff;
    for (unsigned i = 0; i < PAGE / 16; i++) {
        uint64_t at = address();
        uint64_t inside = at >= (uint64_t)table && at < (uint64_t)table + sizeof(table);
        uint64_t length = inside ? rnd() % ((uint64_t)table + sizeof(table) - at + 1) : rnd() % 0x100000;
        if (at < RAM && at + length > RAM)
            length = RAM - at;
        uint64_t next = rnd() % 4 ? rnd() % 8 : rnd() & 0xffff;
        table[2 * i] = at;
        table[2 * i + 1] = (length & 0xffffffff) | (rnd() & 7) << 32 | next << 48;
    }
}

static void address_pair(uint64_t slot, unsigned reg, uint64_t value)
{
    write32(slot + reg, (uint32_t)value);
    write32(slot + reg + 4, (uint32_t)(value >> 32));
}

static void set_up(uint64_t slot)
{
    write32(slot + R_STATUS, 0);
    write32(slot + R_STATUS, 1);
    write32(slot + R_STATUS, 3);
    write32(slot + 0x24, 1); /* VERSION_1 */
    write32(slot + 0x20, 1);
    write32(slot + 0x24, 0);
    write32(slot + 0x20, (uint32_t)(rnd() % 2 ? 0 : rnd()));
    write32(slot + R_STATUS, 11);
    for (unsigned q = 0; q < 6; q++) {
        write32(slot + R_QUEUE_SEL, q);
        uint32_t max = read32(slot + R_QUEUE_MAX);
        if (!max)
            continue;
        write32(slot + R_QUEUE_NUM, rnd() % 4 ? 8u << rnd() % 5 : (uint32_t)rnd());
        uint64_t base = (uint64_t)table;
        address_pair(slot, R_DESC, rnd() % 8 ? base : address());
        address_pair(slot, R_DRIVER, rnd() % 8 ? base + PAGE : address());
        address_pair(slot, R_DEVICE, rnd() % 8 ? base + 2 * PAGE : address());
        write32(slot + R_READY, 1);
    }
    write32(slot + R_STATUS, DRIVER_OK);
}

static int attack(uint64_t slot)
{
    fill();
    set_up(slot);
    for (unsigned i = 0; i < 8; i++) {
        ((volatile uint16_t *)table)[PAGE / 2 + 1] = (uint16_t)rnd(); /* the available ring's index */
        write32(slot + R_NOTIFY, rnd() % 4 ? rnd() % 6 : (uint32_t)rnd());
        if (rnd() % 4 == 0)
            write32(slot + (rnd() % 0x1500 & ~3ul), (uint32_t)rnd());
        (void)read32(slot + (rnd() % 0x200 & ~3ul));
    }
    return (read32(slot + R_STATUS) & NEEDS_RESET) != 0;
}

static int comes_up(uint64_t slot)
{
    write32(slot + R_STATUS, 0);
    if (read32(slot + R_STATUS))
        return 0;
    write32(slot + R_STATUS, 3);
    write32(slot + 0x24, 1);
    write32(slot + 0x20, 1);
    write32(slot + R_STATUS, 11);
    return read32(slot + R_STATUS) == 11;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    (void)hart, (void)opaque;
    long devices = 0, rounds = 0, gave_up = 0;
    for (unsigned i = 0; i < SLOTS; i++) {
        uint64_t slot = SLOT(i);
        if (read32(slot) != 0x74726976 || !read32(slot + 8))
            continue;
        devices++;
        for (unsigned round = 0; round < ROUNDS; round++, rounds++)
            gave_up += attack(slot);
        if (!comes_up(slot))
            end(10 + i);
    }
    tell("devices", devices);
    tell("rounds", rounds);
    tell("needs_reset", gave_up);
    put("alive\n");
    return 0;
}

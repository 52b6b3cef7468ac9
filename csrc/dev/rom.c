/* The reset vector at 0x1000, as QEMU's virt board has it: where every hart of a machine with firmware begins. It loads
 * a0 = hart, a1 = device tree, a2 = OpenSBI's fw_dynamic_info (include/sbi/fw_dynamic.h) and jumps to the firmware. */
#include "dev/devices.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRY = 3, TREE = 4, INFO = 5, WORDS = 11 }; /* 64-bit words; what is code comes before */
#define INFO_MAGIC   0x4942534full
#define INFO_VERSION 2u
#define MODE_S       1u

/* Little-endian instructions. */
static const uint32_t vector[2 * ENTRY] = {
    0x00000297, /* auipc t0, 0 */
    0x02828613, /* addi a2, t0, INFO * 8 */
    0xf1402573, /* csrr a0, mhartid */
    0x0202b583, /* ld a1, TREE * 8(t0) */
    0x0182b283, /* ld t0, ENTRY * 8(t0) */
    0x00028067, /* jr t0 */
};

struct rom {
    wh_device dev;
    uint64_t word[WORDS];
};

static int rom_read(wh_device *d, uint64_t offset, unsigned size, uint64_t *value)
{
    struct rom *r = (struct rom *)d;
    *value = 0;
    if (offset <= sizeof r->word - size)
        memcpy(value, (const uint8_t *)r->word + offset, size);
    *value = le64toh(*value);
    return 0;
}

static int rom_write(wh_device *d, uint64_t offset, unsigned size, uint64_t value)
{
    (void)d, (void)offset, (void)size, (void)value; /* it is a ROM: nothing happens */
    return 0;
}

static void rom_reset(wh_device *d)
{
    (void)d;
}

static void rom_save(wh_device *d, wh_writer *w)
{
    struct rom *r = (struct rom *)d;
    wh_put_map(w, 1);
    wh_put_kbin(w, "words", r->word, sizeof r->word);
}

static void rom_load(wh_device *d, wh_reader *map)
{
    struct rom *r = (struct rom *)d;
    uint64_t word[WORDS];
    wh_map_bin(map, "words", word, sizeof word, map);
    if (!map->status)
        memcpy(r->word, word, sizeof word);
}

static void rom_destroy(wh_device *d)
{
    free(d);
}

static const wh_device_ops rom_ops = {
    .name = "rom",
    .read = rom_read,
    .write = rom_write,
    .reset = rom_reset,
    .save = rom_save,
    .load = rom_load,
    .destroy = rom_destroy,
};

int wh_rom_new(wh_device **out, wh_error *err)
{
    struct rom *r = calloc(1, sizeof *r);
    if (!r)
        return wh_fail(err, WH_E_NOMEM, "rom", "no memory");
    r->dev = (wh_device){&rom_ops, -1};
    for (unsigned i = 0; i < WH_ARRAY_LEN(vector); i++) {
        uint32_t insn = htole32(vector[i]);
        memcpy((uint8_t *)r->word + 4 * i, &insn, 4);
    }
    *out = &r->dev;
    return WH_OK;
}

void wh_rom_set(wh_device *d, uint64_t entry, uint64_t tree, uint64_t next)
{
    struct rom *r = (struct rom *)d;
    const uint64_t info[WORDS - INFO] = {INFO_MAGIC, INFO_VERSION, next, MODE_S, 0, 0};
    r->word[ENTRY] = htole64(entry);
    r->word[TREE] = htole64(tree);
    for (unsigned i = 0; i < WH_ARRAY_LEN(info); i++)
        r->word[INFO + i] = htole64(info[i]);
}

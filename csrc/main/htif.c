/* Everything that a guest names here is hostile: an address outside RAM, a length beyond its end. Such a request is
 * answered with an error, or left alone where there is no place for an answer. */
#include "main/htif.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SYS_WRITE = 64, CALL_WORDS = 8 };

static uint64_t *word_at(wh_ram *ram, uint64_t pa)
{
    uint8_t *at = pa != 0 && (pa & 7) == 0 ? wh_ram_at(ram, pa, 8) : NULL;
    return (uint64_t *)(void *)at;
}

static void put_word(wh_ram *ram, uint64_t pa, uint64_t value)
{
    uint64_t *at = word_at(ram, pa);
    if (at == NULL)
        return;
    wh_ram_mark_dirty(ram, pa);
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static void to_console(const void *data, size_t len)
{
    (void)fwrite(data, 1, len, stdout);
    (void)fflush(stdout);
}

/* The block: number, then arguments; the result goes where the number was. */
static void system_call(wh_ram *ram, uint64_t pa)
{
    uint64_t call[CALL_WORDS];
    const uint8_t *block = wh_ram_at(ram, pa, sizeof call);
    if (block == NULL || (pa & 7))
        return;
    memcpy(call, block, sizeof call);
    int64_t result = -ENOSYS;
    if (call[0] == SYS_WRITE && (call[1] == 1 || call[1] == 2)) {
        const uint8_t *text = call[3] != 0 ? wh_ram_at(ram, call[2], call[3]) : block;
        result = text == NULL ? -EFAULT : (int64_t)call[3];
        if (text != NULL)
            to_console(text, call[3]);
    }
    put_word(ram, pa, (uint64_t)result);
}

static int ended(uint64_t payload)
{
    uint64_t code = payload >> 1;
    if (code == 0)
        return 0;
    fprintf(stderr, "wherry-core: the program failed with code %" PRIu64 " in tohost\n", code);
    return code < 256 ? (int)code : 255;
}

int wh_htif_look(wh_ram *ram, const struct wh_symbols *symbols)
{
    uint64_t *tohost = word_at(ram, symbols->tohost);
    if (tohost == NULL)
        return -1;
    uint64_t v = __atomic_load_n(tohost, __ATOMIC_ACQUIRE), payload = v & 0xffffffffffff;
    unsigned device = v >> 56, command = v >> 48 & 255;
    if (v == 0)
        return -1;
    if (device == 0 && command == 0) {
        if (payload & 1)
            return ended(payload);
        system_call(ram, payload);
    } else if (device == 1 && command == 1) {
        uint8_t c = (uint8_t)payload;
        to_console(&c, 1);
    }
    put_word(ram, symbols->tohost, 0);
    put_word(ram, symbols->fromhost, (uint64_t)device << 56 | (uint64_t)command << 48 | 1);
    return -1;
}

int wh_signature_write(wh_ram *ram, uint64_t first, uint64_t end, const char *path)
{
    const uint8_t *at = end > first && ((first | end) & 3) == 0 ? wh_ram_at(ram, first, end - first) : NULL;
    if (at == NULL) {
        fprintf(stderr,
                "wherry-core: signature: 0x%" PRIx64 " to 0x%" PRIx64 " is no range of whole words in RAM "
                "(symbols begin_signature and end_signature, or --signature-range)\n",
                first, end);
        return -1;
    }
    FILE *f = fopen(path, "w");
    for (uint64_t i = 0; f != NULL && i < end - first; i += 4)
        fprintf(f, "%02x%02x%02x%02x\n", at[i + 3], at[i + 2], at[i + 1], at[i]);
    if (f != NULL && fclose(f) == 0)
        return 0;
    fprintf(stderr, "wherry-core: %s: %s\n", path, strerror(errno));
    return -1;
}

/* A hostile debugger: packets of every kind with numbers of every size, whole and damaged, against a machine of two
 * harts. It may ruin its guest; the process stays whole (the sanitizers look), every packet has one answer, and the
 * machine stops whenever it is told to. WHERRY_FUZZ_ROUNDS: how many packets (default 20000). */
#include "board_machine.h"
#include "debug/gdb.h"

#define HARTS 2u

static uint64_t number(uint64_t *seed)
{
    uint64_t r = next_random(seed);
    switch (r >> 61) {
    case 0:
        return r;
    case 1:
        return WH_RAM_BASE + 64 * MIB - (r & 31);
    case 2:
        return UINT64_MAX - (r & 15);
    case 3:
        return r & 0xff;
    case 4:
        return r & 0x1fff;
    default:
        return WH_RAM_BASE + r % (64 * MIB);
    }
}

/* A packet's text: a form, whose % stand for numbers and & for a few hexadecimal digits. */
static size_t make(uint64_t *seed, char *text, size_t cap)
{
    static const char *const forms[] = {"g",
                                        "G&",
                                        "p%",
                                        "P%=&",
                                        "P%=0000008000000000",
                                        "m%,%",
                                        "m%,10",
                                        "M%,%:&",
                                        "M%,2:&",
                                        "X%,%:&",
                                        "X%,0:",
                                        "Z0,%,4",
                                        "z0,%,4",
                                        "Z1,%,2",
                                        "Z2,%,%",
                                        "Z3,%,8",
                                        "Z4,%,8",
                                        "z2,%,%",
                                        "Z%,%,%",
                                        "Hg%",
                                        "Hc%",
                                        "Hg-1",
                                        "Hc-1",
                                        "T%",
                                        "?",
                                        "c",
                                        "s",
                                        "c%",
                                        "s%",
                                        "vCont?",
                                        "vCont;c",
                                        "vCont;s:%;c",
                                        "vCont;s:1",
                                        "vCont;r%,%:2",
                                        "vCont;C%:%;S%",
                                        "vCont;&",
                                        "qSupported:&",
                                        "qXfer:features:read:target.xml:%,%",
                                        "qXfer:features:read:&:%,%",
                                        "qfThreadInfo",
                                        "qsThreadInfo",
                                        "qThreadExtraInfo,%",
                                        "qC",
                                        "qAttached",
                                        "qRcmd,&",
                                        "qRcmd,70687973206f6e",
                                        "qRcmd,70687973206f6666",
                                        "qRcmd,7374617473",
                                        "qSymbol::",
                                        "QStartNoAckMode",
                                        "vMustReplyEmpty",
                                        "%",
                                        "&",
                                        "",
                                        "qOffsets",
                                        "!",
                                        "R%",
                                        "i%"};
    const char *form = forms[next_random(seed) % WH_ARRAY_LEN(forms)];
    size_t n = 0;
    for (; *form && n + 80 < cap; form++) {
        if (*form == '%')
            n += (size_t)snprintf(text + n, cap - n, "%llx", (unsigned long long)number(seed));
        else if (*form == '&')
            for (uint64_t i = next_random(seed) % 40; i > 0; i--)
                text[n++] = "0123456789abcdef;:,x"[next_random(seed) % 20];
        else
            text[n++] = *form;
    }
    if (next_random(seed) % 8 == 0 && n > 0)
        text[next_random(seed) % n] = (char)next_random(seed);
    return n;
}

static void one(wh_gdb *g, uint64_t *seed)
{
    char text[512];
    size_t len = make(seed, text, sizeof text);
    if (len > 0 && (text[0] == 'k' || text[0] == 'D' || !strncmp(text, "vKill", 5)))
        return; /* those end it */
    memcpy(g->in.data, text, len);
    g->in.data[len] = 0;
    g->in.len = (uint32_t)len;
    wh_gdb_command(g);
    if (g->phase != WH_GDB_RUNNING)
        return;
    CHECK(g->out.len == 0);
    if (next_random(seed) & 1)
        (void)wh_gdb_report(g);
    if (g->phase == WH_GDB_RUNNING)
        wh_gdb_interrupted(g);
    CHECK(g->out.len > 0 && (g->out.data[0] == 'T' || g->out.data[0] == 'W'));
}

static wh_gdb *fresh(wh_gdb *old)
{
    static const uint32_t code[] = {
        0x00001117, /* auipc sp, 1 */
        0x00128293, /* addi t0, t0, 1 */
        0xfe512c23, /* sw t0, -8(sp) */
        0xff812303, /* lw t1, -8(sp) */
        0xff5ff06f, /* j -12 */
    };
    wh_error err;
    if (old != NULL) {
        wh_debug_detach(old->machine);
        wh_machine_free(old->machine);
        free(old->description);
        free(old);
    }
    wh_gdb *g = calloc(1, sizeof *g);
    g->machine = machine(64 * MIB, HARTS, WH_BOOT_FIRMWARE);
    int fd = file_of(code, sizeof code);
    CHECK(!wh_machine_load_firmware(g->machine, fd, &err));
    close(fd);
    CHECK(!wh_machine_start(g->machine, &err));
    CHECK(!wh_debug_attach(g->machine) && wh_debug_attach(g->machine) == WH_E_EXISTS && wh_debug_stop(g->machine));
    return g;
}

int main(void)
{
    const char *text = getenv("WHERRY_FUZZ_ROUNDS");
    unsigned long rounds = text ? strtoul(text, NULL, 0) : 20000, ends = 0;
    uint64_t seed = 20261123;
    wh_gdb *g = fresh(NULL);
    for (unsigned long i = 0; i < rounds; i++) {
        one(g, &seed);
        if (g->phase == WH_GDB_GONE || i % 5000 == 4999) {
            ends++;
            g = fresh(g);
        }
    }
    wh_debug_detach(g->machine);
    CHECK(!wh_debug_attached(g->machine));
    wh_machine_free(g->machine);
    free(g->description);
    free(g);
    printf("%lu packets, %lu machines\n", rounds, ends + 1);
    return finish("gdb_fuzz");
}

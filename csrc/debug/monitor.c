/* `monitor ...`: what GDB has no command for. */
#include "debug/gdb.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char help[] = "monitor phys on|off   memory commands use physical addresses, or the hart's own again\n"
                           "monitor stats         what each hart has done so far\n"
                           "monitor help\n";

static void say(wh_gdb *g, const char *text)
{
    wh_rsp_hex(&g->out, text, strlen(text));
}

static void stats(wh_gdb *g)
{
    for (unsigned i = 0; i < wh_debug_hart_count(g->machine); i++) {
        wh_hart_stats s;
        char line[160];
        wh_hart_get_stats(wh_machine_hart(g->machine, i), &s);
        snprintf(line, sizeof line,
                 "hart %u: instructions %" PRIu64 " traps %" PRIu64 " interrupts %" PRIu64 " mmio %" PRIu64
                 " tlb misses %" PRIu64 "\n",
                 i, s.instructions, s.traps, s.interrupts, s.mmio, s.tlb_misses);
        say(g, line);
    }
}

void wh_gdb_monitor(wh_gdb *g, wh_rsp_in *in)
{
    char command[64] = {0};
    size_t len = (size_t)(in->end - in->at) / 2;
    if (len >= sizeof command || !wh_rsp_unhex(in, command, len)) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    if (strcmp(command, "phys on") == 0 || strcmp(command, "phys off") == 0) {
        g->physical = command[6] == 'n';
        say(g, g->physical ? "addresses are physical\n" : "addresses are virtual\n");
    } else if (strcmp(command, "stats") == 0) {
        stats(g);
    } else {
        say(g, help);
    }
}

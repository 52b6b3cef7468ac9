/* What the command line says. */
#ifndef WH_MAIN_OPTIONS_H
#define WH_MAIN_OPTIONS_H

#include "main/snapshots.h"

#include <stdbool.h>
#include <stdint.h>

enum wh_main_exit { EXIT_USAGE = 2, EXIT_CANNOT = 3, EXIT_INSNS = 4, EXIT_CRASH = 5 };

struct wh_options {
    const char *elf, *firmware, *kernel, *initrd, *append, *signature, *signature_range;
    const char *snapshot_to, *restore, *gdb, *record, *replay;
    uint64_t memory, max_insns, seed, hash_every, snapshot_at;
    uint32_t smp, cpu, engine;
    int restore_how;
    bool stats, icount, wait;
    struct wh_marker marker;
};

/* 0, or what to exit with: it has been said why. argv[0] is the name of the command, "run". */
int wh_options_parse(int argc, char **argv, struct wh_options *o);
int wh_usage(const char *why);      /* EXIT_USAGE */
int wh_cannot(const wh_error *err); /* says it; EXIT_CANNOT */
/* A number with, where `units`, K, M or G behind it. */
bool wh_parse_number(const char *text, bool units, uint64_t *out);

#endif

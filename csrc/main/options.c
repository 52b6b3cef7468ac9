#include "main/options.h"
#include "board/board.h"
#include "cpu/model.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int wh_usage(const char *why)
{
    fprintf(stderr,
            "wherry-core: %s\nusage: wherry-core run (--elf FILE | --kernel FILE | --firmware FILE [--kernel FILE])\n"
            "       [--initrd FILE] [--append TEXT] [--memory 256M] [--smp N] [--cpu rva22|rv64gc]\n"
            "       [--max-insns N] [--signature FILE [--signature-range BEGIN:END]] [--stats]\n"
            "       [--seed N] [--icount [--hash-every N] [--record FILE | --replay FILE]] [--engine interpreter|jit]\n"
            "       [--gdb PATH [--wait]]\n"
            "       [--snapshot-to FILE (--snapshot-at-insns N | --on-marker TEXT)]\n"
            "       wherry-core run --restore FILE [--lazy | --on-demand | --eager] [--elf FILE] ...\n",
            why);
    return EXIT_USAGE;
}

int wh_cannot(const wh_error *err)
{
    fprintf(stderr, "wherry-core: %s: %s\n", err->field, err->message);
    return EXIT_CANNOT;
}

bool wh_parse_number(const char *text, bool units, uint64_t *out)
{
    char *end;
    errno = 0;
    uint64_t v = strtoull(text, &end, 0), unit = 1;
    if (errno != 0 || end == text || text[0] == '-')
        return false;
    if (units && *end != '\0') {
        unit = *end == 'K' ? 1ull << 10 : *end == 'M' ? 1ull << 20 : *end == 'G' ? 1ull << 30 : 0;
        end++;
    }
    *out = v * unit;
    return *end == '\0' && unit != 0 && v <= UINT64_MAX / unit;
}

static bool parse_model(const char *text, uint32_t *model)
{
    for (uint32_t i = 0; wh_cpu_model_known(i); i++)
        if (strcmp(text, wh_cpu_model_name(i)) == 0) {
            *model = i;
            return true;
        }
    return false;
}

static bool parse_engine(const char *text, uint32_t *out)
{
    *out = strcmp(text, "jit") == 0 ? WH_ENGINE_JIT : WH_ENGINE_INTERPRETER;
    return *out == WH_ENGINE_JIT || strcmp(text, "interpreter") == 0;
}

static int check(const struct wh_options *o, bool more)
{
    bool boots = o->kernel != NULL || o->firmware != NULL;
    if (o->restore != NULL && (boots || o->initrd != NULL))
        return wh_usage("--restore takes everything but the symbols of an --elf from its file");
    if (more || (o->restore == NULL && (o->elf != NULL) == boots))
        return wh_usage("give either --elf, or --kernel, --firmware or both, or --restore");
    if ((o->snapshot_to != NULL) != (o->snapshot_at != 0 || o->marker.text != NULL))
        return wh_usage("--snapshot-to wants --snapshot-at-insns or --on-marker, and they want it");
    if ((o->wait && o->gdb == NULL) || (o->gdb != NULL && o->icount))
        return wh_usage("--wait goes with --gdb, which does not go with --icount");
    if ((o->hash_every != 0 || o->record != NULL || o->replay != NULL) && !o->icount && o->restore == NULL)
        return wh_usage("--hash-every, --record and --replay go with --icount");
    if (o->record != NULL && o->replay != NULL)
        return wh_usage("--record or --replay, not both");
    return 0;
}

int wh_options_parse(int argc, char **argv, struct wh_options *o)
{
    /* clang-format off: a line each, for easy merges */
    static const struct option longs[] = {
        {"elf", 1, NULL, 'e'},
        {"kernel", 1, NULL, 'k'},
        {"initrd", 1, NULL, 'i'},
        {"append", 1, NULL, 'a'},
        {"memory", 1, NULL, 'm'},
        {"smp", 1, NULL, 's'},
        {"max-insns", 1, NULL, 'n'},
        {"signature", 1, NULL, 'g'},
        {"signature-range", 1, NULL, 'r'},
        {"icount", 0, NULL, 'c'},
        {"record", 1, NULL, 'O'},
        {"replay", 1, NULL, 'P'},
        {"seed", 1, NULL, 'd'},
        {"hash-every", 1, NULL, 'h'},
        {"stats", 0, NULL, 't'},
        {"firmware", 1, NULL, 'f'},
        {"cpu", 1, NULL, 'u'},
        {"snapshot-to", 1, NULL, 1000},
        {"snapshot-at-insns", 1, NULL, 1001},
        {"on-marker", 1, NULL, 1002},
        {"restore", 1, NULL, 1003},
        {"eager", 0, NULL, 1004},
        {"lazy", 0, NULL, 1005},
        {"on-demand", 0, NULL, 1006},
        {"engine", 1, NULL, 'j'},
        {"gdb", 1, NULL, 1007},
        {"wait", 0, NULL, 1008},
        {NULL, 0, NULL, 0},
    };
    /* clang-format on */
    uint64_t v;
    int c;
    *o = (struct wh_options){
        .memory = 256u << 20, .smp = 1, .seed = 1, .append = "console=ttyS0", .restore_how = WH_RESTORE_LAZY};
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'e':
            o->elf = optarg;
            break;
        case 'j':
            if (!parse_engine(optarg, &o->engine))
                return wh_usage("--engine wants interpreter or jit");
            break;
        case 'f':
            o->firmware = optarg;
            break;
        case 'k':
            o->kernel = optarg;
            break;
        case 'i':
            o->initrd = optarg;
            break;
        case 'a':
            o->append = optarg;
            break;
        case 'g':
            o->signature = optarg;
            break;
        case 'r':
            if (strchr(optarg, ':') == NULL)
                return wh_usage("--signature-range wants BEGIN:END, each a symbol or an address");
            o->signature_range = optarg;
            break;
        case 't':
            o->stats = true;
            break;
        case 1007:
            o->gdb = optarg;
            break;
        case 1008:
            o->wait = true;
            break;
        case 'c':
            o->icount = true;
            break;
        case 'O':
            o->record = optarg;
            break;
        case 'P':
            o->replay = optarg;
            break;
        case 'd':
            if (!wh_parse_number(optarg, false, &o->seed) || o->seed == 0)
                return wh_usage("--seed wants a number above 0");
            break;
        case 'h':
            if (!wh_parse_number(optarg, false, &o->hash_every) || o->hash_every == 0)
                return wh_usage("--hash-every wants a number above 0");
            break;
        case 'u':
            if (!parse_model(optarg, &o->cpu))
                return wh_usage("--cpu wants rva22 or rv64gc");
            break;
        case 1000:
            o->snapshot_to = optarg;
            break;
        case 1001:
            if (!wh_parse_number(optarg, false, &o->snapshot_at) || o->snapshot_at == 0)
                return wh_usage("--snapshot-at-insns wants a number above 0");
            break;
        case 1002:
            if (optarg[0] == '\0' || strlen(optarg) > WH_MARKER_MAX)
                return wh_usage("--on-marker wants a text of at most 255 bytes");
            o->marker.text = optarg;
            break;
        case 1003:
            o->restore = optarg;
            break;
        case 1004:
            o->restore_how = WH_RESTORE_EAGER;
            break;
        case 1005:
            o->restore_how = WH_RESTORE_LAZY;
            break;
        case 1006:
            o->restore_how = WH_RESTORE_ON_DEMAND;
            break;
        case 'm':
            if (!wh_parse_number(optarg, true, &o->memory))
                return wh_usage("--memory wants a size such as 256M");
            break;
        case 's':
            if (!wh_parse_number(optarg, false, &v) || v < 1 || v > WH_MAX_HARTS)
                return wh_usage("--smp wants 1 to 64");
            o->smp = (uint32_t)v;
            break;
        case 'n':
            if (!wh_parse_number(optarg, false, &o->max_insns))
                return wh_usage("--max-insns wants a number");
            break;
        default:
            return wh_usage("unknown option");
        }
    }
    return check(o, optind != argc);
}

/* wherry-core: the machine as a command, without Python.
 *
 *   wherry-core run --kernel Image [--initrd FILE] [--append TEXT] [--memory 256M] [--smp N]
 *   wherry-core run --firmware FILE [--kernel Image ...]    firmware in M-mode, which starts the kernel
 *   wherry-core run --elf FILE [--signature FILE] [--signature-range BEGIN:END] [--max-insns N] ...
 *   with any of them: --cpu rva22|rv64gc, the CPU model
 *   wherry-core run ... --snapshot-to FILE (--snapshot-at-insns N | --on-marker TEXT)
 *   wherry-core run --restore FILE [--lazy | --on-demand | --eager] [--elf FILE]
 *
 * A snapshot is taken once that many instructions were executed or the text has come out of the UART; the run ends with
 * it. --restore goes on from one: lazily (the default: pages come from the file when they are touched, the rest in the
 * background), on demand (no background) or after everything was read; an --elf is read for its symbols only then.
 * The UART is stdin and stdout. An ELF starts in M-mode at its entry point; if it has a symbol `tohost` (the HTIF
 * convention of RISC-V test programs) the run ends when the program writes it: 1 is success, an odd value n fails with
 * code n >> 1 (main/htif.h). --signature writes the words between begin_signature and end_signature, or those that
 * --signature-range names by symbols or addresses, one 32-bit hexadecimal word a line, whether the program failed or
 * not.
 *
 * --icount: time from instructions (board/icount.c), so that the same --seed N (default 1) gives the same run;
 * --hash-every N prints "hash STEPS DIGEST" on standard error each time that so many steps were taken, and at the end.
 * --max-insns then ends the run at exactly that step. --record FILE writes down what comes in (standard input) and
 * when,
 * --replay FILE does the same run again from that.
 *
 * --gdb PATH: a debugger may connect to the Unix socket PATH (gdb-multiarch: target remote PATH); --wait: the first
 * instruction waits for it. Not with --icount, whose machine has no thread.
 *
 * Exit status: the guest's (0 also for power-off), 2 for usage, 3 when it can't run, 4 when --max-insns were not
 * enough, 5 when it crashed. */
#include "board/board.h"
#include "cpu/model.h"
#include "main/gdb_socket.h"
#include "main/htif.h"
#include "main/snapshots.h"
#include "main/symbols.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { EXIT_USAGE = 2, EXIT_CANNOT = 3, EXIT_INSNS = 4, EXIT_CRASH = 5 };

struct options {
    const char *elf, *firmware, *kernel, *initrd, *append, *signature, *signature_range;
    const char *snapshot_to, *restore, *gdb, *record, *replay;
    uint64_t memory, max_insns, seed, hash_every, snapshot_at;
    uint32_t smp, cpu, engine;
    int restore_how;
    bool stats, icount, wait;
    struct wh_marker marker;
};

struct session {
    const struct options *opt;
    wh_machine *machine;
    struct wh_symbols symbols;
    uint64_t shown; /* UART bytes written to stdout */
    struct wh_marker marker;
    bool marker_seen;
    bool input_open;
    wh_gdb_socket gdb;
    uint64_t begun, ran; /* host ns: when the command began, when the first instructions had been executed */
};

static int usage(const char *why)
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

static int cannot(const wh_error *err)
{
    fprintf(stderr, "wherry-core: %s: %s\n", err->field, err->message);
    return EXIT_CANNOT;
}

static bool parse_number(const char *text, bool units, uint64_t *out)
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

static int check(const struct options *o, bool more)
{
    bool boots = o->kernel != NULL || o->firmware != NULL;
    if (o->restore != NULL && (boots || o->initrd != NULL))
        return usage("--restore takes everything but the symbols of an --elf from its file");
    if (more || (o->restore == NULL && (o->elf != NULL) == boots))
        return usage("give either --elf, or --kernel, --firmware or both, or --restore");
    if ((o->snapshot_to != NULL) != (o->snapshot_at != 0 || o->marker.text != NULL))
        return usage("--snapshot-to wants --snapshot-at-insns or --on-marker, and they want it");
    if ((o->wait && o->gdb == NULL) || (o->gdb != NULL && o->icount))
        return usage("--wait goes with --gdb, which does not go with --icount");
    if ((o->hash_every != 0 || o->record != NULL || o->replay != NULL) && !o->icount && o->restore == NULL)
        return usage("--hash-every, --record and --replay go with --icount");
    if (o->record != NULL && o->replay != NULL)
        return usage("--record or --replay, not both");
    return 0;
}

static int parse(int argc, char **argv, struct options *o)
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
    *o = (struct options){
        .memory = 256u << 20, .smp = 1, .seed = 1, .append = "console=ttyS0", .restore_how = WH_RESTORE_LAZY};
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'e':
            o->elf = optarg;
            break;
        case 'j':
            if (!parse_engine(optarg, &o->engine))
                return usage("--engine wants interpreter or jit");
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
                return usage("--signature-range wants BEGIN:END, each a symbol or an address");
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
            if (!parse_number(optarg, false, &o->seed) || o->seed == 0)
                return usage("--seed wants a number above 0");
            break;
        case 'h':
            if (!parse_number(optarg, false, &o->hash_every) || o->hash_every == 0)
                return usage("--hash-every wants a number above 0");
            break;
        case 'u':
            if (!parse_model(optarg, &o->cpu))
                return usage("--cpu wants rva22 or rv64gc");
            break;
        case 1000:
            o->snapshot_to = optarg;
            break;
        case 1001:
            if (!parse_number(optarg, false, &o->snapshot_at) || o->snapshot_at == 0)
                return usage("--snapshot-at-insns wants a number above 0");
            break;
        case 1002:
            if (optarg[0] == '\0' || strlen(optarg) > WH_MARKER_MAX)
                return usage("--on-marker wants a text of at most 255 bytes");
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
            if (!parse_number(optarg, true, &o->memory))
                return usage("--memory wants a size such as 256M");
            break;
        case 's':
            if (!parse_number(optarg, false, &v) || v < 1 || v > WH_MAX_HARTS)
                return usage("--smp wants 1 to 64");
            o->smp = (uint32_t)v;
            break;
        case 'n':
            if (!parse_number(optarg, false, &o->max_insns))
                return usage("--max-insns wants a number");
            break;
        default:
            return usage("unknown option");
        }
    }
    return check(o, optind != argc);
}

static int open_file(const char *path, int *fd)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd >= 0)
        return 0;
    fprintf(stderr, "wherry-core: %s: %s\n", path, strerror(errno));
    return EXIT_CANNOT;
}

/* -1 for no path. */
static int open_optional(const char *path, int *fd)
{
    *fd = -1;
    return path != NULL ? open_file(path, fd) : 0;
}

/* One end of --signature-range: an address, or a symbol's. */
static bool signature_end(int fd, const char *name, uint64_t *value)
{
    if (parse_number(name, false, value) || wh_symbols_find(fd, name, value))
        return true;
    fprintf(stderr, "wherry-core: --signature-range: the program has no symbol %s\n", name);
    return false;
}

static int read_symbols(struct session *s, int fd)
{
    char name[256];
    wh_symbols_read(fd, &s->symbols);
    if (s->opt->signature_range == NULL)
        return 0;
    const char *colon = strchr(s->opt->signature_range, ':');
    (void)snprintf(name, sizeof name, "%.*s", (int)(colon - s->opt->signature_range), s->opt->signature_range);
    bool good =
        signature_end(fd, name, &s->symbols.begin_signature) && signature_end(fd, colon + 1, &s->symbols.end_signature);
    return good ? 0 : EXIT_CANNOT;
}

static int load_files(struct session *s, int main_fd, int kernel, int initrd)
{
    const struct options *o = s->opt;
    wh_error err = {0};
    int status;
    if (o->elf != NULL) {
        status = wh_machine_load_firmware(s->machine, main_fd, &err);
        if (status == WH_OK)
            return read_symbols(s, main_fd);
    } else if (o->firmware != NULL) {
        status = wh_machine_load_firmware_linux(s->machine, main_fd, kernel, initrd, o->append, &err);
    } else {
        status = wh_machine_load_linux(s->machine, kernel, initrd, o->append, &err);
    }
    return status == WH_OK ? 0 : cannot(&err);
}

/* A whole machine from a snapshot; the ELF, where one is given, says where tohost and the signature are. */
static int restore(struct session *s, int snapshot)
{
    wh_error err = {0};
    int fd, status = wh_machine_restore(s->machine, snapshot, s->opt->restore_how, NULL, NULL, &err);
    if (status != WH_OK)
        return cannot(&err);
    if (s->opt->elf == NULL)
        return 0;
    status = open_file(s->opt->elf, &fd);
    if (status == 0) {
        status = read_symbols(s, fd);
        close(fd);
    }
    return status;
}

static int load(struct session *s)
{
    const char *path[] = {s->opt->elf ? s->opt->elf : s->opt->firmware, s->opt->kernel, s->opt->initrd};
    int fd[3] = {-1, -1, -1}, status = 0;
    for (unsigned i = 0; i < 3 && status == 0; i++)
        status = open_optional(path[i], &fd[i]);
    if (status == 0)
        status = load_files(s, fd[0], fd[1], fd[2]);
    for (unsigned i = 0; i < 3; i++)
        if (fd[i] >= 0)
            close(fd[i]);
    return status;
}

static void show_output(struct session *s)
{
    uint8_t buf[4096];
    size_t got = 0;
    while (wh_machine_channel_read(s->machine, WH_CH_UART, &s->shown, buf, sizeof buf, &got) == WH_OK && got > 0) {
        for (size_t at = 0; at < got;) {
            ssize_t n = write(STDOUT_FILENO, buf + at, got - at);
            if (n < 0 && errno != EINTR)
                return;
            at += n > 0 ? (size_t)n : 0;
        }
        s->marker_seen = s->marker_seen || wh_marker_seen(&s->marker, buf, got);
        s->shown += got;
        got = 0;
    }
}

static void pass_input(struct session *s)
{
    uint8_t buf[256];
    size_t taken;
    ssize_t n = read(STDIN_FILENO, buf, sizeof buf);
    if (n <= 0)
        s->input_open = false;
    else
        (void)wh_machine_channel_write(s->machine, WH_CH_UART, buf, (size_t)n, &taken);
}

/* The next event's meaning as an exit status, or -1. */
static int event_status(struct session *s)
{
    wh_event ev;
    while (wh_machine_next_event(s->machine, &ev) == WH_OK) {
        if (ev.kind == WH_EV_POWEROFF)
            return (int)(ev.arg & 255);
        if (ev.kind == WH_EV_REBOOT)
            return 0;
        if (ev.kind == WH_EV_CRASH) {
            fprintf(stderr, "wherry-core: %s\n", ev.text);
            return EXIT_CRASH;
        }
    }
    return -1;
}

static bool snapshot_due(const struct session *s, uint64_t instructions)
{
    return s->opt->snapshot_to != NULL &&
           (s->marker_seen || (s->opt->snapshot_at != 0 && instructions >= s->opt->snapshot_at));
}

static int take_snapshot(struct session *s)
{
    wh_error err = {0};
    return wh_snapshot_save_as(s->machine, s->opt->snapshot_to, &err) == WH_OK ? 0 : cannot(&err);
}

/* When a restored machine has executed its first instructions; figures are told every few thousand of them. */
static void watch_first(struct session *s)
{
    wh_machine_stats first, now;
    wh_machine_get_stats(s->machine, &first);
    do {
        usleep(20);
        wh_machine_get_stats(s->machine, &now);
        s->ran = wh_now_ns();
    } while (now.instructions == first.instructions && s->ran - s->begun < 1000000000ull);
}

static int drive(struct session *s)
{
    if (s->opt->restore != NULL && s->opt->stats)
        watch_first(s);
    for (;;) {
        struct pollfd fds[3] = {{.fd = wh_machine_event_fd(s->machine), .events = POLLIN},
                                {.fd = s->input_open ? STDIN_FILENO : -1, .events = POLLIN},
                                {.fd = s->gdb.fd, .events = POLLIN}};
        /* nobody tells us about these */
        bool watch = s->symbols.tohost != 0 || s->opt->max_insns != 0 || s->opt->snapshot_at != 0;
        if (poll(fds, 3, watch ? 2 : -1) < 0 && errno != EINTR)
            return EXIT_CANNOT;
        if (fds[1].revents)
            pass_input(s);
        if (fds[2].revents)
            wh_gdb_socket_ready(&s->gdb, s->machine);
        int status = event_status(s);
        show_output(s);
        if (status < 0)
            status = wh_htif_look(wh_machine_ram(s->machine), &s->symbols);
        if (status >= 0)
            return status;
        wh_machine_stats stats;
        wh_machine_get_stats(s->machine, &stats);
        if (snapshot_due(s, stats.instructions))
            return take_snapshot(s);
        if (s->opt->max_insns != 0 && stats.instructions > s->opt->max_insns)
            return EXIT_INSNS;
    }
}

static bool print_hash(struct session *s)
{
    uint8_t digest[16];
    wh_error err = {0};
    if (wh_machine_digest(s->machine, digest, &err) != WH_OK) {
        (void)cannot(&err);
        return false;
    }
    fprintf(stderr, "hash %" PRIu64 " ", wh_icount_steps(s->machine));
    for (unsigned i = 0; i < sizeof digest; i++)
        fprintf(stderr, "%02x", digest[i]);
    fputc('\n', stderr);
    return true;
}

enum { LOOK_EVERY = 1000000 }; /* steps between two looks at standard input and at tohost */

/* Where the driver has to come back to, after `at`. */
static uint64_t next_stop(const struct options *o, uint64_t at)
{
    uint64_t stop = at - at % LOOK_EVERY + LOOK_EVERY;
    uint64_t hash = o->hash_every != 0 ? at - at % o->hash_every + o->hash_every : UINT64_MAX;
    stop = hash < stop ? hash : stop;
    stop = o->snapshot_at > at && o->snapshot_at < stop ? o->snapshot_at : stop;
    return o->max_insns != 0 && o->max_insns < stop ? o->max_insns : stop;
}

static void await_input(struct session *s, bool block)
{
    struct pollfd fd = {.fd = s->input_open ? STDIN_FILENO : -1, .events = POLLIN};
    if (poll(&fd, 1, block ? -1 : 0) > 0)
        pass_input(s);
}

/* The machine on this thread, so that looks at it fall on the same steps each time. */
static int drive_icount(struct session *s)
{
    const struct options *o = s->opt;
    for (;;) {
        uint64_t at = wh_icount_steps(s->machine);
        enum wh_icount_stop why = wh_icount_run(s->machine, next_stop(o, at));
        at = wh_icount_steps(s->machine);
        show_output(s);
        int status = event_status(s);
        if (status < 0)
            status = wh_htif_look(wh_machine_ram(s->machine), &s->symbols);
        bool over = status >= 0 || (o->max_insns != 0 && at >= o->max_insns);
        if (why == WH_ICOUNT_IDLE && !s->input_open && !over) {
            fprintf(stderr, "wherry-core: the guest waits for ever\n");
            status = EXIT_CRASH;
            over = true;
        }
        if (o->hash_every != 0 && (over || at % o->hash_every == 0) && !print_hash(s))
            return EXIT_CANNOT;
        if (over)
            return status >= 0 ? status : EXIT_INSNS;
        if (snapshot_due(s, at))
            return take_snapshot(s);
        await_input(s, why == WH_ICOUNT_IDLE);
    }
}

static void print_stats(struct session *s)
{
    wh_machine_stats t;
    wh_machine_get_stats(s->machine, &t);
    fprintf(stderr,
            "instructions %" PRIu64 " run_ms %" PRIu64 " wfi_ms %" PRIu64 " mips %.1f traps %" PRIu64
            " interrupts %" PRIu64 " mmio %" PRIu64 " tlb_misses %" PRIu64 "\n",
            t.instructions, t.run_ns / 1000000, t.wfi_ns / 1000000,
            t.run_ns ? (double)t.instructions * 1000.0 / (double)t.run_ns : 0.0, t.traps, t.interrupts, t.mmio,
            t.tlb_misses);
    if (s->opt->restore != NULL)
        fprintf(stderr,
                "restore_ms %.3f pages_restored %" PRIu64 " pages_faulted %" PRIu64 " pages_absent %" PRIu64 "\n",
                (double)(s->ran - s->begun) / 1e6, t.pages_restored, t.pages_faulted, t.pages_absent);
}

/* The log of inputs, to or from. */
static int open_inputs(struct session *s)
{
    const struct options *o = s->opt;
    const char *path = o->record != NULL ? o->record : o->replay;
    wh_error err = {0};
    if (path == NULL)
        return 0;
    int fd = open(path, (o->record != NULL ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY) | O_CLOEXEC, 0666);
    if (fd < 0) {
        fprintf(stderr, "wherry-core: %s: %s\n", path, strerror(errno));
        return EXIT_CANNOT;
    }
    int status = o->record != NULL ? wh_machine_record(s->machine, fd, &err) : wh_machine_replay(s->machine, fd, &err);
    close(fd);
    if (o->replay != NULL)
        s->input_open = false;
    return status != WH_OK ? cannot(&err) : 0;
}

static int open_gdb(struct session *s)
{
    if (wh_gdb_socket_open(&s->gdb, s->opt->gdb) != 0) {
        fprintf(stderr, "wherry-core: %s: %s\n", s->opt->gdb, strerror(errno));
        return EXIT_CANNOT;
    }
    return s->opt->wait ? wh_machine_debug_hold(s->machine) : 0;
}

static int run(const struct options *o)
{
    struct session s = {
        .opt = o, .input_open = o->elf == NULL, .marker = o->marker, .begun = wh_now_ns(), .gdb = {.fd = -1}};
    wh_error err = {0};
    int snapshot = -1;
    wh_machine_config config = {.ram_bytes = o->memory,
                                .harts = o->smp,
                                .boot = o->elf || o->firmware ? WH_BOOT_FIRMWARE : WH_BOOT_LINUX,
                                .seed = o->seed,
                                .engine = o->engine,
                                .icount = o->icount,
                                .cpu = o->cpu};
    if (o->restore != NULL && wh_snapshot_open(o->restore, &config, &snapshot, &err) != WH_OK)
        return cannot(&err);
    config.icount |= o->icount;
    config.engine = o->engine;
    if (wh_machine_new(&config, &s.machine, &err) != WH_OK)
        return cannot(&err);
    int status = o->restore != NULL ? restore(&s, snapshot) : load(&s);
    if (snapshot >= 0)
        close(snapshot);
    if (status == 0 && o->gdb != NULL)
        status = open_gdb(&s);
    if (status == 0)
        status = open_inputs(&s);
    if (status == 0 && (config.icount ? wh_icount_start(s.machine, &err) : wh_machine_start(s.machine, &err)) != WH_OK)
        status = cannot(&err);
    else if (status == 0) {
        status = config.icount ? drive_icount(&s) : drive(&s);
        (void)wh_machine_stop(s.machine);
        show_output(&s);
        if (o->stats)
            print_stats(&s);
        bool written = o->signature == NULL || wh_signature_write(wh_machine_ram(s.machine), s.symbols.begin_signature,
                                                                  s.symbols.end_signature, o->signature) == 0;
        if (!written && status == 0)
            status = EXIT_CANNOT;
    }
    wh_gdb_socket_close(&s.gdb); /* after the stop, so that the debugger learns how the guest ended */
    wh_machine_free(s.machine);
    return status;
}

int main(int argc, char **argv)
{
    struct options o;
    struct termios saved, raw;
    if (argc < 2 || strcmp(argv[1], "run") != 0)
        return usage("the command is: run");
    int status = parse(argc - 1, argv + 1, &o);
    if (status != 0)
        return status;
    bool terminal = o.elf == NULL && tcgetattr(STDIN_FILENO, &saved) == 0;
    if (terminal) {
        raw = saved;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO); /* Ctrl-C still ends us */
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    status = run(&o);
    if (terminal)
        tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    return status;
}

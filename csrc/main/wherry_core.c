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
#include "main/htif.h"
#include "main/session.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

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
    if (wh_parse_number(name, false, value) || wh_symbols_find(fd, name, value))
        return true;
    fprintf(stderr, "wherry-core: --signature-range: the program has no symbol %s\n", name);
    return false;
}

static int read_symbols(struct wh_session *s, int fd)
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

static int load_files(struct wh_session *s, int main_fd, int kernel, int initrd)
{
    const struct wh_options *o = s->opt;
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
    return status == WH_OK ? 0 : wh_cannot(&err);
}

/* A whole machine from a snapshot; the ELF, where one is given, says where tohost and the signature are. */
static int restore(struct wh_session *s, int snapshot)
{
    wh_error err = {0};
    int fd, status = wh_machine_restore(s->machine, snapshot, s->opt->restore_how, NULL, NULL, &err);
    if (status != WH_OK)
        return wh_cannot(&err);
    if (s->opt->elf == NULL)
        return 0;
    status = open_file(s->opt->elf, &fd);
    if (status == 0) {
        status = read_symbols(s, fd);
        close(fd);
    }
    return status;
}

static int load(struct wh_session *s)
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

static void print_stats(struct wh_session *s)
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
static int open_inputs(struct wh_session *s)
{
    const struct wh_options *o = s->opt;
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
    return status != WH_OK ? wh_cannot(&err) : 0;
}

static int open_gdb(struct wh_session *s)
{
    if (wh_gdb_socket_open(&s->gdb, s->opt->gdb) != 0) {
        fprintf(stderr, "wherry-core: %s: %s\n", s->opt->gdb, strerror(errno));
        return EXIT_CANNOT;
    }
    return s->opt->wait ? wh_machine_debug_hold(s->machine) : 0;
}

static int run(const struct wh_options *o)
{
    struct wh_session s = {
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
        return wh_cannot(&err);
    config.icount |= o->icount;
    config.engine = o->engine;
    if (wh_machine_new(&config, &s.machine, &err) != WH_OK)
        return wh_cannot(&err);
    int status = o->restore != NULL ? restore(&s, snapshot) : load(&s);
    if (snapshot >= 0)
        close(snapshot);
    if (status == 0 && o->gdb != NULL)
        status = open_gdb(&s);
    if (status == 0)
        status = open_inputs(&s);
    if (status == 0 && (config.icount ? wh_icount_start(s.machine, &err) : wh_machine_start(s.machine, &err)) != WH_OK)
        status = wh_cannot(&err);
    else if (status == 0) {
        status = config.icount ? wh_drive_icount(&s) : wh_drive(&s);
        (void)wh_machine_stop(s.machine);
        wh_show_output(&s);
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
    struct wh_options o;
    struct termios saved, raw;
    if (argc < 2 || strcmp(argv[1], "run") != 0)
        return wh_usage("the command is: run");
    int status = wh_options_parse(argc - 1, argv + 1, &o);
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

/* Rows of the kernel's work: `syscall`, `pagefault`, `pipe` (round trip between two processes on one hart), `fork`,
 * `exec`, `signal`; and `sha256`, `gzip` by busybox (information; no row of the table). */
#include "bench.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FAULT_PAGES = 1024, DATA = 2 << 20 };

const char *bench_busybox, *bench_self;

static _Noreturn void broken(const char *what)
{
    (void)!write(2, what, __builtin_strlen(what));
    (void)!write(2, " failed\n", 8);
    _exit(9);
}

static uint64_t syscall_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += (uint64_t)syscall(SYS_getppid);
    return sum;
}

/* One time is one first touch of a page of fresh memory; making and dropping the mapping is in it. */
static uint64_t pagefault_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t done = 0; done < n; done += FAULT_PAGES) {
        size_t pages = n - done < FAULT_PAGES ? (size_t)(n - done) : FAULT_PAGES;
        char *at = mmap(NULL, pages << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            broken("mmap");
        madvise(at, pages << 12, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < pages; i++) {
            at[i << 12] = (char)(i + 1);
            sum += (unsigned char)at[i << 12];
        }
        munmap(at, pages << 12);
    }
    return sum;
}

static void pin(unsigned cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static struct {
    int there[2], back[2];
    pid_t child;
    cpu_set_t before;
} echo;

/* A child that sends each byte back; both on one hart: the figure is the switch between them. */
static bool pipe_prepare(void)
{
    char c;
    if (pipe(echo.there) != 0 || pipe(echo.back) != 0)
        return false;
    sched_getaffinity(0, sizeof echo.before, &echo.before);
    pin(0);
    echo.child = fork();
    if (echo.child != 0)
        return echo.child > 0;
    close(echo.there[1]);
    while (read(echo.there[0], &c, 1) == 1 && write(echo.back[1], &c, 1) == 1)
        ;
    _exit(0);
}

static void pipe_finish(void)
{
    close(echo.there[1]);
    waitpid(echo.child, NULL, 0);
    close(echo.there[0]);
    close(echo.back[0]);
    close(echo.back[1]);
    sched_setaffinity(0, sizeof echo.before, &echo.before);
}

static uint64_t pipe_run(uint64_t n)
{
    char c = 'x';
    for (uint64_t i = 0; i < n; i++)
        if (write(echo.there[1], &c, 1) != 1 || read(echo.back[0], &c, 1) != 1)
            broken("pipe");
    return (uint64_t)c * n;
}

static char *heap;

/* A process of some size: one MiB of its own pages. */
static bool fork_prepare(void)
{
    heap = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (heap == MAP_FAILED)
        return false;
    for (size_t i = 0; i < 1 << 20; i += 4096)
        heap[i] = 1;
    return true;
}

static void fork_finish(void)
{
    munmap(heap, 1 << 20);
}

static uint64_t fork_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            _exit((int)(i & 63));
        if (child < 0 || waitpid(child, &status, 0) != child)
            broken("fork");
        sum += (uint64_t)WEXITSTATUS(status);
    }
    return sum;
}

static int spawn(const char *path, char *const argv[], int output)
{
    int status = 0;
    pid_t child = vfork();
    if (child == 0) {
        if (output >= 0)
            dup2(output, 1);
        execve(path, argv, NULL);
        _exit(127);
    }
    return child < 0 || waitpid(child, &status, 0) != child ? -1 : WEXITSTATUS(status);
}

/* One time starts this very binary, which ends at once (runner.c: "nothing"). */
static uint64_t exec_run(uint64_t n)
{
    static char *const argv[] = {"core", "nothing", NULL};
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        int code = spawn(bench_self, argv, -1);
        if (code != 7)
            broken("exec");
        sum += (uint64_t)code;
    }
    return sum;
}

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    caught += number;
}

static bool signal_prepare(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    return sigaction(SIGUSR1, &action, NULL) == 0;
}

static uint64_t signal_run(uint64_t n)
{
    long self = getpid();
    caught = 0;
    for (uint64_t i = 0; i < n; i++)
        syscall(SYS_kill, self, SIGUSR1);
    return (uint64_t)caught;
}

static const char data_path[] = "/tmp/bench-core-data";
static int nowhere = -1;

/* A file of words of skewed frequency, so that gzip has something to find. */
static bool data_prepare(void)
{
    static const char *const words[] = {"guest",   "hart ",  "page", "switch", "\n",
                                        "tunnel ", "round ", "a",    "the ",   "frame"};
    if (bench_busybox == NULL || access(bench_busybox, X_OK) != 0)
        return false;
    nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int fd = open(data_path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    char *data = malloc(DATA + 16);
    if (nowhere < 0 || fd < 0 || data == NULL)
        return false;
    uint32_t random = 12345;
    for (size_t at = 0; at < DATA;) {
        random = random * 1664525 + 1013904223;
        for (const char *w = words[(random >> 24) * (random >> 24) * 10 >> 16]; *w;)
            data[at++] = *w++;
        data[at++] = (char)('0' + (random >> 10) % 10);
    }
    bool ok = write(fd, data, DATA) == DATA;
    close(fd);
    free(data);
    return ok;
}

static uint64_t tool_run(uint64_t n, char *const argv[])
{
    for (uint64_t i = 0; i < n; i++)
        if (spawn(bench_busybox, argv, nowhere) != 0)
            broken("busybox");
    return n;
}

static uint64_t sha256_run(uint64_t n)
{
    return tool_run(n, (char *const[]){"busybox", "sha256sum", (char *)data_path, NULL});
}

static uint64_t gzip_run(uint64_t n)
{
    return tool_run(n, (char *const[]){"busybox", "gzip", "-c", (char *)data_path, NULL});
}

struct share {
    volatile int ready;
    volatile uint64_t begin, end; /* bench_now; begin 0: not yet */
    double speed[8];
};

/* Times per ns between `begin` and `end`, which are the same for all. */
static void load(struct share *s, unsigned index)
{
    pin(index);
    rows_integer[0].prepare();
    (void)rows_integer[0].run(2000); /* warm: translated by now */
    __atomic_add_fetch(&s->ready, 1, __ATOMIC_SEQ_CST);
    while (s->begin == 0)
        sched_yield();
    uint64_t times = 0, from = bench_now(), now;
    do {
        volatile uint64_t kept = rows_integer[0].run(16); /* the work must not be optimised away */
        (void)kept;
        times += 16;
    } while ((now = bench_now()) < s->end);
    s->speed[index] = (double)times / (double)(now - from);
    _exit(0);
}

/* The sum of the speeds of `count` loads at once. */
static double together(struct share *s, unsigned count, uint32_t ms)
{
    double sum = 0;
    s->ready = 0;
    s->begin = 0;
    for (unsigned i = 0; i < count; i++)
        if (fork() == 0)
            load(s, i);
    while ((unsigned)s->ready < count)
        usleep(1000);
    s->end = bench_now() + (uint64_t)ms * 1000000u;
    s->begin = 1;
    for (unsigned i = 0; i < count; i++)
        wait(NULL);
    for (unsigned i = 0; i < count; i++)
        sum += s->speed[i];
    return sum;
}

double bench_speedup(unsigned harts, uint32_t ms)
{
    if (sysconf(_SC_NPROCESSORS_ONLN) < (long)harts || harts > 8)
        return -1;
    struct share *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED)
        return -1;
    double alone = 0, all = 0;
    for (int turn = 0; turn < BENCH_WINDOWS; turn++) {
        double one = together(s, 1, ms / 2), several = together(s, harts, ms / 2);
        alone = one > alone ? one : alone;
        all = several > all ? several : all;
    }
    munmap(s, sizeof *s);
    return all / alone;
}

const struct row rows_system[] = {
    {"syscall", "ns", NULL, NULL, syscall_run, 0, 1, false},
    {"pagefault", "us", NULL, NULL, pagefault_run, 1024, 1e-3, false},
    {"pipe", "us", pipe_prepare, pipe_finish, pipe_run, 8, 1e-3, false},
    {"fork", "us", fork_prepare, fork_finish, fork_run, 4, 1e-3, false},
    {"exec", "us", fork_prepare, fork_finish, exec_run, 4, 1e-3, false},
    {"signal", "us", signal_prepare, NULL, signal_run, 16, 1e-3, false},
    {"sha256", "MB/s", data_prepare, NULL, sha256_run, 0, DATA / 1e6, true},
    {"gzip", "MB/s", data_prepare, NULL, gzip_run, 0, DATA / 1e6, true},
    {0},
};

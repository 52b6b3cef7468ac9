/* Each case runs in a child that enters the sandbox: what a guest process needs goes on, all else fails or kills. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define NO_SECCOMP  1u
#define NO_LANDLOCK 2u

static int failures;
static int listener, folder, exit_file; /* made before the sandbox, as the guest process does */
static char socket_path[64];

/* In the child: say what was not true and leave with failure. */
#define MUST(cond)                                                                                                     \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            dprintf(2, "line %d: not true: %s (errno %d)\n", __LINE__, #cond, errno);                                  \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)
#define DENIED(call) MUST((call) == -1 && (errno == EPERM || errno == EACCES))

static void *add_one(void *arg)
{
    ++*(int *)arg;
    return NULL;
}

static void allowed_work(void)
{
    int value = 0;
    pthread_t t;
    MUST(pthread_create(&t, NULL, add_one, &value) == 0); /* harts start after the sandbox is entered */
    MUST(pthread_join(t, NULL) == 0 && value == 1);

    int ep = epoll_create1(EPOLL_CLOEXEC), ev = eventfd(1, EFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN};
    MUST(ep >= 0 && ev >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, ev, &e) == 0);
    MUST(epoll_wait(ep, &e, 1, 0) == 1);
    MUST(close(ep) == 0);

    char *m = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(m != MAP_FAILED && madvise(m, 4096, MADV_DONTNEED) == 0);
    MUST(mprotect(m, 4096, PROT_READ) == 0 && munmap(m, 1 << 20) == 0);
    free(malloc(64 << 20));

    MUST(ftruncate(exit_file, 0) == 0 && pwrite(exit_file, "{}", 2, 0) == 2 && fsync(exit_file) == 0);
    struct stat st;
    MUST(fstat(exit_file, &st) == 0 && st.st_size == 2);
    struct timespec ts;
    MUST(clock_gettime(CLOCK_MONOTONIC, &ts) == 0);
    int one = 1;
    MUST(ioctl(ev, FIONBIO, &one) == 0);
    struct rlimit lim;
    MUST(getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_max <= 1024);
    MUST(getrlimit(RLIMIT_CORE, &lim) == 0 && lim.rlim_max == 0);
    MUST(prctl(PR_SET_NAME, "hart") == 0);
    MUST(fcntl(ev, F_DUPFD_CLOEXEC, 0) >= 0);
}

/* The control socket: a client that connects, and a descriptor that goes through. */
static void control_socket(void)
{
    int c = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    char byte = 'x';
    MUST(c >= 0);
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &exit_file, sizeof(int));
    MUST(sendmsg(c, &msg, 0) == 1);
    MUST(recv(c, &byte, 1, 0) == 1 && byte == 'y');
}

static void paths_fail(void)
{
    char buf[16];
    struct stat st;
    DENIED(open("/etc/hostname", O_RDONLY));
    DENIED(open("/tmp/wherry-sandbox", O_CREAT | O_WRONLY, 0600));
    DENIED(openat(folder, "exit.json", O_RDONLY));
    DENIED(openat(AT_FDCWD, "/", O_TMPFILE | O_RDWR, 0600));
    DENIED(unlink(socket_path));
    DENIED(mkdir("/tmp/wherry-sandbox", 0700));
    DENIED(rename("/tmp/a", "/tmp/b"));
    DENIED(stat("/etc/hostname", &st));
    DENIED(readlink("/proc/self/exe", buf, sizeof buf));
    DENIED(chdir("/"));
    DENIED(chmod("/tmp", 0777));
    DENIED((int)syscall(__NR_getdents64, folder, buf, sizeof buf));
}

static void processes_and_net_fail(void)
{
    DENIED(fork());
    DENIED((int)syscall(__NR_clone, SIGCHLD, 0, 0, 0, 0));
    DENIED((int)syscall(__NR_clone, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | 0x10000000 /* NEWUSER */, 0, 0, 0, 0));
    MUST(syscall(__NR_clone3, NULL, 0) == -1 && errno == ENOSYS);
    DENIED(socket(AF_INET, SOCK_STREAM, 0));
    DENIED(socket(AF_UNIX, SOCK_STREAM, 0));
    DENIED(socket(AF_NETLINK, SOCK_RAW, 0));
    DENIED(socket(AF_PACKET, SOCK_RAW, 0));
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    DENIED(bind(listener, (void *)&a, sizeof a));
    DENIED(connect(listener, (void *)&a, sizeof a));
    DENIED(kill(getppid(), 0));
    DENIED((int)syscall(__NR_tgkill, getppid(), getppid(), 0));
    DENIED((int)syscall(__NR_pidfd_open, getppid(), 0));
    MUST(kill(getpid(), 0) == 0); /* ourselves: abort() needs it */
    const struct rlimit lim = {10, 10};
    DENIED((int)syscall(__NR_prlimit64, 0, RLIMIT_NOFILE, &lim, NULL));
    DENIED(prctl(PR_SET_DUMPABLE, 1));
    DENIED(ioctl(0, TIOCSTI, "x"));
}

static void code_fails(void)
{
    MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    MUST(mmap(NULL, 4096, PROT_EXEC, MAP_SHARED, exit_file, 0) == MAP_FAILED);
    void *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    DENIED(mprotect(m, 4096, PROT_READ | PROT_EXEC));
    DENIED((int)syscall(__NR_pkey_mprotect, m, 4096, PROT_READ | PROT_EXEC, -1));
    DENIED((int)syscall(__NR_memfd_create, "x", 0));
    DENIED((int)syscall(__NR_shmget, 0, 4096, 0));
}

/* Landlock holds without seccomp too. */
static void landlock_alone(void)
{
    DENIED(open("/etc/hostname", O_RDONLY));
    DENIED(openat(folder, "exit.json", O_RDONLY));
    DENIED(unlink(socket_path));
    MUST(pwrite(exit_file, "{}", 2, 0) == 2); /* what is open stays open */
    MUST(ftruncate(exit_file, 0) == 0);
}

static void run_execve(void)
{
    char *argv[] = {(char *)"/bin/true", NULL};
    execve(argv[0], argv, argv + 1);
}
static void run_ptrace(void)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}
static void run_unshare(void)
{
    syscall(__NR_unshare, 0x10000000);
}
static void run_io_uring(void)
{
    syscall(__NR_io_uring_setup, 1, NULL);
}
static void run_bpf(void)
{
    syscall(__NR_bpf, 0, NULL, 0);
}
#ifdef __x86_64__
static void run_x32(void)
{
    syscall(0x40000000 + __NR_getpid);
}
static void run_i386(void) /* the 32-bit entry: getpid there is number 20 */
{
    long r = 20;
    __asm__ volatile("int $0x80" : "+a"(r) : : "memory", "r8", "r9", "r10", "r11");
}
#endif

struct entry {
    const char *name;
    uint32_t flags;
    void (*work)(void);
    bool dies;
};

static void child(const struct entry *e)
{
    uint32_t missing = 99;
    wh_error err = {0};
    int status = wh_sandbox_enter(e->flags, &missing, &err);
    if (status != WH_OK)
        dprintf(2, "enter: %d %s %s\n", status, err.field, err.message);
    MUST(status == WH_OK);
    MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 || errno == EPERM);
    if (missing != 0) {
        dprintf(2, "%s: skipped, this kernel lacks layers %#x\n", e->name, missing);
        _exit(0);
    }
    e->work();
    _exit(0);
}

static void run(const struct entry *e)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        child(e);
    if (e->work == control_socket) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        char byte;
        snprintf(a.sun_path, sizeof a.sun_path, "%s", socket_path);
        if (connect(s, (void *)&a, sizeof a) != 0 || recv(s, &byte, 1, 0) != 1 || byte != 'x' ||
            send(s, "y", 1, 0) != 1)
            failures++;
        close(s);
    }
    if (waitpid(pid, &status, 0) != pid)
        failures++;
    bool died = WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
    bool left = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (e->dies ? !died : !left) {
        fprintf(stderr, "sandbox: %s: wait status %#x\n", e->name, status);
        failures++;
    }
}

static const struct entry CASES[] = {
    {"allowed work", 0, allowed_work, false},
    {"control socket", 0, control_socket, false},
    {"paths", 0, paths_fail, false},
    {"paths without Landlock", NO_LANDLOCK, paths_fail, false},
    {"processes and network", 0, processes_and_net_fail, false},
    {"code", 0, code_fails, false},
    {"Landlock alone", NO_SECCOMP, landlock_alone, false},
    {"execve", 0, run_execve, true},
    {"ptrace", 0, run_ptrace, true},
    {"unshare", 0, run_unshare, true},
    {"io_uring", 0, run_io_uring, true},
    {"bpf", 0, run_bpf, true},
#ifdef __x86_64__
    {"x32", 0, run_x32, true},
    {"i386", 0, run_i386, true},
#endif
};

int main(void)
{
    char dir[] = "/tmp/wherry-sandbox-XXXXXX", path[80];
    if (!mkdtemp(dir))
        return 1;
    folder = open(dir, O_RDONLY | O_DIRECTORY);
    exit_file = openat(folder, "exit.json", O_CREAT | O_RDWR, 0600);
    snprintf(socket_path, sizeof socket_path, "%s/guest.sock", dir);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", socket_path);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (void *)&a, sizeof a) != 0 || listen(listener, 4) != 0)
        return 1;
    for (unsigned i = 0; i < WH_ARRAY_LEN(CASES); i++)
        run(&CASES[i]);
    uint32_t missing;
    wh_error err;
    if (wh_sandbox_enter(4, &missing, &err) != WH_E_INVAL)
        failures++;
    unlink(socket_path);
    snprintf(path, sizeof path, "%s/exit.json", dir);
    unlink(path);
    rmdir(dir);
    return failures != 0;
}

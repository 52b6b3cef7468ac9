/* sandbox: what is left to a guest process once it runs hostile code: the descriptors it has, memory, time, threads.
 *
 * Layers, each of which holds alone: no_new_privs; rlimits (no core files, a bound on descriptors); Landlock with an
 * empty rule set (no path can be opened, no TCP port bound or dialled); seccomp with an allow-list. What is not listed
 * fails with EPERM, so that a library that probes goes on; what no library of ours would ever call ends the process
 * with SIGSYS.
 *
 * Landlock restricts the calling thread and those it starts later, so the sandbox is entered before the harts are
 * started; where other threads are there already, Landlock counts as missing for honesty's sake. seccomp is set on all
 * threads. */
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAYER_SECCOMP  1u
#define LAYER_LANDLOCK 2u
#define MAX_FDS        1024u
#define FSTAT_EMPTY    0x1000u /* AT_EMPTY_PATH: newfstatat as fstat */

/* ---- seccomp ------------------------------------------------------------------------------------------------------
 */

#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef THIS_ARCH
/* Calls that are allowed whatever their arguments, the frequent ones first. */
static const int ALLOWED[] = {
    __NR_futex,
    __NR_read,
    __NR_write,
    __NR_epoll_pwait,
    __NR_clock_nanosleep,
    __NR_clock_gettime,
    __NR_readv,
    __NR_writev,
    __NR_pread64,
    __NR_pwrite64,
    __NR_preadv,
    __NR_pwritev,
    __NR_preadv2,
    __NR_pwritev2,
    __NR_recvmsg,
    __NR_sendmsg,
    __NR_recvfrom,
    __NR_sendto,
    __NR_accept,
    __NR_accept4,
    __NR_shutdown,
    __NR_getsockopt,
    __NR_setsockopt,
    __NR_getsockname,
    __NR_getpeername,
    __NR_ppoll,
    __NR_pselect6,
    __NR_epoll_create1,
    __NR_epoll_ctl,
    __NR_epoll_pwait2,
    __NR_eventfd2,
    __NR_pipe2,
    __NR_timerfd_create,
    __NR_timerfd_settime,
    __NR_timerfd_gettime,
    /* descriptors that exist */
    __NR_close,
    __NR_close_range,
    __NR_dup,
    __NR_dup3,
    __NR_fcntl,
    __NR_fstat,
    __NR_lseek,
    __NR_ftruncate,
    __NR_fallocate,
    __NR_fsync,
    __NR_fdatasync,
    /* memory; mmap and mprotect are below */
    __NR_munmap,
    __NR_mremap,
    __NR_brk,
    __NR_madvise,
    __NR_mincore,
    __NR_membarrier,
    /* time, identity, threads, signals */
    __NR_clock_getres,
    __NR_nanosleep,
    __NR_gettimeofday,
    __NR_getpid,
    __NR_gettid,
    __NR_getppid,
    __NR_getuid,
    __NR_geteuid,
    __NR_getgid,
    __NR_getegid,
    __NR_uname,
    __NR_sysinfo,
    __NR_getrusage,
    __NR_getrandom,
    __NR_sched_yield,
    __NR_sched_getaffinity,
    __NR_getcpu,
    __NR_set_robust_list,
    __NR_rseq,
    __NR_set_tid_address,
    __NR_rt_sigaction,
    __NR_rt_sigprocmask,
    __NR_rt_sigreturn,
    __NR_rt_sigtimedwait,
    __NR_rt_sigsuspend,
    __NR_sigaltstack,
    __NR_restart_syscall,
    __NR_exit,
    __NR_exit_group,
#ifdef __NR_epoll_wait /* the older half of x86-64 */
    __NR_epoll_wait,
    __NR_poll,
    __NR_select,
    __NR_dup2,
    __NR_pipe,
    __NR_time,
#endif
};

/* Calls that are allowed when (argument & mask) == value in its low 32 bits; `wide`: and its high 32 bits are 0. */
struct rule {
    int nr;
    unsigned arg;
    uint32_t mask, value;
    bool wide;
};
#define THREAD_FLAGS (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD)
#define NEW_SPACES                                                                                                     \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET |       \
     CLONE_VFORK | CLONE_PTRACE)
static const struct rule RULES[] = {
    {__NR_mmap, 2, PROT_EXEC, 0, false},
    {__NR_mprotect, 2, PROT_EXEC, 0, false},
    {__NR_clone, 0, THREAD_FLAGS | NEW_SPACES, THREAD_FLAGS, false},
    {__NR_newfstatat, 3, FSTAT_EMPTY, FSTAT_EMPTY, false},
    {__NR_prlimit64, 2, UINT32_MAX, 0, true}, /* to ask, not to set */
    {__NR_prctl, 0, UINT32_MAX, PR_SET_NAME, false},
    {__NR_socketpair, 0, UINT32_MAX, AF_UNIX, false},
    {__NR_ioctl, 1, UINT32_MAX, FIONBIO, false},
    {__NR_ioctl, 1, UINT32_MAX, FIOCLEX, false},
    {__NR_ioctl, 1, UINT32_MAX, FIONCLEX, false},
    {__NR_ioctl, 1, UINT32_MAX, FIONREAD, false},
};

/* Nothing in a guest process calls these: whoever does is not us any more. */
static const int DEADLY[] = {
    __NR_execve,
    __NR_execveat,
    __NR_ptrace,
    __NR_process_vm_readv,
    __NR_process_vm_writev,
    __NR_init_module,
    __NR_finit_module,
    __NR_delete_module,
    __NR_kexec_load,
    __NR_bpf,
    __NR_perf_event_open,
    __NR_mount,
    __NR_umount2,
    __NR_pivot_root,
    __NR_chroot,
    __NR_setns,
    __NR_unshare,
    __NR_reboot,
    __NR_swapon,
    __NR_swapoff,
    __NR_keyctl,
    __NR_add_key,
    __NR_request_key,
    __NR_io_uring_setup,
    __NR_open_by_handle_at,
    __NR_personality,
    __NR_setuid,
    __NR_setgid,
    __NR_setresuid,
    __NR_setresgid,
    __NR_move_pages,
    __NR_pidfd_getfd,
    __NR_userfaultfd,
#ifdef __NR_iopl
    __NR_iopl,
    __NR_ioperm,
    __NR_modify_ldt,
#endif
};

struct program {
    struct sock_filter insn[512];
    unsigned len;
};

static void emit(struct program *p, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
    /* All the tables are constant; a program that does not fit shows in the first test. */
    if (p->len < WH_ARRAY_LEN(p->insn))
        p->insn[p->len] = (struct sock_filter){code, yes, no, k};
    p->len++;
}

static void emit_load(struct program *p, size_t offset)
{
    emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void emit_return(struct program *p, uint32_t what)
{
    emit(p, BPF_RET | BPF_K, what, 0, 0);
}

/* The number is in the accumulator, before and after. */
static void emit_calls(struct program *p, const int *nr, size_t count, uint32_t what)
{
    for (size_t i = 0; i < count; i++) {
        emit(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr[i], 0, 1);
        emit_return(p, what);
    }
}

static void emit_rule(struct program *p, const struct rule *r)
{
    size_t low = offsetof(struct seccomp_data, args) + 8 * r->arg; /* both architectures are little-endian */
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)r->nr, 0, r->wide ? 7 : 5);
    emit_load(p, low);
    emit(p, BPF_ALU | BPF_AND | BPF_K, r->mask, 0, 0);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, r->value, 0, r->wide ? 3 : 1);
    if (r->wide) {
        emit_load(p, low + 4);
        emit(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1);
    }
    emit_return(p, SECCOMP_RET_ALLOW);
    emit_load(p, offsetof(struct seccomp_data, nr));
}

static void build(struct program *p)
{
    const uint32_t own = (uint32_t)getpid();
    const struct rule signals[] = {{__NR_tgkill, 0, UINT32_MAX, own, false}, {__NR_kill, 0, UINT32_MAX, own, false}};
    p->len = 0;
    emit_load(p, offsetof(struct seccomp_data, arch));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 1, 0);
    emit_return(p, SECCOMP_RET_KILL_PROCESS);
    emit_load(p, offsetof(struct seccomp_data, nr));
#ifdef __x86_64__ /* the x32 numbers name the same calls */
    emit(p, BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1);
    emit_return(p, SECCOMP_RET_KILL_PROCESS);
#endif
    emit_calls(p, ALLOWED, WH_ARRAY_LEN(ALLOWED), SECCOMP_RET_ALLOW);
    for (size_t i = 0; i < WH_ARRAY_LEN(RULES); i++)
        emit_rule(p, &RULES[i]);
    for (size_t i = 0; i < WH_ARRAY_LEN(signals); i++)
        emit_rule(p, &signals[i]);
    emit_calls(p, DEADLY, WH_ARRAY_LEN(DEADLY), SECCOMP_RET_KILL_PROCESS);
    /* clone3 has its flags in memory, where a filter cannot look; libc falls back to clone. */
    const int clone3 = __NR_clone3;
    emit_calls(p, &clone3, 1, SECCOMP_RET_ERRNO | ENOSYS);
    emit_return(p, SECCOMP_RET_ERRNO | EPERM);
}

static int enter_seccomp(uint32_t *missing, wh_error *err)
{
    struct program p;
    build(&p);
    if (p.len > WH_ARRAY_LEN(p.insn))
        return wh_fail(err, WH_E_UNSUPPORTED, "seccomp", "the filter needs %u instructions", p.len);
    struct sock_fprog prog = {(unsigned short)p.len, p.insn};
    long r = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog);
    if (r == 0)
        return WH_OK;
    if (r < 0 && (errno == ENOSYS || errno == EINVAL)) {
        *missing |= LAYER_SECCOMP;
        return WH_OK;
    }
    return wh_fail(err, WH_E_IO, "seccomp", "%s", r > 0 ? "a thread has a filter of its own" : strerror(errno));
}
#else
static int enter_seccomp(uint32_t *missing, wh_error *err)
{
    (void)err;
    *missing |= LAYER_SECCOMP;
    return WH_OK;
}
#endif

/* ---- Landlock -----------------------------------------------------------------------------------------------------
 */

/* The kernel's attribute record, as far as ABI 6; an older kernel is given the part that it knows. */
struct landlock_rights {
    uint64_t fs, net, scoped;
};
enum { NR_LANDLOCK_CREATE = 444, NR_LANDLOCK_RESTRICT = 446, LANDLOCK_ASK_VERSION = 1 };

static size_t rights_for(long abi, struct landlock_rights *out)
{
    const unsigned fs_bits = abi >= 5 ? 16 : abi >= 3 ? 15 : abi == 2 ? 14 : 13; /* one bit each kind of access */
    *out = (struct landlock_rights){(1ull << fs_bits) - 1, 3, 3};
    return abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
}

/* 0 when it cannot be told. */
static unsigned thread_count(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/task");
    if (!dir)
        return 0;
    for (struct dirent *e = readdir(dir); e; e = readdir(dir))
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static int enter_landlock(uint32_t *missing, wh_error *err)
{
    struct landlock_rights rights;
    long abi = syscall(NR_LANDLOCK_CREATE, NULL, 0, LANDLOCK_ASK_VERSION);
    if (abi < 1) {
        *missing |= LAYER_LANDLOCK;
        return WH_OK;
    }
    unsigned threads = thread_count();
    size_t size = rights_for(abi, &rights);
    long fd = syscall(NR_LANDLOCK_CREATE, &rights, size, 0);
    if (fd < 0)
        return wh_fail(err, WH_E_IO, "landlock", "create: %s", strerror(errno));
    long r = syscall(NR_LANDLOCK_RESTRICT, (int)fd, 0);
    int why = errno;
    close((int)fd);
    if (r != 0)
        return wh_fail(err, WH_E_IO, "landlock", "restrict: %s", strerror(why));
    if (threads != 1)
        *missing |= LAYER_LANDLOCK;
    return WH_OK;
}

/* ---- rlimits ------------------------------------------------------------------------------------------------------
 */

static int lower_limit(int resource, rlim_t to, wh_error *err)
{
    struct rlimit now;
    if (getrlimit(resource, &now) != 0)
        return wh_fail(err, WH_E_IO, "rlimit", "%s", strerror(errno));
    if (now.rlim_max > to)
        now.rlim_max = to;
    if (now.rlim_cur > now.rlim_max)
        now.rlim_cur = now.rlim_max;
    if (setrlimit(resource, &now) != 0)
        return wh_fail(err, WH_E_IO, "rlimit", "%s", strerror(errno));
    return WH_OK;
}

int wh_sandbox_enter(uint32_t flags, uint32_t *missing, wh_error *err)
{
    *missing = 0;
    if (flags & ~(LAYER_SECCOMP | LAYER_LANDLOCK))
        return wh_fail(err, WH_E_INVAL, "flags", "%#x; known are 1 (leave out seccomp) and 2 (leave out Landlock)",
                       flags);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return wh_fail(err, WH_E_IO, "no_new_privs", "%s", strerror(errno));
    int status = lower_limit(RLIMIT_CORE, 0, err);
    if (status == WH_OK)
        status = lower_limit(RLIMIT_NOFILE, MAX_FDS, err);
    if (status == WH_OK && !(flags & LAYER_LANDLOCK))
        status = enter_landlock(missing, err);
    if (status == WH_OK && !(flags & LAYER_SECCOMP))
        status = enter_seccomp(missing, err); /* last: it forbids the calls above */
    return status;
}

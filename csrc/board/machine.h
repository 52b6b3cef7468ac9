/* The inside of a machine. Private to board/.
 *
 * Who calls whom, from the bottom up: events, clock, bells < channel, rest < inputs, hsm, debug, sbi, io < icount
 * < snapshot < restore < run < machine.
 *
 * Threads: one per hart and one for I/O (run.c), made by start. Locks, in the order in which they may be taken:
 *   lock      devices, PLIC, HSM states, clock; never held while a hart executes or anything sleeps
 *   run_lock  run state and who is parked
 *   channel.lock, events.lock, shrink_lock  leaves
 * A thread that is parked holds no lock and touches neither RAM nor devices. */
#ifndef WH_MACHINE_H
#define WH_MACHINE_H

#include "board/board.h"
#include "cpu/cpu.h"
#include "cpu/model.h"
#include "dev/devices.h"
#include "jit/jit.h"
#include "virtio/virtio.h"

#include <pthread.h>
#include <sys/epoll.h>

#define WH_VIRTIO_SLOTS  8u
#define WH_MAX_NICS      6u
#define WH_MAX_DISKS     6u
#define WH_CHANNELS      3u
#define WH_CHANNEL_BYTES 65536u

#define WH_ROM_BASE      0x00001000ull
#define WH_FINISHER_BASE 0x00100000ull
#define WH_RTC_BASE      0x00101000ull
#define WH_ACLINT_BASE   0x02000000ull
#define WH_PLIC_BASE     0x0c000000ull
#define WH_UART_BASE     0x10000000ull
#define WH_VIRTIO_BASE   0x10001000ull
#define WH_VIRTIO_IRQ    1u
#define WH_UART_IRQ      10u
#define WH_RTC_IRQ       11u

#define WH_MIN_RAM (16ull << 20)
#define WH_MAX_RAM (64ull << 30)

/* What comes into an icount machine from outside. */
enum wh_input_kind { WH_INPUT_BYTES = 0, WH_INPUT_CONSUMED = 1, WH_INPUT_FRAME = 2, WH_INPUT_TIME = 3 };

/* ---- channel.c */
typedef struct wh_channel {
    pthread_mutex_t lock;
    unsigned id;
    wh_machine *machine;
    uint8_t *output; /* ring of WH_CHANNEL_BYTES; written counts bytes ever */
    uint64_t written;
    uint64_t
        consumed_next; /* what the reader has said; consumed follows at once, or at an icount machine's next turn */
    uint64_t consumed; /* bytes from here on wait for the reader; UINT64_MAX: nobody reads, the oldest go */
    bool refused;      /* the device has more and waits for room */
    uint8_t *input;    /* ring of WH_CHANNEL_BYTES */
    uint64_t in_head, in_tail;
    uint64_t in_shown; /* what the device may see; behind in_head only in an icount machine, up to its next turn */
} wh_channel;
int wh_channel_init(wh_channel *c, wh_machine *m, unsigned id);
void wh_channel_destroy(wh_channel *c);
wh_channel_end wh_channel_device_end(wh_channel *c);
void wh_channel_save(wh_channel *c, wh_writer *w);
void wh_channel_load(wh_channel *c, wh_reader *r);
/* icount: show the device what has come from outside (told to `note`, which writes the log), or what the log says.
 * True: it has a reason to look. */
typedef void (*wh_channel_note_fn)(wh_machine *m, enum wh_input_kind kind, unsigned index, const uint8_t *data,
                                   size_t len, uint64_t value);
bool wh_channel_admit(wh_channel *c, wh_channel_note_fn note);
bool wh_channel_waits(wh_channel *c); /* there is something to admit */
void wh_channel_let_in(wh_channel *c, const uint8_t *data, size_t len);
bool wh_channel_let_consume(wh_channel *c, uint64_t offset);

/* ---- events.c: nothing is queued, each kind has its place, so that none is ever lost for want of room */
typedef struct wh_events {
    pthread_mutex_t lock;
    int fd;
    uint32_t output;        /* bit per channel: has new output */
    uint32_t changed, open; /* bit per channel: opened or closed since told, and which */
    wh_event end;           /* POWEROFF, REBOOT or CRASH; the first one counts */
    bool end_told;
} wh_events;
int wh_events_init(wh_events *e);
void wh_events_destroy(wh_events *e);
void wh_events_output(wh_events *e, unsigned channel);
void wh_events_channel(wh_events *e, unsigned channel, bool open);
void wh_events_end(wh_events *e, uint32_t kind, uint32_t arg, const char *text);
int wh_events_exit_code(wh_events *e); /* of the end: what a power-off gave; 134 for a crash */

/* ---- bus.c */
typedef struct wh_region {
    uint64_t base, size;
    wh_device *device;
} wh_region;

/* ---- sbi.c, hsm.c: numbers are those of the SBI HSM extension */
enum wh_hsm { WH_HSM_STARTED = 0, WH_HSM_STOPPED = 1, WH_HSM_START_PENDING = 2, WH_HSM_SUSPENDED = 4 };

/* ---- idle.c: host ns at which a stretch of time began that is looked at, and what had been executed until then */
typedef struct wh_idle_window {
    uint64_t begun, ran;
} wh_idle_window;

typedef struct wh_board_hart {
    wh_hart *cpu;
    wh_machine *machine;
    unsigned index;
    pthread_t thread;
    _Alignas(WH_CACHE_LINE) _Atomic uint32_t wake; /* futex word: changes whenever the hart may have something to do */
    _Atomic uint32_t sleeping;
    _Atomic uint32_t executing; /* inside wh_hart_run: fences must be waited for */
    _Atomic uint64_t wfi_ns, run_ns;
    _Atomic uint64_t run_since,
        wfi_since; /* host ns at which the present stretch began; 0: none. Not in the sums yet */
    _Atomic uint64_t exits[WH_EXIT_CAUSES]; /* how often wh_hart_run came back, by enum wh_exit */
    enum wh_hsm hsm;                        /* under machine.lock */
    bool resume_restarts;                   /* a suspend of the non-retentive kind */
    bool waiting;                           /* icount: in WFI */
    bool parked;                            /* under run_lock */
    _Atomic bool held;                      /* the debugger lets others go on without this one */
    wh_debug_hit untold; /* under run_lock: a watchpoint that it met while another hart's stop was being told */
    uint64_t start_pc, start_opaque;
    uint64_t throttle_paid;  /* throttle.c: run_ns at its last rest; its own thread's */
    uint32_t throttle_asked; /* the same: which throttle that was */
    _Atomic uint64_t throttled_ns;
    wh_idle_window idle; /* its own thread's, as the next */
    bool idle_again;     /* there is a reason to look when the window ends */
} wh_board_hart;

/* ---- throttle.c */
typedef struct wh_throttle {
    _Atomic uint32_t percent; /* of its time that a hart rests; 0: off */
    _Atomic uint32_t asked;   /* changes with it */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t until; /* host ns at which it ends by itself */
    bool made, quit;
    pthread_t thread;
} wh_throttle;

/* ---- restore.c: where absent pages come from, and the thread that brings them in */
typedef struct wh_restore {
    struct wh_snapfile *file; /* NULL: none, or every page is there */
    uint8_t *hot;             /* for wh_machine_warm; NULL: none, or done */
    size_t hot_len;
    int how;
    bool filling; /* the thread was made */
    pthread_t filler;
    _Atomic bool stop;
    _Atomic uint32_t failed; /* why is set */
    wh_error why;            /* why a page was lost */
} wh_restore;

/* ---- run.c */
enum wh_run_state {
    WH_NEW,   /* nothing loaded */
    WH_READY, /* loaded or restored */
    WH_RUNNING,
    WH_PAUSED,
    WH_HALTED, /* the guest ended itself */
    WH_STOPPED,
    WH_BROKEN /* a restore failed half way */
};

/* ---- icount.c: see there for what these mean */
typedef struct wh_icount {
    uint64_t steps;   /* of all harts, without the stretch that is running */
    uint64_t skipped; /* ns that passed without steps */
    uint64_t since;   /* the running hart's own count when its stretch began */
    wh_board_hart *running;
    unsigned hart;      /* whose turn it is */
    uint64_t turn_left; /* steps */
    uint64_t turns;     /* begun so far: the place of an input in the log */
    uint64_t stop;      /* total of steps at which to come back to the driver */
    bool paced;         /* by this machine's own thread */
    bool idle;          /* the turn was begun and waits for time to pass */
    uint64_t due;       /* while idle: ns until the next timer, UINT64_MAX without one */
    uint64_t slept;     /* of these, host ns: behind a pause the rest is slept */
} wh_icount;

/* ---- inputs.c: what came into an icount machine from outside, and when */
typedef struct wh_inputs {
    int fd;       /* the log that is written, or -1 */
    uint8_t *log; /* the log that is played back, or NULL */
    wh_reader at; /* in it */
    bool playing, pending;
    uint64_t turn, steps, kind; /* of the entry at `at`, while pending */
} wh_inputs;

struct wh_machine {
    wh_machine_config config;
    wh_inputs inputs;
    wh_icount icount;
    wh_ram ram;
    wh_jit *jit; /* NULL: the interpreter */
    wh_cpu_env cpu_env;
    pthread_mutex_t lock;
    wh_board_hart *hart;
    unsigned harts_made;

    wh_device *aclint, *plic, *uart, *rtc, *finisher;
    wh_device *rom; /* only with WH_BOOT_FIRMWARE: else nobody is in M-mode */
    wh_device *virtio[WH_VIRTIO_SLOTS];
    unsigned slots_used;
    wh_device *nic[WH_MAX_NICS];
    wh_device *disk[WH_MAX_DISKS];
    unsigned nics, disks;
    wh_region region[6 + WH_VIRTIO_SLOTS];
    unsigned regions;
    wh_channel channel[WH_CHANNELS];
    wh_events events;
    wh_restore restore;
    wh_throttle throttle;
    uint8_t seed[64]; /* for the device tree: kaslr-seed, rng-seed */

    _Atomic uint64_t clock_base; /* host ns at mtime 0, modulo 2^64 */
    _Atomic uint64_t frozen_at;  /* mtime while the clock stands still */
    _Atomic bool frozen;

    pthread_mutex_t shrink_lock; /* a leaf but for the translator's */
    wh_idle_window idle;         /* of all harts; under shrink_lock, as the next */
    uint32_t arena_left;         /* bytes in use when the arena was last looked through */
    _Atomic bool shrinking;

    pthread_mutex_t run_lock;
    pthread_cond_t run_changed; /* threads wait here to go on */
    pthread_cond_t parked_changed;
    enum wh_run_state run_state;
    unsigned threads;
    bool io_made, io_parked;
    _Atomic bool io_sleeping; /* in epoll_wait */
    unsigned hart_threads;    /* how many of hart[] have a thread */
    pthread_t io_thread;
    int wanted_fd; /* rings when somebody waits for a page of a migration */
    int io_epoll, io_event, io_timer;
    _Atomic uint32_t input_waiting; /* bit per channel: input, or room for output that was refused */
    _Atomic bool go;                /* RUNNING and not stopped by a debugger: what a thread looks at without the lock */
    struct {                        /* under run_lock */
        bool attached, stopped;
        int event_fd;
        wh_debug_stop_reason stop; /* not yet told */
        wh_debug_points points;
    } debug;
};

/* icount.c */
static inline bool wh_icount_on(const wh_machine *m)
{
    return m->config.icount != 0;
}
void wh_snapshot_write(wh_machine *m, wh_writer *w); /* snapshot.c: the whole document; the machine rests */
void *wh_icount_main(void *m);
void wh_icount_save(const wh_machine *m, wh_writer *w);
void wh_icount_load(wh_machine *m, const wh_reader *doc, wh_reader *fail);

/* inputs.c */
void wh_inputs_note(wh_machine *m, enum wh_input_kind kind, unsigned index, const uint8_t *data, size_t len,
                    uint64_t value);
/* What the log has for this turn; *channels gets a bit for each that has something to look at. False: this run is not
 * the one that was recorded. */
bool wh_inputs_play(wh_machine *m, uint32_t *channels);
/* In a turn in which nobody may run for `due` ns: how many of them passed before something came from outside, when the
 * log says so. False: all. */
bool wh_inputs_passed(wh_machine *m, uint64_t due, uint64_t *passed);
void wh_inputs_close(wh_machine *m);

/* rest.c */
enum wh_exit wh_run_execute(wh_board_hart *h); /* guest code until there is a reason to stop */
void wh_run_crash(wh_board_hart *h);           /* it can't go on */
int wh_run_init(wh_machine *m, wh_error *err);
void wh_run_destroy(wh_machine *m);
void wh_run_set_state(wh_machine *m, enum wh_run_state state); /* run_lock held */
void wh_run_halt(wh_machine *m); /* from any thread of the machine: everything parks for good */
/* run_lock held: after run_state or the debugger's word changed. Going on needs everyone at rest, or nobody made. */
void wh_run_update(wh_machine *m);
/* wake: the sleepers too, and whoever waits for rest. */
void wh_run_make_all_look(wh_machine *m, bool wake);
void wh_hart_wake(wh_board_hart *h);
/* Waits until mtime `until` or host ns `latest`, or until someone wakes it after seq was read from h->wake. The caller
 * reads seq, then looks whether there is something to do, then sleeps: so no wake is lost between. */
void wh_hart_sleep(wh_board_hart *h, uint32_t seq, uint64_t until, uint64_t latest);
/* idle.c: the hart's own thread, about to sleep for WFI. Returns the host ns at which it wants to be here again at the
 * latest; UINT64_MAX: it needs not. */
uint64_t wh_idle_rest(wh_board_hart *h, uint32_t seq);
/* throttle.c */
int wh_throttle_init(wh_machine *m, wh_error *err);
void wh_throttle_destroy(wh_machine *m);
bool wh_throttle_rest(wh_board_hart *h); /* on its thread: it was kept from running for a while, look again */
void wh_throttle_stop(wh_machine *m);    /* nobody throttles it any more */
/* debug.c */
int wh_debug_init(wh_machine *m, wh_error *err);
void wh_debug_destroy(wh_machine *m);
void wh_debug_hit_by(wh_board_hart *h); /* after WH_EXIT_DEBUG, on the hart's thread */
bool wh_debug_held(wh_board_hart *h);   /* slept for a while because it shall not run */
/* bells.c */
void wh_run_kick_io(wh_machine *m);
void wh_debug_tell(wh_machine *m); /* the debugger has something to look at */
int wh_io_init(wh_machine *m, wh_error *err);
void wh_io_destroy(wh_machine *m);
int wh_io_watch(wh_machine *m, wh_device *d, wh_error *err);
void wh_io_set_timer(wh_machine *m, uint64_t when); /* absolute host ns; UINT64_MAX: never */
void wh_io_arm_timer(void *m);                      /* lock held, or no thread runs */
uint64_t wh_icount_board_due(wh_machine *m);        /* steps until the board's own timers have something to do */
uint64_t
wh_icount_stretch(wh_machine *m); /* steps that may run now: to the end of the turn, the driver's stop or a timer */
void wh_icount_deadline_moved(wh_machine *m); /* a device's timer was set: by MMIO of the running hart */
/* True to go on; false when the thread shall end. Parks as long as the machine does not run. */
bool wh_run_checkpoint(wh_machine *m, bool *parked);
bool wh_run_at_rest(
    wh_machine *m); /* run_lock held: no thread touches RAM or devices, while the state is not RUNNING */
/* io.c */
void *wh_io_main(void *m);
/* epoll_wait as a thread at rest; 0 events when the machine does not run, before or behind it. */
int wh_io_wait(wh_machine *m, struct epoll_event *ev, int max, int timeout_ms);
/* clock.c */
uint64_t wh_icount_ns(const wh_machine *m); /* virtual time; the machine's own thread, or while it rests */
void wh_icount_set_ns(wh_machine *m, uint64_t ns);
uint64_t wh_icount_steps_until(void *m, uint64_t mtime); /* 0: reached */
uint64_t wh_clock_now(void *m);
void wh_clock_set(void *m, uint64_t mtime);
void wh_clock_freeze(wh_machine *m);
void wh_clock_thaw(wh_machine *m);
uint64_t wh_clock_host_ns(wh_machine *m, uint64_t mtime); /* CLOCK_MONOTONIC when mtime is reached; saturates */
uint64_t wh_clock_wall_ns(void *m);
/* bus.c */
int wh_bus_init(wh_machine *m, wh_error *err); /* makes the fixed devices and the memory map */
void wh_bus_destroy(wh_machine *m);
int wh_bus_add_virtio(wh_machine *m, wh_device *d, wh_error *err); /* takes d over in any case */
wh_virtio_env wh_bus_virtio_env(wh_machine *m);                    /* for the next free slot */
int wh_bus_read(void *m, wh_hart *h, uint64_t pa, unsigned size, uint64_t *value);
int wh_bus_write(void *m, wh_hart *h, uint64_t pa, unsigned size, uint64_t value);
/* restore.c */
int wh_restore_start(wh_machine *m); /* 0 or an errno; the filler, where one is needed */
void wh_restore_stop(wh_machine *m); /* no other thread of the machine runs any more */
void wh_restore_free(wh_machine *m);
/* sbi.c */
void wh_sbi_call(wh_board_hart *h);
/* hsm.c */
void wh_hsm_call(wh_board_hart *h, uint64_t fid, int64_t *error, uint64_t *value);
/* Brings a hart that is not running guest code nearer to it; true when it may run. Else *until is when time itself may
 * change that (UINT64_MAX: never). */
bool wh_hsm_advance(wh_board_hart *h, uint64_t *until);
/* The same, and sleeps a while when it may not run. */
bool wh_hsm_step(wh_board_hart *h);
/* devtree.c */
typedef struct wh_devtree {
    const char *cmdline;               /* NULL: none */
    uint64_t initrd_start, initrd_end; /* equal: none */
} wh_devtree;
int wh_devtree_make(wh_machine *m, const wh_devtree *t, uint8_t **blob, size_t *len);

#endif

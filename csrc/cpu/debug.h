/* debug: what a debugger wants of harts: stop before an instruction, after an access, after one step; read and write
 * what a guest can not see. Everything here is for a hart that is outside wh_hart_run, but the table of points, which
 * harts read while they run: it is changed only while all of them are outside.
 *
 * A hart with points or a step runs in wh_debug_run (debug_run.c), one instruction at a time in the exact interpreter;
 * any other hart pays nothing. Nothing is written into guest memory: a breakpoint is an address in the table. */
#ifndef WH_DEBUG_H
#define WH_DEBUG_H

#include "cpu/cpu.h"

#define WH_BREAKPOINTS 256u
#define WH_WATCHPOINTS 32u

/* Bits: which accesses a watchpoint stops after. */
enum wh_watch { WH_WATCH_NONE = 0, WH_WATCH_WRITE = 1, WH_WATCH_READ = 2, WH_WATCH_ACCESS = 3 };

typedef struct wh_debug_points {
    uint32_t breaks, watches;
    struct {
        uint64_t address; /* virtual, in whatever address space */
        uint32_t kind;    /* the owner's: two of one address and different kinds are two breakpoints */
    } breakpoint[WH_BREAKPOINTS];
    uint64_t filter[16]; /* a bit per hash of a breakpoint's address: most instructions need no search */
    struct {
        uint64_t address, length; /* virtual; length at least 1, no wrap */
        enum wh_watch kind;
    } watchpoint[WH_WATCHPOINTS];
} wh_debug_points;

/* Adding what is there is no error. WH_E_FULL, WH_E_INVAL (an empty or wrapping range), WH_E_NOTFOUND. */
int wh_debug_add_break(wh_debug_points *p, uint64_t address, uint32_t kind);
int wh_debug_del_break(wh_debug_points *p, uint64_t address, uint32_t kind);
int wh_debug_add_watch(wh_debug_points *p, uint64_t address, uint64_t length, enum wh_watch kind);
int wh_debug_del_watch(wh_debug_points *p, uint64_t address, uint64_t length, enum wh_watch kind);

enum wh_debug_why { WH_DEBUG_NONE, WH_DEBUG_BREAK, WH_DEBUG_WATCH, WH_DEBUG_STEP };
typedef struct wh_debug_hit {
    enum wh_debug_why why;
    uint64_t address;    /* of the breakpoint; of the access's first watched byte */
    enum wh_watch watch; /* WH_DEBUG_WATCH: the watchpoint's kind */
} wh_debug_hit;

/* How a hart goes on. Stepping: one instruction, and more while pc is in [first, last); it takes no interrupt. */
typedef struct wh_debug_step {
    bool on;
    uint64_t first, last;
} wh_debug_step;

/* points may be NULL; they stay the caller's and must outlive their use. */
void wh_hart_debug(wh_hart *h, const wh_debug_points *points, const wh_debug_step *step);
/* Why wh_hart_run gave WH_EXIT_DEBUG. */
wh_debug_hit wh_hart_debug_hit(const wh_hart *h);

/* f registers as bits; pc and x are in cpu.h. */
uint64_t wh_hart_get_f(const wh_hart *h, unsigned reg);
void wh_hart_set_f(wh_hart *h, unsigned reg, uint64_t value);
void wh_hart_set_pc(wh_hart *h, uint64_t pc);
unsigned wh_hart_privilege(const wh_hart *h); /* 0 U, 1 S, 3 M */
int wh_hart_set_privilege(wh_hart *h, unsigned priv);
/* Any CSR that the hart has, whatever its privilege. False: there is no such CSR, or it can't be written. */
bool wh_hart_get_csr(wh_hart *h, unsigned csr, uint64_t *value);
bool wh_hart_set_csr(wh_hart *h, unsigned csr, uint64_t value);

/* Where va leads in the hart's current address space, whatever its rights; changes neither guest nor TLB. */
bool wh_hart_probe(wh_hart *h, uint64_t va, uint64_t *pa);
/* Instructions may have been written from outside: look before the next one. */
void wh_hart_code_written(wh_hart *h);

#endif

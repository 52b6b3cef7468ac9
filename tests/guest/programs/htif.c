/* A test program as RISC-V test suites write them: M-mode, HTIF, a signature. What it does is in `order`, which the
 * test sets in the file before it runs: an exit code in the low byte, and flags. */
#include "rt.h"
FINISH_WITH_ZERO

enum { TALK = 0x100, SPIN = 0x200, BAD_CALL = 0x400 };
#define PUBLIC(section_name) __attribute__((section(section_name), used, aligned(64)))

PUBLIC(".data") volatile uint64_t order = 0x123456789abcdef0;
PUBLIC(".data") volatile uint64_t tohost = 0;
PUBLIC(".data") volatile uint64_t fromhost = 0;
PUBLIC(".data") volatile uint32_t begin_signature[16] = {0xdeadbeef};
PUBLIC(".data") volatile uint32_t end_signature[1] = {0};
PUBLIC(".data") volatile uint32_t other_begin[16] = {0x11111111, 0x22222222};
PUBLIC(".data") volatile uint32_t other_end[1] = {0};
static volatile uint64_t call[8] __attribute__((aligned(64)));

static void ask(uint64_t value)
{
    fromhost = 0;
    tohost = value;
    while (fromhost == 0)
        ;
}

static int64_t write_call(uint64_t number, uint64_t at, uint64_t len)
{
    call[0] = number;
    call[1] = 1;
    call[2] = at;
    call[3] = len;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    ask((uint64_t)(uintptr_t)call);
    return (int64_t)call[0];
}

uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    (void)epc;
    (void)tval;
    tohost = (0x1000 + cause) << 1 | 1;
    for (;;)
        ;
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    static const char text[] = "by a call\n";
    (void)hart;
    (void)opaque;
    for (uint32_t i = 0; i < 16; i++)
        begin_signature[i] = 0x01020304u * (i + 1);
    if (order & TALK) {
        ask(1ull << 56 | 1ull << 48 | '!');
        begin_signature[3] = (uint32_t)write_call(64, (uint64_t)(uintptr_t)text, sizeof text - 1);
    }
    if (order & BAD_CALL) {
        begin_signature[2] = (uint32_t)write_call(64, 0x40, 8);
        begin_signature[3] = (uint32_t)write_call(12345, 0, 0);
    }
    while (order & SPIN)
        ;
    tohost = (order & 0xff) << 1 | 1;
    for (;;)
        ;
}

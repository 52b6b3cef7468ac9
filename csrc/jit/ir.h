/* ir: what the front end hands to a back end: one superblock, an array of decoded guest instructions.
 *
 * A superblock lies within one guest page and knows no virtual address: `at` and every target are offsets in the page;
 * the virtual base of the page that runs is in wh_hart.vpage. It is entered at op[0] only. From there control goes on
 * from op to op; conditional branches may leave it (side exits) or jump to another op; where a path ends, the op says
 * how it goes on (`end`). A JAL inside the page is followed: the op behind it in the array is its target.
 *
 * One instruction may lie in two pages: the one that begins in the last two bytes of its page. It has a block of its
 * own (WH_JIT_SPLIT), which a back end runs only while the next virtual page is the one that its second half came from.
 *
 * Shape: the main path is what follows the head with branches not taken. If it comes back to the head, it ends with the
 * last such branch, and if a loop begins in the middle of it, it ends there: a loop has a block of its own. Behind the
 * main path stand side paths: taken branches that come back into the block soon. */
#ifndef WH_JIT_IR_H
#define WH_JIT_IR_H

#include "cpu/insn.h"

#define WH_JIT_MAX_OPS 96u /* fits the 8-bit charge of a slow path (backend.h) */

/* Operations that the front end makes out of several instructions; numbered behind the decoder's. */
enum wh_jit_fused {
    WH_JOP_FIRST = WH_OP_COUNT,
    WH_JOP_COUNT,
};

/* wh_jit_op.flags */
enum {
    WH_JIT_TARGET = 1,  /* a branch of this block jumps here */
    WH_JIT_BY_PAGE = 2, /* an access that goes to another page too often to remember one (mmu/sites.c) */
    WH_JIT_SPLIT = 4,   /* ends in the next page */
};

enum wh_jit_end {
    WH_JIT_GO_ON,    /* with the next op of the array */
    WH_JIT_END_SELF, /* the op transfers control itself (jalr, far jal, system) */
    WH_JIT_END_FALL, /* at offset `to` (0..4098), in another block */
    WH_JIT_END_JUMP, /* at op[to] */
};

typedef struct wh_jit_op {
    wh_insn in;
    uint16_t op;    /* in.op without the 2-byte twins: what emitters look at */
    uint16_t at;    /* offset in the page */
    uint8_t length; /* guest bytes */
    uint8_t flags;
    int32_t target; /* branch or JAL: byte offset from the page's start, maybe outside 0..4095 */
    uint8_t end;    /* enum wh_jit_end */
    int16_t to;     /* END_JUMP: index of the next op; END_FALL: offset of the next instruction, up to 4098 */
    int16_t jump;   /* index of the op at `target`, or -1: it is not in the block */
} wh_jit_op;

typedef struct wh_jit_ir {
    wh_jit_op op[WH_JIT_MAX_OPS];
    unsigned count;      /* ops = guest instructions: the block's charge */
    bool plain_atomics;  /* of the machine's RAM (memory/memory.h) */
    uintptr_t next_page; /* with SPLIT: what the code slot of the next page must hold (mmu.h) */
} wh_jit_ir;

/* The bytes of a page, and two more. */
#define WH_JIT_LOOK (WH_PAGE_SIZE + 2)

/* The instruction at this offset of the page is one across two pages. */
static inline bool wh_jit_is_split(const uint8_t *page, uint32_t offset)
{
    return offset == WH_PAGE_SIZE - 2 && (page[offset] & 3) == 3;
}

/* Form the superblock whose head is at `offset` (even) of the page with these bytes; the two behind it matter only if
 * an instruction across two pages is asked for. known(ctx, offset): another block begins there, so that the trace ends
 * before it. */
void wh_jit_form(wh_jit_ir *ir, uint32_t isa, const uint8_t page[WH_JIT_LOOK], uint32_t offset,
                 bool (*known)(void *ctx, uint32_t offset), void *ctx);

#endif

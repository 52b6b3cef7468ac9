/* ir: what the front end hands to a back end: one superblock, an array of decoded guest instructions.
 *
 * A superblock lies within one guest page and knows no virtual address: `at` and every target are offsets in the page;
 * the virtual base of the page that runs is in wh_hart.vpage. It is entered at op[0] only. From there control goes on
 * from op to op; conditional branches may leave it (side exits) or jump to another op; where a path ends, the op says
 * how it goes on (`end`). A JAL inside the page is followed: the op behind it in the array is its target.
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
};

enum wh_jit_end {
    WH_JIT_GO_ON,    /* with the next op of the array */
    WH_JIT_END_SELF, /* the op transfers control itself (jalr, far jal, system) */
    WH_JIT_END_FALL, /* at offset `to` (0..4096), in another block */
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
    int16_t to;     /* END_JUMP: index of the next op; END_FALL: offset of the next instruction */
    int16_t jump;   /* index of the op at `target`, or -1: it is not in the block */
} wh_jit_op;

typedef struct wh_jit_ir {
    wh_jit_op op[WH_JIT_MAX_OPS];
    unsigned count;     /* ops = guest instructions: the block's charge */
    bool plain_atomics; /* of the machine's RAM (memory/memory.h) */
} wh_jit_ir;

/* Form the superblock whose head is at `offset` (even) of the page with these bytes. known(ctx, offset): another block
 * begins there, so that the trace ends before it. False: nothing to translate (an instruction across two pages). */
bool wh_jit_form(wh_jit_ir *ir, uint32_t isa, const uint8_t *page, uint32_t offset,
                 bool (*known)(void *ctx, uint32_t offset), void *ctx);

#endif

/* asm: an x86-64 encoder (Intel SDM volume 2, chapter 2): bytes of one instruction a call, into a buffer with a limit.
 * It knows no guest. tests/c/jit_asm_test.c compares it with another assembler's bytes.
 *
 * An opcode is `byte | map << 8 | prefix << 16`: map 0 one byte, 1 0F, 2 0F38, 3 0F3A; prefix 0, 0x66, 0xf2 or 0xf3.
 * `w` is REX.W: 1 for 64 bits. */
#ifndef WH_JIT_X86_ASM_H
#define WH_JIT_X86_ASM_H

#include "base/base.h"

#include <string.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

#define X_0F(op)   (0x100u | (op))
#define X_0F38(op) (0x200u | (op))
#define X_0F3A(op) (0x300u | (op))
#define X_66(op)   (0x660000u | (op))
#define X_F2(op)   (0xf20000u | (op))
#define X_F3(op)   (0xf30000u | (op))
#define X_NO_REG   (-1)

enum x_op {
    X_ADD = 0x03, /* reg op= r/m; the r/m op= reg form is the opcode - 2, the immediate's extension is opcode >> 3 */
    X_OR = 0x0b,
    X_AND = 0x23,
    X_SUB = 0x2b,
    X_XOR = 0x33,
    X_CMP = 0x3b,
    X_MOV = 0x8b,
    X_MOV_STORE = 0x89,
    X_MOV_STORE8 = 0x88,
    X_LEA = 0x8d,
    X_TEST = 0x85,
    X_XCHG = 0x87,
    X_MOVSXD = 0x63,
    X_MOVZX8 = 0x1b6,
    X_MOVZX16 = 0x1b7,
    X_MOVSX8 = 0x1be,
    X_MOVSX16 = 0x1bf,
    X_IMUL = 0x1af,
    X_CMOV = 0x140,  /* + condition */
    X_SETCC = 0x190, /* + condition; 8-bit r/m */
};
enum { X_ROL = 0, X_ROR = 1, X_SHL = 4, X_SHR = 5, X_SAR = 7 };               /* group 2 extensions */
enum { X_NOT = 2, X_NEG = 3, X_MUL = 4, X_IMUL1 = 5, X_DIV = 6, X_IDIV = 7 }; /* group 3 (0xf7) */

typedef struct wh_asm {
    uint8_t *p, *limit;
    bool full; /* something did not fit; what was written is useless */
} wh_asm;

typedef struct wh_mem {
    int8_t base, index; /* index X_NO_REG: none */
    uint8_t scale;      /* log2 */
    int32_t disp;
} wh_mem;

static inline wh_mem x_at(int base, int64_t disp)
{
    return (wh_mem){.base = (int8_t)base, .index = X_NO_REG, .disp = (int32_t)disp};
}
static inline wh_mem x_indexed(int base, int index, unsigned scale, int64_t disp)
{
    return (wh_mem){.base = (int8_t)base, .index = (int8_t)index, .scale = (uint8_t)scale, .disp = (int32_t)disp};
}

static inline void x_bytes(wh_asm *a, const void *bytes, size_t len)
{
    if ((size_t)(a->limit - a->p) < len) {
        a->full = true;
        return;
    }
    memcpy(a->p, bytes, len);
    a->p += len;
}
static inline void x_byte(wh_asm *a, unsigned v)
{
    uint8_t b = (uint8_t)v;
    x_bytes(a, &b, 1);
}
static inline void x_imm32(wh_asm *a, int64_t v)
{
    int32_t i = (int32_t)v;
    x_bytes(a, &i, 4);
}
static inline bool x_is_int8(int64_t v)
{
    return v == (int8_t)v;
}
static inline bool x_is_int32(int64_t v)
{
    return v == (int32_t)v;
}

/* Prefix, REX and opcode. `bytes`: reg or rm is an 8-bit register, so that spl..dil need a REX. */
static inline void x_head(wh_asm *a, uint32_t op, bool w, int reg, int index, int base, bool bytes)
{
    unsigned rex =
        (unsigned)w << 3 | ((unsigned)reg >> 3 & 1) << 2 | ((unsigned)index >> 3 & 1) << 1 | ((unsigned)base >> 3 & 1);
    if (op >> 16)
        x_byte(a, op >> 16);
    if (rex != 0 || bytes)
        x_byte(a, 0x40 | rex);
    if (op >> 8 & 0xff)
        x_byte(a, 0x0f);
    if ((op >> 8 & 0xff) >= 2)
        x_byte(a, (op >> 8 & 0xff) == 2 ? 0x38 : 0x3a);
    x_byte(a, op & 0xff);
}
static inline void x_modrm_mem(wh_asm *a, int reg, wh_mem m)
{
    unsigned mod = m.disp == 0 && (m.base & 7) != RBP ? 0 : x_is_int8(m.disp) ? 1 : 2;
    bool sib = m.index != X_NO_REG || (m.base & 7) == RSP;
    x_byte(a, mod << 6 | ((unsigned)reg & 7) << 3 | (sib ? 4u : (unsigned)m.base & 7));
    if (sib)
        x_byte(a, (unsigned)m.scale << 6 | (m.index == X_NO_REG ? 4u : (unsigned)m.index & 7) << 3 |
                      ((unsigned)m.base & 7));
    if (mod == 1)
        x_byte(a, (unsigned)m.disp);
    else if (mod == 2)
        x_imm32(a, m.disp);
}
static inline void x_rr(wh_asm *a, uint32_t op, bool w, int reg, int rm)
{
    bool bytes = op == X_MOVZX8 || op == X_MOVSX8 || op == X_MOV_STORE8;
    x_head(a, op, w, reg, 0, rm, bytes && (reg >= 4 || rm >= 4));
    x_byte(a, 0xc0 | ((unsigned)reg & 7) << 3 | ((unsigned)rm & 7));
}
static inline void x_rm(wh_asm *a, uint32_t op, bool w, int reg, wh_mem m)
{
    x_head(a, op, w, reg, m.index == X_NO_REG ? 0 : m.index, m.base, op == X_MOV_STORE8 && reg >= 4);
    x_modrm_mem(a, reg, m);
}
/* op is X_ADD ... X_CMP. */
static inline void x_alu_ri(wh_asm *a, unsigned op, bool w, int rm, int32_t imm)
{
    x_head(a, x_is_int8(imm) ? 0x83 : 0x81, w, 0, 0, rm, false);
    x_byte(a, 0xc0 | (op >> 3) << 3 | ((unsigned)rm & 7));
    if (x_is_int8(imm))
        x_byte(a, (unsigned)imm);
    else
        x_imm32(a, imm);
}
static inline void x_alu_mi(wh_asm *a, unsigned op, bool w, wh_mem m, int32_t imm)
{
    x_head(a, x_is_int8(imm) ? 0x83 : 0x81, w, 0, m.index == X_NO_REG ? 0 : m.index, m.base, false);
    x_modrm_mem(a, (int)(op >> 3), m);
    if (x_is_int8(imm))
        x_byte(a, (unsigned)imm);
    else
        x_imm32(a, imm);
}
static inline void x_cmp8_mi(wh_asm *a, wh_mem m, unsigned imm)
{
    x_head(a, 0x80, false, 0, m.index == X_NO_REG ? 0 : m.index, m.base, false);
    x_modrm_mem(a, 7, m);
    x_byte(a, imm);
}
static inline void x_mov_mi8(wh_asm *a, wh_mem m, unsigned imm)
{
    x_head(a, 0xc6, false, 0, m.index == X_NO_REG ? 0 : m.index, m.base, false);
    x_modrm_mem(a, 0, m);
    x_byte(a, imm);
}
static inline void x_mov_mi(wh_asm *a, bool w, wh_mem m, int32_t imm)
{
    x_head(a, 0xc7, w, 0, m.index == X_NO_REG ? 0 : m.index, m.base, false);
    x_modrm_mem(a, 0, m);
    x_imm32(a, imm);
}
static inline void x_shift_ri(wh_asm *a, unsigned ext, bool w, int rm, unsigned count)
{
    x_head(a, 0xc1, w, 0, 0, rm, false);
    x_byte(a, 0xc0 | ext << 3 | ((unsigned)rm & 7));
    x_byte(a, count);
}
static inline void x_shift_cl(wh_asm *a, unsigned ext, bool w, int rm)
{
    x_head(a, 0xd3, w, 0, 0, rm, false);
    x_byte(a, 0xc0 | ext << 3 | ((unsigned)rm & 7));
}
static inline void x_group3(wh_asm *a, unsigned ext, bool w, int rm)
{
    x_head(a, 0xf7, w, 0, 0, rm, false);
    x_byte(a, 0xc0 | ext << 3 | ((unsigned)rm & 7));
}
static inline void x_group3_m(wh_asm *a, unsigned ext, bool w, wh_mem m)
{
    x_head(a, 0xf7, w, 0, m.index == X_NO_REG ? 0 : m.index, m.base, false);
    x_modrm_mem(a, (int)ext, m);
}
static inline void x_imul_rri(wh_asm *a, bool w, int reg, int rm, int32_t imm)
{
    x_head(a, 0x69, w, reg, 0, rm, false);
    x_byte(a, 0xc0 | ((unsigned)reg & 7) << 3 | ((unsigned)rm & 7));
    x_imm32(a, imm);
}
static inline void x_setcc(wh_asm *a, unsigned cc, int rm)
{
    x_head(a, X_SETCC + cc, false, 0, 0, rm, rm >= 4);
    x_byte(a, 0xc0 | ((unsigned)rm & 7));
}
static inline void x_mov_rr(wh_asm *a, int to, int from)
{
    if (to != from)
        x_rr(a, X_MOV, true, to, from);
}
/* The shortest way to a constant; leaves the flags alone. */
static inline void x_mov_ri(wh_asm *a, int reg, uint64_t value)
{
    if (value == (uint32_t)value) {
        x_head(a, 0xb8 | ((unsigned)reg & 7), false, 0, 0, reg, false);
        x_imm32(a, (int32_t)(uint32_t)value);
    } else if (x_is_int32((int64_t)value)) {
        x_head(a, 0xc7, true, 0, 0, reg, false);
        x_byte(a, 0xc0 | ((unsigned)reg & 7));
        x_imm32(a, (int32_t)value);
    } else {
        x_head(a, 0xb8 | ((unsigned)reg & 7), true, 0, 0, reg, false);
        x_bytes(a, &value, 8);
    }
}
/* VEX-encoded general-purpose or vector instruction, 128 bits: reg, vvvv, r/m. pp: 0 none, 1 66, 2 F3, 3 F2. */
static inline void x_vex_head(wh_asm *a, unsigned op, unsigned map, unsigned pp, bool w, int reg, int vvvv, int index,
                              int base)
{
    x_byte(a, 0xc4);
    x_byte(a, (~((unsigned)reg >> 3) & 1) << 7 | (~((unsigned)index >> 3) & 1) << 6 |
                  (~((unsigned)base >> 3) & 1) << 5 | map);
    x_byte(a, (unsigned)w << 7 | (~(unsigned)vvvv & 15) << 3 | pp);
    x_byte(a, op);
}
static inline void x_vex_rr(wh_asm *a, unsigned op, unsigned map, unsigned pp, bool w, int reg, int vvvv, int rm)
{
    x_vex_head(a, op, map, pp, w, reg, vvvv, 0, rm);
    x_byte(a, 0xc0 | ((unsigned)reg & 7) << 3 | ((unsigned)rm & 7));
}
static inline void x_vex_rm(wh_asm *a, unsigned op, unsigned map, unsigned pp, bool w, int reg, int vvvv, wh_mem m)
{
    x_vex_head(a, op, map, pp, w, reg, vvvv, m.index == X_NO_REG ? 0 : m.index, m.base);
    x_modrm_mem(a, reg, m);
}
/* BMI2 shifts: no flags, any count register. kind X_SHL, X_SHR or X_SAR. */
static inline unsigned x_bmi_pp(unsigned kind)
{
    return kind == X_SHL ? 1 : kind == X_SHR ? 3 : 2;
}
static inline void x_shiftx(wh_asm *a, unsigned kind, bool w, int to, int value, int count)
{
    x_vex_rr(a, 0xf7, 2, x_bmi_pp(kind), w, to, count, value);
}
/* bextr: the bits of value that control (first bit, 8 bits above it their number) asks for. */
static inline void x_bextr(wh_asm *a, bool w, int to, int value, int control)
{
    x_vex_rr(a, 0xf7, 2, 0, w, to, control, value);
}

/* Jumps. Each returns the address of its 32-bit displacement, for x_bind. */
static inline uint8_t *x_jmp(wh_asm *a)
{
    x_byte(a, 0xe9);
    x_imm32(a, 0);
    return a->p - 4;
}
static inline uint8_t *x_jcc(wh_asm *a, unsigned cc)
{
    x_byte(a, 0x0f);
    x_byte(a, 0x80 | cc);
    x_imm32(a, 0);
    return a->p - 4;
}
static inline void x_bind(wh_asm *a, uint8_t *disp, const uint8_t *target)
{
    int32_t v = (int32_t)(target - (disp + 4));
    if (!a->full)
        memcpy(disp, &v, 4);
}
static inline void x_jmp_to(wh_asm *a, const uint8_t *target)
{
    x_bind(a, x_jmp(a), target);
}
static inline void x_jcc_to(wh_asm *a, unsigned cc, const uint8_t *target)
{
    x_bind(a, x_jcc(a, cc), target);
}
static inline uint8_t *x_call(wh_asm *a)
{
    x_byte(a, 0xe8);
    x_imm32(a, 0);
    return a->p - 4;
}
static inline void x_call_to(wh_asm *a, const uint8_t *target)
{
    x_bind(a, x_call(a), target);
}
/* A short jump over what follows; x_bind_short ends it. */
static inline uint8_t *x_jcc_short(wh_asm *a, unsigned cc)
{
    x_byte(a, 0x70 | cc);
    x_byte(a, 0);
    return a->p - 1;
}
static inline void x_bind_short(wh_asm *a, uint8_t *disp)
{
    if (!a->full)
        *disp = (uint8_t)(a->p - (disp + 1));
}
static inline void x_jmp_reg(wh_asm *a, int reg)
{
    x_head(a, 0xff, false, 0, 0, reg, false);
    x_byte(a, 0xe0 | ((unsigned)reg & 7));
}
static inline void x_call_reg(wh_asm *a, int reg)
{
    x_head(a, 0xff, false, 0, 0, reg, false);
    x_byte(a, 0xd0 | ((unsigned)reg & 7));
}
static inline void x_push(wh_asm *a, int reg)
{
    x_head(a, 0x50 | ((unsigned)reg & 7), false, 0, 0, reg, false);
}
static inline void x_pop(wh_asm *a, int reg)
{
    x_head(a, 0x58 | ((unsigned)reg & 7), false, 0, 0, reg, false);
}
static inline void x_ret(wh_asm *a)
{
    x_byte(a, 0xc3);
}
/* Pad to the alignment (a power of two) of a->p + ahead, with the recommended multi-byte NOPs. */
static inline void x_align(wh_asm *a, unsigned alignment, unsigned ahead)
{
    static const uint8_t nops[9][9] = {{0x90},
                                       {0x66, 0x90},
                                       {0x0f, 0x1f, 0x00},
                                       {0x0f, 0x1f, 0x40, 0},
                                       {0x0f, 0x1f, 0x44, 0, 0},
                                       {0x66, 0x0f, 0x1f, 0x44, 0, 0},
                                       {0x0f, 0x1f, 0x80, 0, 0, 0, 0},
                                       {0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0},
                                       {0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}};
    unsigned pad = (unsigned)(-((uintptr_t)a->p + ahead)) & (alignment - 1);
    while (pad != 0) {
        unsigned n = pad > 9 ? 9 : pad;
        x_bytes(a, nops[n - 1], n);
        pad -= n;
    }
}

#endif

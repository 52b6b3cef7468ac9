/* Decoder for F, D, Zfhmin and Zfa. Operations that the host does with the dynamic rounding mode get handlers of their
 * own; everything else (static modes, rare conversions, min/max/class) is FP_SLOW with the operation in imm. */
#include "cpu/insn.h"

void wh_decode_fp(uint32_t w, wh_insn *out);

static uint8_t fd(uint32_t w)
{
    return (uint8_t)(w >> 7 & 31);
}
static uint8_t fs1(uint32_t w)
{
    return (uint8_t)(w >> 15 & 31);
}
static uint8_t xd(uint32_t w)
{
    return fd(w) == 0 ? WH_SINK : fd(w);
}
static int32_t pack(uint32_t w, enum wh_fp_op op)
{
    return (int32_t)((w >> 20 & 31) | (w >> 27 & 31) << 5 | (w >> 12 & 7) << 10 | (uint32_t)op << 13 |
                     (w >> 25 & 1) << 20);
}
static void put(wh_insn *i, unsigned op, uint8_t a, uint8_t b, int32_t imm)
{
    *i = (wh_insn){.op = (uint16_t)op, .a = a, .b = b, .imm = imm};
}
static bool rm_valid(uint32_t w)
{
    unsigned rm = w >> 12 & 7;
    return rm <= WH_RM_RMM || rm == WH_RM_DYN;
}
static bool dynamic(uint32_t w)
{
    return (w >> 12 & 7) == WH_RM_DYN;
}

/* 0x53: rounding operations. false: not one of them, or reserved. */
static bool arithmetic(uint32_t w, wh_insn *i)
{
    bool wide = w >> 25 & 1;
    unsigned funct = w >> 27, source = w >> 20 & 31;
    static const uint16_t fast[4][2] = {{WH_OP_FADD_S, WH_OP_FADD_D},
                                        {WH_OP_FSUB_S, WH_OP_FSUB_D},
                                        {WH_OP_FMUL_S, WH_OP_FMUL_D},
                                        {WH_OP_FDIV_S, WH_OP_FDIV_D}};
    if (!rm_valid(w))
        return false;
    if (funct < 4) {
        put(i, dynamic(w) ? fast[funct][wide] : WH_OP_FP_SLOW, fd(w), fs1(w), pack(w, WH_FP_ADD + funct));
        return true;
    }
    if (funct == 0x0b && source == 0) {
        put(i, dynamic(w) ? (wide ? WH_OP_FSQRT_D : WH_OP_FSQRT_S) : WH_OP_FP_SLOW, fd(w), fs1(w), pack(w, WH_FP_SQRT));
        return true;
    }
    if (funct == 0x08 && source == !wide) { /* fcvt.s.d rounds, fcvt.d.s is exact in any mode */
        put(i,
            wide         ? WH_OP_FCVT_D_S
            : dynamic(w) ? WH_OP_FCVT_S_D
                         : WH_OP_FP_SLOW,
            fd(w), fs1(w), pack(w, WH_FP_CONVERT));
        return true;
    }
    if (funct == 0x08 && source == 2) { /* fcvt.s.h, fcvt.d.h: exact */
        put(i, WH_OP_FP_SLOW, fd(w), fs1(w), pack(w, WH_FP_FROM_H));
        return true;
    }
    if (funct == 0x08 && (source == 4 || source == 5)) {
        put(i, WH_OP_FP_SLOW, fd(w), fs1(w), pack(w, source == 4 ? WH_FP_ROUND : WH_FP_ROUNDNX));
        return true;
    }
    if (funct == 0x18 && source == 8 && wide && (w >> 12 & 7) == WH_RM_RTZ) {
        put(i, WH_OP_FP_SLOW, xd(w), fs1(w), pack(w, WH_FP_TO_W_MOD));
        return true;
    }
    if (funct == 0x18 && source < 4) {
        static const uint16_t rtz[2][2] = {{WH_OP_FCVT_W_S_RTZ, WH_OP_FCVT_W_D_RTZ},
                                           {WH_OP_FCVT_L_S_RTZ, WH_OP_FCVT_L_D_RTZ}};
        bool host = !(source & 1) && (w >> 12 & 7) == WH_RM_RTZ;
        put(i, host ? rtz[source >> 1][wide] : WH_OP_FP_SLOW, xd(w), fs1(w), pack(w, WH_FP_TO_W + source));
        return true;
    }
    if (funct == 0x1a && source < 4) {
        unsigned op = WH_OP_FP_SLOW;
        if (source == 0 && wide)
            op = WH_OP_FCVT_D_W;
        else if (!(source & 1) && dynamic(w))
            op = source == 0 ? WH_OP_FCVT_S_W : wide ? WH_OP_FCVT_D_L : WH_OP_FCVT_S_L;
        put(i, op, fd(w), fs1(w), pack(w, WH_FP_FROM_W + source));
        return true;
    }
    return false;
}

static bool other(uint32_t w, wh_insn *i)
{
    bool wide = w >> 25 & 1;
    unsigned f3 = w >> 12 & 7, source = w >> 20 & 31;
    static const uint16_t sign[2][3] = {{WH_OP_FSGNJ_S, WH_OP_FSGNJN_S, WH_OP_FSGNJX_S},
                                        {WH_OP_FSGNJ_D, WH_OP_FSGNJN_D, WH_OP_FSGNJX_D}};
    static const uint16_t compare[2][3] = {{WH_OP_FLE_S, WH_OP_FLT_S, WH_OP_FEQ_S},
                                           {WH_OP_FLE_D, WH_OP_FLT_D, WH_OP_FEQ_D}};
    switch (w >> 27) {
    case 0x04:
        if (f3 > 2)
            return false;
        put(i, sign[wide][f3], fd(w), fs1(w), pack(w, 0));
        return true;
    case 0x05:
        if (f3 > 3)
            return false;
        put(i, WH_OP_FP_SLOW, fd(w), fs1(w), pack(w & ~0x7000u, f3 < 2 ? WH_FP_MIN + f3 : WH_FP_MINM + (f3 - 2)));
        return true;
    case 0x14:
        if (f3 == 4 || f3 == 5) {
            put(i, WH_OP_FP_SLOW, xd(w), fs1(w), pack(w & ~0x7000u, WH_FP_LEQ + (f3 - 4)));
            return true;
        }
        if (f3 > 2)
            return false;
        put(i, compare[wide][f3], xd(w), fs1(w), pack(w & ~0x7000u, WH_FP_LE + f3));
        return true;
    case 0x1c:
        if (source != 0 || f3 > 1)
            return false;
        if (f3 == 1)
            put(i, WH_OP_FP_SLOW, xd(w), fs1(w), pack(w & ~0x7000u, WH_FP_CLASS));
        else
            put(i, wide ? WH_OP_FMV_X_D : WH_OP_FMV_X_W, xd(w), fs1(w), 0);
        return true;
    case 0x1e:
        if (source > 1 || f3 != 0)
            return false;
        if (source == 1)
            put(i, WH_OP_FP_SLOW, fd(w), fs1(w), pack(w, WH_FP_LI));
        else
            put(i, wide ? WH_OP_FMV_D_X : WH_OP_FMV_W_X, fd(w), fs1(w), 0);
        return true;
    default:
        return false;
    }
}

/* Format H: conversions and moves only (Zfhmin). */
static bool half(uint32_t w, wh_insn *i)
{
    unsigned source = w >> 20 & 31, f3 = w >> 12 & 7;
    switch (w >> 27) {
    case 0x08: /* fcvt.h.s, fcvt.h.d: imm's format is the source's */
        if (source > 1 || !rm_valid(w))
            return false;
        put(i, WH_OP_FP_SLOW, fd(w), fs1(w), pack((w & ~(1u << 25)) | source << 25, WH_FP_TO_H));
        return true;
    case 0x1c:
        if (source != 0 || f3 != 0)
            return false;
        put(i, WH_OP_FMV_X_H, xd(w), fs1(w), 0);
        return true;
    case 0x1e:
        if (source != 0 || f3 != 0)
            return false;
        put(i, WH_OP_FMV_H_X, fd(w), fs1(w), 0);
        return true;
    default:
        return false;
    }
}

void wh_decode_fp(uint32_t w, wh_insn *i)
{
    static const uint16_t fused[4][2] = {{WH_OP_FMADD_S, WH_OP_FMADD_D},
                                         {WH_OP_FMSUB_S, WH_OP_FMSUB_D},
                                         {WH_OP_FNMSUB_S, WH_OP_FNMSUB_D},
                                         {WH_OP_FNMADD_S, WH_OP_FNMADD_D}};
    unsigned opcode = w & 0x7f, f3 = w >> 12 & 7;
    static const uint16_t load[4] = {0, WH_OP_FLH, WH_OP_FLW, WH_OP_FLD},
                          store[4] = {0, WH_OP_FSH, WH_OP_FSW, WH_OP_FSD};
    if (opcode == 0x07 && f3 >= 1 && f3 <= 3) {
        put(i, load[f3], fd(w), fs1(w), (int32_t)w >> 20);
        return;
    }
    if (opcode == 0x27 && f3 >= 1 && f3 <= 3) {
        put(i, store[f3], w >> 20 & 31, fs1(w), ((int32_t)w >> 25) * 32 + (int32_t)(w >> 7 & 31));
        return;
    }
    if (opcode >= 0x43 && opcode <= 0x4f && (w >> 25 & 3) < 2 && rm_valid(w)) {
        unsigned kind = opcode >> 2 & 3;
        put(i, dynamic(w) ? fused[kind][w >> 25 & 1] : WH_OP_FP_SLOW, fd(w), fs1(w), pack(w, WH_FP_MADD + kind));
        return;
    }
    if (opcode == 0x53 && (w >> 25 & 3) < 2 && (arithmetic(w, i) || other(w, i)))
        return;
    if (opcode == 0x53 && (w >> 25 & 3) == 2 && half(w, i))
        return;
    put(i, WH_OP_ILLEGAL, 0, 0, (int32_t)w);
}

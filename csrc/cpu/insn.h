/* insn: the decoded instruction and the list of operations. Decoder, interpreter and a later JIT share this and nothing
 * else.
 *
 * Operands by form (x registers; a destination x0 is register 32, a sink that nothing reads):
 *   register   a=rd b=rs1 imm=rs2           immediate  a=rd b=rs1 imm=value
 *   load       a=rd b=rs1 imm=offset        store      a=rs2 b=rs1 imm=offset
 *   branch     a=rs2 b=rs1 imm              jump       a=rd imm
 *      NEAR: the target is in the same page and imm is its distance in wh_insn units times sizeof(wh_insn);
 *      FAR: imm is the distance in guest bytes
 *   upper      a=rd imm=value (sign-extended to 64 bits)
 *   atomic     a=rd b=rs1 imm=rs2           csr        a=rd b=rs1 or zimm, imm=csr | funct3 << 12 | b << 16
 *   float      a=rd b=rs1 imm=rs2 | rs3 << 5 | rm << 10 | enum wh_fp_op << 13 | double << 20; f registers are not
 * remapped illegal    imm=the instruction's bits D() operations exist for 4-byte and 2-byte encodings: the 2-byte one
 * is the next number. CBO a=0 b=rs1 imm=kind; FLH FSH as loads and stores of f registers. */
#ifndef WH_INSN_H
#define WH_INSN_H

#include "base/base.h"

typedef struct wh_insn {
    uint16_t op;
    uint8_t a, b;
    int32_t imm;
} wh_insn;

#define WH_SINK 32u

/* clang-format off */
#define WH_OPS(S, D)                                                                                                   \
    S(UNDECODED) S(PAGE_END) S(SPLIT) S(ILLEGAL) D(LUI) S(AUIPC) D(JAL_NEAR) D(JAL_FAR) D(JALR) D(EBREAK)              \
    D(BEQ_NEAR) D(BNE_NEAR) S(BLT_NEAR) S(BGE_NEAR) S(BLTU_NEAR) S(BGEU_NEAR) D(BEQ_FAR) D(BNE_FAR) S(BLT_FAR)         \
    S(BGE_FAR) S(BLTU_FAR) S(BGEU_FAR) S(LB) D(LH) D(LW) D(LD) D(LBU) D(LHU) S(LWU) D(SB) D(SH) D(SW) D(SD) D(ADDI)    \
    S(SLTI) S(SLTIU) D(XORI) S(ORI) D(ANDI) D(SLLI) D(SRLI) D(SRAI) D(ADD) D(SUB) S(SLL) S(SLT) S(SLTU) D(XOR)         \
    S(SRL) S(SRA) D(OR) D(AND) D(ADDIW) S(SLLIW) S(SRLIW) S(SRAIW) D(ADDW) D(SUBW) S(SLLW) S(SRLW) S(SRAW) D(MUL)      \
    S(MULH) S(MULHSU) S(MULHU) S(DIV) S(DIVU) S(REM) S(REMU) S(MULW) S(DIVW) S(DIVUW) S(REMW) S(REMUW) S(FENCE)        \
    S(FENCE_LIGHT) S(PAUSE) S(FENCE_I) S(ECALL) S(CSR) S(MRET) S(SRET) S(WFI) S(SFENCE_VMA) S(SFENCE_ORDER) S(LR_W) S(LR_D)     \
    S(SC_W) S(SC_D) S(AMOSWAP_W) S(AMOADD_W) S(AMOXOR_W) S(AMOAND_W) S(AMOOR_W) S(AMOMIN_W) S(AMOMAX_W) S(AMOMINU_W)   \
    S(AMOMAXU_W) S(AMOSWAP_D) S(AMOADD_D) S(AMOXOR_D) S(AMOAND_D) S(AMOOR_D) S(AMOMIN_D) S(AMOMAX_D) S(AMOMINU_D)      \
    S(AMOMAXU_D) D(ADD_UW) S(SH1ADD) S(SH2ADD) S(SH3ADD) S(SH1ADD_UW) S(SH2ADD_UW) S(SH3ADD_UW) S(SLLI_UW) S(ANDN)     \
    S(ORN) S(XNOR) S(CLZ) S(CTZ) S(CPOP) S(CLZW) S(CTZW) S(CPOPW) S(MAX) S(MAXU) S(MIN) S(MINU) D(SEXT_B) D(SEXT_H)    \
    D(ZEXT_H) S(ROL) S(ROR) S(RORI) S(ROLW) S(RORW) S(RORIW) S(ORC_B) S(REV8) S(BCLR) S(BEXT) S(BINV) S(BSET)          \
    S(BCLRI) S(BEXTI) S(BINVI) S(BSETI) S(FLW) D(FLD) S(FSW) D(FSD) S(FADD_S) S(FSUB_S) S(FMUL_S) S(FDIV_S)            \
    S(FSQRT_S) S(FADD_D) S(FSUB_D) S(FMUL_D) S(FDIV_D) S(FSQRT_D) S(FMADD_S) S(FMSUB_S) S(FNMSUB_S) S(FNMADD_S)        \
    S(FMADD_D) S(FMSUB_D) S(FNMSUB_D) S(FNMADD_D) S(FSGNJ_S) S(FSGNJN_S) S(FSGNJX_S) S(FSGNJ_D) S(FSGNJN_D)            \
    S(FSGNJX_D) S(FLE_S) S(FLT_S) S(FEQ_S) S(FLE_D) S(FLT_D) S(FEQ_D) S(FCVT_S_D) S(FCVT_D_S) S(FCVT_D_W)              \
    S(FCVT_D_L) S(FCVT_S_W) S(FCVT_S_L) S(FCVT_W_D_RTZ) S(FCVT_L_D_RTZ) S(FCVT_W_S_RTZ) S(FCVT_L_S_RTZ) S(FMV_X_W)     \
    S(FMV_W_X) S(FMV_X_D) S(FMV_D_X) S(FP_SLOW) S(CZERO_EQZ) S(CZERO_NEZ) S(CBO) S(WRS) S(MOP) S(AMOCAS_W)       \
    S(AMOCAS_D) S(AMOCAS_Q) S(FLH) S(FSH) S(FMV_X_H) S(FMV_H_X)
/* clang-format on */

/* Pairs that compilers emit often. The first of such a pair gets the pair's operation: its handler does the first and
 * goes on to the second's handler without a dispatch. Both keep their own operands and places, so that jumps to the
 * second, traps and counting need no thought. T(): the first is a 2-byte instruction, F(): a 4-byte one. */
/* clang-format off */
#define WH_PAIRS(T, F)                                                                                                 \
    T(ADDI_C, BNE_NEAR) T(ADDI_C, ADDI_C) T(ADDI_C, SLLI) T(ADDI_C, AUIPC) T(ADDI_C, SD_C) T(ADD_C, ADD_C)             \
    T(ADD_C, ADDI_C) T(ADD_C, ADDI) T(ADD_C, SLTU) T(ADD_C, SLLI) T(ADD_C, SLLI_C) T(ADD_C, ADDIW_C) T(ADD_C, MUL)     \
    T(ADD_C, LW_C) T(ADD_C, LD_C) T(ADD_C, LD) T(ADD_C, SD) T(ADD_C, SD_C) T(ADD_C, BEQ_NEAR) T(ADD_C, BNE_NEAR)       \
    T(ADD_C, BLTU_NEAR) T(ADD_C, BGEU_NEAR) T(SLLI_C, ADD) T(SLLI_C, ADD_C) T(SLLI_C, SRLI_C) T(SRLI_C, ADD_C)         \
    T(SRLI_C, SRLI_C) T(SRLI_C, MUL) T(LD_C, LD_C) T(LD_C, ADD_C) T(LD_C, ADDI_C) T(LD_C, BEQ_NEAR_C)                  \
    T(LD_C, BNE_NEAR_C) T(LW_C, LW_C) T(LW_C, LW) T(LW_C, ADDI) T(LW_C, BEQ_NEAR_C) T(LW_C, BNE_NEAR_C)                \
    T(SD_C, SD_C) T(SD_C, ADDI_C) F(ADDI, ADDI) F(ADDI, ADD_C) F(ADDI, MUL) F(ADDI, BNE_NEAR) F(ADD, LD_C)             \
    F(ADD, ADDI_C) F(ADD, ADDI) F(ADD, LBU) F(SLLI, SRLI) F(SLLI, SRLI_C) F(SLLI, ADD) F(SLLI, ADD_C) F(SRLI, ADD_C)   \
    F(SRLI, SRLI_C) F(SRLI, MUL) F(SLTU, ADD_C) F(SLTU, SRLI) F(SUB, SLLI_C) F(MUL, ADD_C) F(MUL, MUL) F(MUL, SLLI)    \
    F(XOR, XOR) F(ANDI, BNE_NEAR_C) F(ANDI, BEQ_NEAR_C) F(AUIPC, ADDI) F(AUIPC, LD) F(AUIPC, JALR) F(LD, LD)           \
    F(LD, ADD_C) F(LW, LW) F(LW, ADDI) F(LW, ADD_C) F(LBU, BEQ_NEAR) F(LBU, BNE_NEAR) F(SD, SD) F(SD, ADD_C)           \
    T(ADDI_C, ADDIW_C) T(ADDI_C, BEQ_NEAR) T(ADDI_C, BEQ_NEAR_C) T(ADDI_C, BLTU_NEAR) T(ADDI_C, MUL)                   \
    T(ADDI_C, JALR_C) T(ADDI_C, JAL_NEAR_C) T(ADDI_C, SW) T(ADD_C, LBU) T(ADD_C, AUIPC) T(ADD_C, JAL_NEAR_C)           \
    T(ADDIW_C, SW_C) T(ADDIW_C, BLT_NEAR) T(ADDIW_C, ADDI_C) T(AND_C, ADD_C) T(ANDI_C, BNE_NEAR_C)                     \
    T(ANDI_C, BNE_NEAR) T(SLLI_C, OR) T(SLLI_C, SRAIW) T(LW_C, ADDI_C) T(LW_C, LD_C) T(LD_C, LD) T(LD_C, ADDIW_C)      \
    T(LD_C, XOR) T(SW_C, BEQ_NEAR) T(BEQ_NEAR_C, BNE_NEAR) T(BNE_NEAR_C, LW_C) F(ADDI, BEQ_NEAR) F(ADDI, BLTU_NEAR)    \
    F(ADDI, SLTIU) F(ANDI, ADD_C) F(XORI, AND) F(SLTIU, AND) F(SUB, SLTIU) F(SUBW, SLLI) F(SRAIW, AND_C)               \
    F(SRLI, SLLI_C) F(SRLI, SLLI) F(SRLI, SRLI) F(SLTU, OR) F(SLTU, SD_C) F(AND, AND) F(AND, SLTU) F(OR, SD)           \
    F(OR, OR) F(OR, ADD_C) F(XOR, LD) F(XOR, SLLI_C) F(MUL, MULHU) F(MULHU, ADD_C) F(LBU, ADDIW_C) F(LBU, ADDI_C)      \
    F(LBU, ADDI) F(LBU, LBU) F(LD, LD_C) F(LD, SUB) F(LD, ADDI_C) F(SW, ADDI_C) F(SD, BNE_NEAR) F(SD, BNE_NEAR_C)      \
    F(BEQ_NEAR, ANDI) F(BEQ_NEAR, SLTU) F(BEQ_NEAR, LBU) F(BEQ_NEAR, BEQ_NEAR) F(BNE_NEAR, BNE_NEAR)                   \
    F(BNE_NEAR, ADDI) F(BLT_NEAR, BEQ_NEAR_C)
/* clang-format on */

enum wh_op {
#define WH_OP_ONE(name)           WH_OP_##name,
#define WH_OP_TWO(name)           WH_OP_##name, WH_OP_##name##_C,
#define WH_OP_PAIR(first, second) WH_OP_##first##__##second,
    WH_OPS(WH_OP_ONE, WH_OP_TWO) WH_PAIRS(WH_OP_PAIR, WH_OP_PAIR) WH_OP_COUNT
};

/* What the slow floating-point path is asked to do; FMT (bit 20) says single or double. */
enum wh_fp_op {
    WH_FP_ADD,
    WH_FP_SUB,
    WH_FP_MUL,
    WH_FP_DIV,
    WH_FP_SQRT,
    WH_FP_MADD,
    WH_FP_MSUB,
    WH_FP_NMSUB,
    WH_FP_NMADD,
    WH_FP_MIN,
    WH_FP_MAX,
    WH_FP_CLASS,
    WH_FP_TO_W,
    WH_FP_TO_WU,
    WH_FP_TO_L,
    WH_FP_TO_LU,
    WH_FP_FROM_W,
    WH_FP_FROM_WU,
    WH_FP_FROM_L,
    WH_FP_FROM_LU,
    WH_FP_CONVERT, /* to this format from the other one */
    WH_FP_LE,
    WH_FP_LT,
    WH_FP_EQ,
    WH_FP_FROM_H, /* half to this format */
    WH_FP_TO_H,   /* this format to half */
    WH_FP_MINM,
    WH_FP_MAXM,
    WH_FP_ROUND,
    WH_FP_ROUNDNX,
    WH_FP_LEQ,
    WH_FP_LTQ,
    WH_FP_LI,       /* rs1 is the constant's number */
    WH_FP_TO_W_MOD, /* FCVTMOD.W.D */
};
/* imm of CBO, as in the encoding */
enum { WH_CBO_INVAL = 0, WH_CBO_CLEAN = 1, WH_CBO_FLUSH = 2, WH_CBO_ZERO = 4 };
enum { WH_RM_RNE, WH_RM_RTZ, WH_RM_RDN, WH_RM_RUP, WH_RM_RMM, WH_RM_DYN = 7 };
#define WH_FP_RS2(imm)    ((unsigned)(imm) & 31)
#define WH_FP_RS3(imm)    ((unsigned)(imm) >> 5 & 31)
#define WH_FP_RM(imm)     ((unsigned)(imm) >> 10 & 7)
#define WH_FP_OP(imm)     ((unsigned)(imm) >> 13 & 127)
#define WH_FP_DOUBLE(imm) ((unsigned)(imm) >> 20 & 1)

/* Decode the instruction whose first bytes are `bits` (16 or 32 of them count). offset: its place in the page, or
 * WH_NO_PAGE where near targets make no sense. Returns its length, 2 or 4. Never fails: what is reserved is ILLEGAL. */
#define WH_NO_PAGE 0xffffffffu
unsigned wh_decode(uint32_t bits, uint32_t offset, wh_insn *out);
/* The same for a hart that has only the extensions `isa` (wh_hart.isa, model.h): what a guest executes is decoded by
 * this. */
unsigned wh_decode_for(uint32_t isa, uint32_t bits, uint32_t offset, wh_insn *out);
/* The 4-byte equivalent of a 2-byte instruction, or 0 (which is illegal) where there is none. */
uint32_t wh_expand(uint16_t bits);
/* The pair's operation when `second` stands `distance` (2 or 4) bytes after `first`, or 0. */
unsigned wh_pair(unsigned first, unsigned second, unsigned distance);
const char *wh_op_name(unsigned op);

#endif

/* Decoder: instruction bits to wh_insn. Tables are switch statements in the order of the opcode map (unprivileged spec,
 * "RV32/64G Instruction Set Listings"); an encoding that is not named here is illegal. */
#include "cpu/insn.h"

static uint32_t field(uint32_t w, unsigned high, unsigned low)
{
    return w >> low & ((1u << (high - low + 1)) - 1);
}
static uint8_t dest(uint32_t w)
{
    uint32_t rd = field(w, 11, 7);
    return (uint8_t)(rd == 0 ? WH_SINK : rd);
}
static uint8_t rs1(uint32_t w)
{
    return (uint8_t)field(w, 19, 15);
}
static uint8_t rs2(uint32_t w)
{
    return (uint8_t)field(w, 24, 20);
}
static int32_t imm_i(uint32_t w)
{
    return (int32_t)w >> 20;
}
static int32_t imm_s(uint32_t w)
{
    return ((int32_t)w >> 25) * 32 + (int32_t)field(w, 11, 7);
}
static int32_t imm_b(uint32_t w)
{
    return ((int32_t)w >> 31) * 4096 + (int32_t)(field(w, 7, 7) << 11 | field(w, 30, 25) << 5 | field(w, 11, 8) << 1);
}
static int32_t imm_j(uint32_t w)
{
    return ((int32_t)w >> 31) * 1048576 +
           (int32_t)(field(w, 19, 12) << 12 | field(w, 20, 20) << 11 | field(w, 30, 21) << 1);
}

static void set(wh_insn *i, unsigned op, uint8_t a, uint8_t b, int32_t imm)
{
    *i = (wh_insn){.op = (uint16_t)op, .a = a, .b = b, .imm = imm};
}
static void illegal(wh_insn *i, uint32_t w)
{
    set(i, WH_OP_ILLEGAL, 0, 0, (int32_t)w);
}

/* A target in the same page is a distance between decoded entries, 2 guest bytes each. */
static void jump(wh_insn *i, unsigned near_op, unsigned far_op, uint8_t a, uint8_t b, int32_t distance, uint32_t offset)
{
    bool near =
        offset != WH_NO_PAGE && (int32_t)offset + distance >= 0 && (int32_t)offset + distance < (int32_t)WH_PAGE_SIZE;
    set(i, near ? near_op : far_op, a, b, near ? distance / 2 * (int32_t)sizeof(wh_insn) : distance);
}

static void branch(uint32_t w, uint32_t offset, wh_insn *i)
{
    static const uint16_t near[8] = {WH_OP_BEQ_NEAR,  WH_OP_BNE_NEAR, 0, 0, WH_OP_BLT_NEAR, WH_OP_BGE_NEAR,
                                     WH_OP_BLTU_NEAR, WH_OP_BGEU_NEAR};
    static const uint16_t far[8] = {WH_OP_BEQ_FAR,  WH_OP_BNE_FAR, 0, 0, WH_OP_BLT_FAR, WH_OP_BGE_FAR,
                                    WH_OP_BLTU_FAR, WH_OP_BGEU_FAR};
    unsigned f3 = field(w, 14, 12);
    if (near[f3] == 0)
        illegal(i, w);
    else
        jump(i, near[f3], far[f3], rs2(w), rs1(w), imm_b(w), offset);
}

static void op_imm(uint32_t w, wh_insn *i)
{
    unsigned op = 0, shift = field(w, 25, 20), high = field(w, 31, 26);
    int32_t imm = imm_i(w);
    switch (field(w, 14, 12)) {
    case 0:
        op = WH_OP_ADDI;
        break;
    case 2:
        op = WH_OP_SLTI;
        break;
    case 3:
        op = WH_OP_SLTIU;
        break;
    case 4:
        op = WH_OP_XORI;
        break;
    case 6:
        op = WH_OP_ORI;
        break;
    case 7:
        op = WH_OP_ANDI;
        break;
    case 1:
        imm = (int32_t)shift;
        if (high == 0x00)
            op = WH_OP_SLLI;
        else if (high == 0x0a)
            op = WH_OP_BSETI;
        else if (high == 0x12)
            op = WH_OP_BCLRI;
        else if (high == 0x1a)
            op = WH_OP_BINVI;
        else if (high == 0x18) {
            static const uint16_t unary[6] = {WH_OP_CLZ, WH_OP_CTZ, WH_OP_CPOP, 0, WH_OP_SEXT_B, WH_OP_SEXT_H};
            op = shift < 6 ? unary[shift] : 0;
        }
        break;
    default:
        imm = (int32_t)shift;
        if (high == 0x00)
            op = WH_OP_SRLI;
        else if (high == 0x10)
            op = WH_OP_SRAI;
        else if (high == 0x12)
            op = WH_OP_BEXTI;
        else if (high == 0x18)
            op = WH_OP_RORI;
        else if (w >> 20 == 0x287)
            op = WH_OP_ORC_B;
        else if (w >> 20 == 0x6b8)
            op = WH_OP_REV8;
        break;
    }
    if (op == 0)
        illegal(i, w);
    else
        set(i, op, dest(w), rs1(w), imm);
}

static void op_imm32(uint32_t w, wh_insn *i)
{
    unsigned op = 0, high = field(w, 31, 25);
    int32_t imm = (int32_t)field(w, 24, 20);
    switch (field(w, 14, 12)) {
    case 0:
        op = WH_OP_ADDIW;
        imm = imm_i(w);
        break;
    case 1:
        if (high == 0x00)
            op = WH_OP_SLLIW;
        else if (field(w, 31, 26) == 0x02) {
            op = WH_OP_SLLI_UW;
            imm = (int32_t)field(w, 25, 20);
        } else if (high == 0x30 && imm < 3)
            op = imm == 0 ? WH_OP_CLZW : imm == 1 ? WH_OP_CTZW : WH_OP_CPOPW;
        break;
    case 5:
        op = high == 0x00 ? WH_OP_SRLIW : high == 0x20 ? WH_OP_SRAIW : high == 0x30 ? WH_OP_RORIW : 0;
        break;
    default:
        break;
    }
    if (op == 0)
        illegal(i, w);
    else
        set(i, op, dest(w), rs1(w), imm);
}

struct rtype {
    uint8_t f7;
    uint16_t op[8];
};
static const struct rtype op_table[] = {
    {0x00, {WH_OP_ADD, WH_OP_SLL, WH_OP_SLT, WH_OP_SLTU, WH_OP_XOR, WH_OP_SRL, WH_OP_OR, WH_OP_AND}},
    {0x20, {WH_OP_SUB, 0, 0, 0, WH_OP_XNOR, WH_OP_SRA, WH_OP_ORN, WH_OP_ANDN}},
    {0x01, {WH_OP_MUL, WH_OP_MULH, WH_OP_MULHSU, WH_OP_MULHU, WH_OP_DIV, WH_OP_DIVU, WH_OP_REM, WH_OP_REMU}},
    {0x07, {0, 0, 0, 0, 0, WH_OP_CZERO_EQZ, 0, WH_OP_CZERO_NEZ}},
    {0x05, {0, 0, 0, 0, WH_OP_MIN, WH_OP_MINU, WH_OP_MAX, WH_OP_MAXU}},
    {0x10, {0, 0, WH_OP_SH1ADD, 0, WH_OP_SH2ADD, 0, WH_OP_SH3ADD, 0}},
    {0x14, {0, WH_OP_BSET, 0, 0, 0, 0, 0, 0}},
    {0x24, {0, WH_OP_BCLR, 0, 0, 0, WH_OP_BEXT, 0, 0}},
    {0x30, {0, WH_OP_ROL, 0, 0, 0, WH_OP_ROR, 0, 0}},
    {0x34, {0, WH_OP_BINV, 0, 0, 0, 0, 0, 0}},
};
static const struct rtype op32_table[] = {
    {0x00, {WH_OP_ADDW, WH_OP_SLLW, 0, 0, 0, WH_OP_SRLW, 0, 0}},
    {0x20, {WH_OP_SUBW, 0, 0, 0, 0, WH_OP_SRAW, 0, 0}},
    {0x01, {WH_OP_MULW, 0, 0, 0, WH_OP_DIVW, WH_OP_DIVUW, WH_OP_REMW, WH_OP_REMUW}},
    {0x04, {WH_OP_ADD_UW, 0, 0, 0, 0, 0, 0, 0}},
    {0x10, {0, 0, WH_OP_SH1ADD_UW, 0, WH_OP_SH2ADD_UW, 0, WH_OP_SH3ADD_UW, 0}},
    {0x30, {0, WH_OP_ROLW, 0, 0, 0, WH_OP_RORW, 0, 0}},
};

static void op_reg(uint32_t w, wh_insn *i, const struct rtype *table, size_t rows)
{
    for (size_t row = 0; row < rows; row++)
        if (table[row].f7 == field(w, 31, 25) && table[row].op[field(w, 14, 12)] != 0) {
            set(i, table[row].op[field(w, 14, 12)], dest(w), rs1(w), rs2(w));
            return;
        }
    illegal(i, w);
}

static void atomic(uint32_t w, wh_insn *i)
{
    unsigned f3 = field(w, 14, 12), funct = field(w, 31, 27), op = 0;
    static const uint16_t amo[32] = {[0x00] = WH_OP_AMOADD_W, [0x01] = WH_OP_AMOSWAP_W, [0x04] = WH_OP_AMOXOR_W,
                                     [0x08] = WH_OP_AMOOR_W,  [0x0c] = WH_OP_AMOAND_W,  [0x10] = WH_OP_AMOMIN_W,
                                     [0x14] = WH_OP_AMOMAX_W, [0x18] = WH_OP_AMOMINU_W, [0x1c] = WH_OP_AMOMAXU_W};
    if (funct == 5 && (f3 == 2 || f3 == 3))
        op = f3 == 2 ? WH_OP_AMOCAS_W : WH_OP_AMOCAS_D;
    else if (funct == 5 && f3 == 4 && !(rs2(w) & 1) && !(field(w, 7, 7)))
        op = WH_OP_AMOCAS_Q; /* pairs of registers, even ones named */
    else if (f3 == 2 || f3 == 3) {
        bool wide = f3 == 3;
        if (funct == 2 && rs2(w) == 0)
            op = wide ? WH_OP_LR_D : WH_OP_LR_W;
        else if (funct == 3)
            op = wide ? WH_OP_SC_D : WH_OP_SC_W;
        else if (amo[funct] != 0)
            op = amo[funct] + (wide ? WH_OP_AMOSWAP_D - WH_OP_AMOSWAP_W : 0u);
    }
    if (op == 0)
        illegal(i, w);
    else
        set(i, op, dest(w), rs1(w), rs2(w));
}

static void system_op(uint32_t w, wh_insn *i)
{
    unsigned f3 = field(w, 14, 12);
    if (f3 == 4) {
        bool mop_r = (w & 0xb3c00000) == 0x81c00000, mop_rr = (w & 0xb2000000) == 0x82000000;
        if (mop_r || mop_rr)
            set(i, WH_OP_MOP, dest(w), 0, 0);
        else
            illegal(i, w);
    } else if (f3 != 0) {
        set(i, WH_OP_CSR, dest(w), rs1(w), (int32_t)(w >> 20 | f3 << 12 | (uint32_t)rs1(w) << 16));
    } else if (field(w, 11, 7) != 0) {
        illegal(i, w);
    } else if (w >> 25 == 0x09 || w >> 25 == 0x0b) { /* sfence.vma, sinval.vma */
        set(i, WH_OP_SFENCE_VMA, rs2(w), rs1(w), 0);
    } else if (rs1(w) != 0) {
        illegal(i, w);
    } else {
        switch (w >> 20) {
        case 0x000:
            set(i, WH_OP_ECALL, 0, 0, 0);
            break;
        case 0x001:
            set(i, WH_OP_EBREAK, 0, 0, 0);
            break;
        case 0x102:
            set(i, WH_OP_SRET, 0, 0, 0);
            break;
        case 0x302:
            set(i, WH_OP_MRET, 0, 0, 0);
            break;
        case 0x105:
            set(i, WH_OP_WFI, 0, 0, 0);
            break;
        case 0x00d: /* wrs.nto */
        case 0x01d: /* wrs.sto */
            set(i, WH_OP_WRS, 0, 0, (int32_t)(w >> 20));
            break;
        case 0x180: /* sfence.w.inval */
        case 0x181: /* sfence.inval.ir */
            set(i, WH_OP_SFENCE_ORDER, 0, 0, 0);
            break;
        default:
            illegal(i, w);
        }
    }
}

static void misc_mem(uint32_t w, wh_insn *i)
{
    unsigned f3 = field(w, 14, 12), pred = field(w, 27, 24), succ = field(w, 23, 20);
    uint32_t kind = w >> 20;
    if (f3 == 1)
        set(i, WH_OP_FENCE_I, 0, 0, 0);
    else if (f3 == 2 && field(w, 11, 7) == 0 && (kind <= WH_CBO_FLUSH || kind == WH_CBO_ZERO))
        set(i, WH_OP_CBO, 0, rs1(w), (int32_t)kind);
    else if (w == 0x0100000f)
        set(i, WH_OP_PAUSE, 0, 0, 0);
    else if (f3 == 0) /* only an earlier write before a later read needs more than acquire and release */
        set(i, (pred & 5) && (succ & 10) && w >> 28 != 8 ? WH_OP_FENCE : WH_OP_FENCE_LIGHT, 0, 0, 0);
    else
        illegal(i, w);
}

void wh_decode_fp(uint32_t w, wh_insn *out); /* decode_fp.c */

static void decode32(uint32_t w, uint32_t offset, wh_insn *i)
{
    static const uint16_t loads[8] = {WH_OP_LB, WH_OP_LH, WH_OP_LW, WH_OP_LD, WH_OP_LBU, WH_OP_LHU, WH_OP_LWU, 0};
    static const uint16_t stores[8] = {WH_OP_SB, WH_OP_SH, WH_OP_SW, WH_OP_SD, 0, 0, 0, 0};
    unsigned f3 = field(w, 14, 12);
    switch (w & 0x7f) {
    case 0x03:
        if (loads[f3] == 0)
            illegal(i, w);
        else
            set(i, loads[f3], dest(w), rs1(w), imm_i(w));
        break;
    case 0x23:
        if (stores[f3] == 0)
            illegal(i, w);
        else
            set(i, stores[f3], rs2(w), rs1(w), imm_s(w));
        break;
    case 0x0f:
        misc_mem(w, i);
        break;
    case 0x13:
        op_imm(w, i);
        break;
    case 0x1b:
        op_imm32(w, i);
        break;
    case 0x17:
        set(i, WH_OP_AUIPC, dest(w), 0, (int32_t)(w & 0xfffff000));
        break;
    case 0x37:
        set(i, WH_OP_LUI, dest(w), 0, (int32_t)(w & 0xfffff000));
        break;
    case 0x2f:
        atomic(w, i);
        break;
    case 0x33:
        op_reg(w, i, op_table, WH_ARRAY_LEN(op_table));
        break;
    case 0x3b:
        if (w >> 25 == 0x04 && f3 == 4) { /* zext.h has no second source */
            if (rs2(w) == 0)
                set(i, WH_OP_ZEXT_H, dest(w), rs1(w), 0);
            else
                illegal(i, w);
        } else {
            op_reg(w, i, op32_table, WH_ARRAY_LEN(op32_table));
        }
        break;
    case 0x63:
        branch(w, offset, i);
        break;
    case 0x67:
        if (f3 == 0)
            set(i, WH_OP_JALR, dest(w), rs1(w), imm_i(w));
        else
            illegal(i, w);
        break;
    case 0x6f:
        jump(i, WH_OP_JAL_NEAR, WH_OP_JAL_FAR, dest(w), 0, imm_j(w), offset);
        break;
    case 0x73:
        system_op(w, i);
        break;
    case 0x07:
    case 0x27:
    case 0x43:
    case 0x47:
    case 0x4b:
    case 0x4f:
    case 0x53:
        wh_decode_fp(w, i);
        break;
    default:
        illegal(i, w);
    }
}

unsigned wh_decode(uint32_t bits, uint32_t offset, wh_insn *out)
{
    if ((bits & 3) == 3) {
        decode32(bits, offset, out);
        return 4;
    }
    decode32(wh_expand((uint16_t)bits), offset, out);
    if (out->op == WH_OP_ILLEGAL)
        out->imm = (int32_t)(bits & 0xffff);
    else
        out->op++; /* the 2-byte twin; tests/c/cpu_decode_test.c proves that each has one */
    return 2;
}

unsigned wh_pair(unsigned first, unsigned second, unsigned distance)
{
    switch (first << 16 | second << 4 | distance) {
#define PAIR2(a, b)                                                                                                    \
    case (unsigned)WH_OP_##a << 16 | WH_OP_##b << 4 | 2:                                                               \
        return WH_OP_##a##__##b;
#define PAIR4(a, b)                                                                                                    \
    case (unsigned)WH_OP_##a << 16 | WH_OP_##b << 4 | 4:                                                               \
        return WH_OP_##a##__##b;
        WH_PAIRS(PAIR2, PAIR4)
    default:
        return 0;
    }
}

const char *wh_op_name(unsigned op)
{
    static const char *const names[] = {
#define ONE(name)           #name,
#define TWO(name)           #name, "C_" #name,
#define PAIR(first, second) #first " " #second,
        WH_OPS(ONE, TWO) WH_PAIRS(PAIR, PAIR)};
    return op < WH_OP_COUNT ? names[op] : "?";
}

/* The C extension (unprivileged spec, chapter "C"), Zcb and Zcmop: every 2-byte instruction is rewritten as the 4-byte
 * one it stands for, so that there is one place that knows what instructions mean. */
#include "cpu/insn.h"

static uint32_t bit(uint32_t c, unsigned from, unsigned to)
{
    return (c >> from & 1) << to;
}
static uint32_t bits(uint32_t c, unsigned high, unsigned low, unsigned to)
{
    return (c >> low & ((1u << (high - low + 1)) - 1)) << to;
}
static uint32_t low_reg(uint32_t c, unsigned at)
{
    return 8 + (c >> at & 7);
}
static uint32_t sext(uint32_t v, unsigned width)
{
    return (uint32_t)((int32_t)(v << (32 - width)) >> (32 - width));
}

static uint32_t itype(uint32_t opcode, uint32_t f3, uint32_t rd, uint32_t rs1, uint32_t imm)
{
    return opcode | rd << 7 | f3 << 12 | rs1 << 15 | imm << 20;
}
static uint32_t stype(uint32_t opcode, uint32_t f3, uint32_t rs1, uint32_t rs2, uint32_t imm)
{
    return opcode | (imm & 31) << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | (imm >> 5 & 127) << 25;
}
static uint32_t rtype(uint32_t opcode, uint32_t f3, uint32_t f7, uint32_t rd, uint32_t rs1, uint32_t rs2)
{
    return opcode | rd << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | f7 << 25;
}
static uint32_t jtype(uint32_t rd, uint32_t imm)
{
    return 0x6f | rd << 7 | (imm >> 12 & 0xff) << 12 | (imm >> 11 & 1) << 20 | (imm >> 1 & 0x3ff) << 21 |
           (imm >> 20 & 1) << 31;
}
static uint32_t btype(uint32_t f3, uint32_t rs1, uint32_t imm)
{
    return 0x63 | (imm >> 11 & 1) << 7 | (imm >> 1 & 15) << 8 | f3 << 12 | rs1 << 15 | (imm >> 5 & 63) << 25 |
           (imm >> 12 & 1) << 31;
}

/* Zcb: c.lbu c.lhu c.lh c.sb c.sh */
static uint32_t bytes_and_halves(uint32_t c, uint32_t reg, uint32_t rs1)
{
    uint32_t byte = bit(c, 6, 0) | bit(c, 5, 1), half = bit(c, 5, 1);
    switch (c >> 10 & 7) {
    case 0:
        return itype(0x03, 4, reg, rs1, byte);
    case 1:
        return itype(0x03, (c >> 6 & 1) ? 1 : 5, reg, rs1, half);
    case 2:
        return stype(0x23, 0, rs1, reg, byte);
    case 3:
        return (c >> 6 & 1) ? 0 : stype(0x23, 1, rs1, reg, half);
    default:
        return 0;
    }
}

static uint32_t quadrant0(uint32_t c)
{
    uint32_t rd = low_reg(c, 2), rs1 = low_reg(c, 7);
    uint32_t word = bits(c, 12, 10, 3) | bit(c, 6, 2) | bit(c, 5, 6), twin = bits(c, 12, 10, 3) | bits(c, 6, 5, 6);
    switch (c >> 13) {
    case 0: {
        uint32_t imm = bits(c, 12, 11, 4) | bits(c, 10, 7, 6) | bit(c, 6, 2) | bit(c, 5, 3);
        return imm == 0 ? 0 : itype(0x13, 0, rd, 2, imm);
    }
    case 1:
        return itype(0x07, 3, rd, rs1, twin);
    case 2:
        return itype(0x03, 2, rd, rs1, word);
    case 3:
        return itype(0x03, 3, rd, rs1, twin);
    case 4:
        return bytes_and_halves(c, rd, rs1);
    case 5:
        return stype(0x27, 3, rs1, rd, twin);
    case 6:
        return stype(0x23, 2, rs1, rd, word);
    case 7:
        return stype(0x23, 3, rs1, rd, twin);
    default:
        return 0;
    }
}

/* Zcb on one register: c.zext.b c.sext.b c.zext.h c.sext.h c.zext.w c.not */
static uint32_t unary(uint32_t which, uint32_t rd)
{
    switch (which) {
    case 0:
        return itype(0x13, 7, rd, rd, 0xff);
    case 1:
        return itype(0x13, 1, rd, rd, 0x604);
    case 2:
        return rtype(0x3b, 4, 4, rd, rd, 0);
    case 3:
        return itype(0x13, 1, rd, rd, 0x605);
    case 4:
        return rtype(0x3b, 0, 4, rd, rd, 0);
    case 5:
        return itype(0x13, 4, rd, rd, 0xfff);
    default:
        return 0;
    }
}

static uint32_t arithmetic(uint32_t c)
{
    uint32_t rd = low_reg(c, 7), rs2 = low_reg(c, 2);
    uint32_t imm = sext(bit(c, 12, 5) | bits(c, 6, 2, 0), 6), shamt = imm & 63;
    switch (c >> 10 & 3) {
    case 0:
        return itype(0x13, 5, rd, rd, shamt);
    case 1:
        return itype(0x13, 5, rd, rd, shamt | 0x400);
    case 2:
        return itype(0x13, 7, rd, rd, imm);
    default:
        break;
    }
    switch ((c >> 10 & 4) | (c >> 5 & 3)) {
    case 0:
        return rtype(0x33, 0, 0x20, rd, rd, rs2);
    case 1:
        return rtype(0x33, 4, 0, rd, rd, rs2);
    case 2:
        return rtype(0x33, 6, 0, rd, rd, rs2);
    case 3:
        return rtype(0x33, 7, 0, rd, rd, rs2);
    case 4:
        return rtype(0x3b, 0, 0x20, rd, rd, rs2);
    case 5:
        return rtype(0x3b, 0, 0, rd, rd, rs2);
    case 6:
        return rtype(0x33, 0, 1, rd, rd, rs2); /* c.mul */
    default:
        return unary(c >> 2 & 7, rd);
    }
}

static uint32_t quadrant1(uint32_t c)
{
    uint32_t rd = c >> 7 & 31, imm = sext(bit(c, 12, 5) | bits(c, 6, 2, 0), 6);
    uint32_t branch = sext(bit(c, 12, 8) | bits(c, 11, 10, 3) | bits(c, 6, 5, 6) | bits(c, 4, 3, 1) | bit(c, 2, 5), 9);
    switch (c >> 13) {
    case 0:
        return itype(0x13, 0, rd, rd, imm);
    case 1:
        return rd == 0 ? 0 : itype(0x1b, 0, rd, rd, imm);
    case 2:
        return itype(0x13, 0, rd, 0, imm);
    case 3:
        if (imm == 0) /* Zcmop: c.mop.n does nothing; the rest is reserved */
            return (rd & 1) && rd < 16 ? itype(0x13, 0, 0, 0, 0) : 0;
        if (rd == 2)
            return itype(0x13, 0, 2, 2,
                         sext(bit(c, 12, 9) | bit(c, 6, 4) | bit(c, 5, 6) | bits(c, 4, 3, 7) | bit(c, 2, 5), 10));
        return 0x37 | rd << 7 | imm << 12;
    case 4:
        return arithmetic(c);
    case 5:
        return jtype(0, sext(bit(c, 12, 11) | bit(c, 11, 4) | bits(c, 10, 9, 8) | bit(c, 8, 10) | bit(c, 7, 6) |
                                 bit(c, 6, 7) | bits(c, 5, 3, 1) | bit(c, 2, 5),
                             12));
    case 6:
        return btype(0, low_reg(c, 7), branch);
    default:
        return btype(1, low_reg(c, 7), branch);
    }
}

static uint32_t quadrant2(uint32_t c)
{
    uint32_t rd = c >> 7 & 31, rs2 = c >> 2 & 31;
    uint32_t word = bit(c, 12, 5) | bits(c, 6, 4, 2) | bits(c, 3, 2, 6);
    uint32_t twin = bit(c, 12, 5) | bits(c, 6, 5, 3) | bits(c, 4, 2, 6);
    switch (c >> 13) {
    case 0:
        return itype(0x13, 1, rd, rd, bit(c, 12, 5) | rs2);
    case 1:
        return itype(0x07, 3, rd, 2, twin);
    case 2:
        return rd == 0 ? 0 : itype(0x03, 2, rd, 2, word);
    case 3:
        return rd == 0 ? 0 : itype(0x03, 3, rd, 2, twin);
    case 4:
        if (rs2 != 0) /* c.mv, c.add */
            return rtype(0x33, 0, 0, rd, (c >> 12 & 1) ? rd : 0, rs2);
        if (rd == 0)
            return (c >> 12 & 1) ? 0x00100073 : 0; /* c.ebreak */
        return itype(0x67, 0, c >> 12 & 1, rd, 0); /* c.jr, c.jalr */
    case 5:
        return stype(0x27, 3, 2, rs2, bits(c, 12, 10, 3) | bits(c, 9, 7, 6));
    case 6:
        return stype(0x23, 2, 2, rs2, bits(c, 12, 9, 2) | bits(c, 8, 7, 6));
    default:
        return stype(0x23, 3, 2, rs2, bits(c, 12, 10, 3) | bits(c, 9, 7, 6));
    }
}

uint32_t wh_expand(uint16_t c)
{
    switch (c & 3) {
    case 0:
        return quadrant0(c);
    case 1:
        return quadrant1(c);
    case 2:
        return quadrant2(c);
    default:
        return 0;
    }
}

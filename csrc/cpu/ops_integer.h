/* Semantics of integer operations for the interpreter; included inside the run loop (interp.c says what the macros
 * mean). */

TWO(LUI, RD = IMM)
ONE(AUIPC, RD = PC() + IMM)
TWO(ADDI, RD = RS1 + IMM)
ONE(SLTI, RD = (int64_t)RS1 < (int64_t)IMM)
ONE(SLTIU, RD = RS1 < IMM)
TWO(XORI, RD = RS1 ^ IMM)
ONE(ORI, RD = RS1 | IMM)
TWO(ANDI, RD = RS1 & IMM)
TWO(SLLI, RD = RS1 << (ip->imm & 63))
TWO(SRLI, RD = RS1 >> (ip->imm & 63))
TWO(SRAI, RD = (uint64_t)((int64_t)RS1 >> (ip->imm & 63)))
TWO(ADD, RD = RS1 + RS2)
TWO(SUB, RD = RS1 - RS2)
ONE(SLL, RD = RS1 << (RS2 & 63))
ONE(SLT, RD = (int64_t)RS1 < (int64_t)RS2)
ONE(SLTU, RD = RS1 < RS2)
TWO(XOR, RD = RS1 ^ RS2)
ONE(SRL, RD = RS1 >> (RS2 & 63))
ONE(SRA, RD = (uint64_t)((int64_t)RS1 >> (RS2 & 63)))
TWO(OR, RD = RS1 | RS2)
TWO(AND, RD = RS1 & RS2)
TWO(ADDIW, RD = wh_sext32(RS1 + IMM))
ONE(SLLIW, RD = wh_sext32(RS1 << (ip->imm & 31)))
ONE(SRLIW, RD = wh_sext32((uint32_t)RS1 >> (ip->imm & 31)))
ONE(SRAIW, RD = (uint64_t)(int64_t)((int32_t)RS1 >> (ip->imm & 31)))
TWO(ADDW, RD = wh_sext32(RS1 + RS2))
TWO(SUBW, RD = wh_sext32(RS1 - RS2))
ONE(SLLW, RD = wh_sext32((uint32_t)RS1 << (RS2 & 31)))
ONE(SRLW, RD = wh_sext32((uint32_t)RS1 >> (RS2 & 31)))
ONE(SRAW, RD = (uint64_t)(int64_t)((int32_t)RS1 >> (RS2 & 31)))

TWO(MUL, RD = RS1 * RS2)
ONE(MULH, RD = wh_mulh(RS1, RS2))
ONE(MULHSU, RD = wh_mulhsu(RS1, RS2))
ONE(MULHU, RD = wh_mulhu(RS1, RS2))
ONE(DIV, RD = wh_div(RS1, RS2))
ONE(DIVU, RD = wh_divu(RS1, RS2))
ONE(REM, RD = wh_rem(RS1, RS2))
ONE(REMU, RD = wh_remu(RS1, RS2))
ONE(MULW, RD = wh_sext32(RS1 * RS2))
ONE(DIVW, RD = wh_divw(RS1, RS2))
ONE(DIVUW, RD = wh_divuw(RS1, RS2))
ONE(REMW, RD = wh_remw(RS1, RS2))
ONE(REMUW, RD = wh_remuw(RS1, RS2))

TWO(ADD_UW, RD = (uint32_t)RS1 + RS2)
ONE(SH1ADD, RD = (RS1 << 1) + RS2)
ONE(SH2ADD, RD = (RS1 << 2) + RS2)
ONE(SH3ADD, RD = (RS1 << 3) + RS2)
ONE(SH1ADD_UW, RD = ((uint64_t)(uint32_t)RS1 << 1) + RS2)
ONE(SH2ADD_UW, RD = ((uint64_t)(uint32_t)RS1 << 2) + RS2)
ONE(SH3ADD_UW, RD = ((uint64_t)(uint32_t)RS1 << 3) + RS2)
ONE(SLLI_UW, RD = (uint64_t)(uint32_t)RS1 << (ip->imm & 63))
ONE(ANDN, RD = RS1 & ~RS2)
ONE(ORN, RD = RS1 | ~RS2)
ONE(XNOR, RD = ~(RS1 ^ RS2))
ONE(CLZ, RD = wh_clz(RS1))
ONE(CTZ, RD = wh_ctz(RS1))
ONE(CPOP, RD = (uint64_t)__builtin_popcountll(RS1))
ONE(CLZW, RD = wh_clzw(RS1))
ONE(CTZW, RD = wh_ctzw(RS1))
ONE(CPOPW, RD = (uint64_t)__builtin_popcount((uint32_t)RS1))
ONE(MAX, RD = (int64_t)RS1 > (int64_t)RS2 ? RS1 : RS2)
ONE(MAXU, RD = RS1 > RS2 ? RS1 : RS2)
ONE(MIN, RD = (int64_t)RS1 < (int64_t)RS2 ? RS1 : RS2)
ONE(MINU, RD = RS1 < RS2 ? RS1 : RS2)
TWO(SEXT_B, RD = (uint64_t)(int64_t)(int8_t)RS1)
TWO(SEXT_H, RD = (uint64_t)(int64_t)(int16_t)RS1)
TWO(ZEXT_H, RD = (uint16_t)RS1)
ONE(ROL, RD = wh_rol(RS1, RS2))
ONE(ROR, RD = wh_ror(RS1, RS2))
ONE(RORI, RD = wh_ror(RS1, (uint64_t)ip->imm))
ONE(ROLW, RD = wh_rolw(RS1, RS2))
ONE(RORW, RD = wh_rorw(RS1, RS2))
ONE(RORIW, RD = wh_rorw(RS1, (uint64_t)ip->imm))
ONE(ORC_B, RD = wh_orc_b(RS1))
ONE(REV8, RD = __builtin_bswap64(RS1))
ONE(BCLR, RD = RS1 & ~(1ull << (RS2 & 63)))
ONE(BEXT, RD = RS1 >> (RS2 & 63) & 1)
ONE(BINV, RD = RS1 ^ 1ull << (RS2 & 63))
ONE(BSET, RD = RS1 | 1ull << (RS2 & 63))
ONE(BCLRI, RD = RS1 & ~(1ull << (ip->imm & 63)))
ONE(BEXTI, RD = RS1 >> (ip->imm & 63) & 1)
ONE(BINVI, RD = RS1 ^ 1ull << (ip->imm & 63))
ONE(BSETI, RD = RS1 | 1ull << (ip->imm & 63))

/* Control transfer. A link is written before the jump; JALR reads its base first, for rd may be rs1. */
L_JAL_NEAR : RD = PC() + 4;
JUMP_NEAR();
L_JAL_NEAR_C : JUMP_NEAR(); /* c.j links nothing */
L_JAL_FAR : target = PC();
RD = target + 4;
target += IMM;
JUMP_FAR();
L_JAL_FAR_C : target = PC() + IMM;
JUMP_FAR();
L_JALR : target = (RS1 + IMM) & ~1ull;
RD = PC() + 4;
JUMP_FAR();
L_JALR_C : target = RS1 & ~1ull;
RD = PC() + 2;
JUMP_FAR();

#define BRANCH(name, length, condition)                                                                                \
    L_##name##_NEAR##length : if (condition) JUMP_NEAR();                                                              \
    NEXT(LENGTH##length);                                                                                              \
    L_##name##_FAR##length : if (condition)                                                                            \
    {                                                                                                                  \
        target = PC() + IMM;                                                                                           \
        JUMP_FAR();                                                                                                    \
    }                                                                                                                  \
    NEXT(LENGTH##length);
#define LENGTH   4
#define LENGTH_C 2
BRANCH(BEQ, , RS1 == RA)
BRANCH(BNE, , RS1 != RA)
BRANCH(BLT, , (int64_t)RS1 < (int64_t)RA)
BRANCH(BGE, , (int64_t)RS1 >= (int64_t)RA)
BRANCH(BLTU, , RS1 < RA)
BRANCH(BGEU, , RS1 >= RA)
BRANCH(BEQ, _C, RS1 == 0)
BRANCH(BNE, _C, RS1 != 0)

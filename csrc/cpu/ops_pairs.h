/* The first halves of pairs (insn.h) for the interpreter; included inside the run loop, after ops_memory.h. */

#define FIRST_ADDI    RD = RS1 + IMM;
#define FIRST_ADDI_C  FIRST_ADDI
#define FIRST_ADD     RD = RS1 + RS2;
#define FIRST_ADD_C   FIRST_ADD
#define FIRST_SUB     RD = RS1 - RS2;
#define FIRST_XOR     RD = RS1 ^ RS2;
#define FIRST_ANDI    RD = RS1 & IMM;
#define FIRST_SLLI    RD = RS1 << (ip->imm & 63);
#define FIRST_SLLI_C  FIRST_SLLI
#define FIRST_SRLI    RD = RS1 >> (ip->imm & 63);
#define FIRST_SRLI_C  FIRST_SRLI
#define FIRST_SLTU    RD = RS1 < RS2;
#define FIRST_MUL     RD = RS1 * RS2;
#define FIRST_ADDIW   RD = wh_sext32(RS1 + IMM);
#define FIRST_ADDIW_C FIRST_ADDIW
#define FIRST_SUBW    RD = wh_sext32(RS1 - RS2);
#define FIRST_SRAIW   RD = (uint64_t)(int64_t)((int32_t)RS1 >> (ip->imm & 31));
#define FIRST_AND     RD = RS1 & RS2;
#define FIRST_AND_C   FIRST_AND
#define FIRST_ANDI_C  FIRST_ANDI
#define FIRST_OR      RD = RS1 | RS2;
#define FIRST_XORI    RD = RS1 ^ IMM;
#define FIRST_SLTIU   RD = RS1 < IMM;
#define FIRST_MULHU   RD = wh_mulhu(RS1, RS2);
#define FIRST_AUIPC   RD = PC() + IMM;
#define FIRST_LW      LOAD_BODY(int32_t, 32, EXTEND(int32_t))
#define FIRST_LW_C    FIRST_LW
#define FIRST_LD      LOAD_BODY(int64_t, 64, RD = value)
#define FIRST_LD_C    FIRST_LD
#define FIRST_LBU     LOAD_BODY(uint8_t, 8, RD = (uint8_t)value)
#define FIRST_SW      STORE_BODY(uint32_t, 32, RA)
#define FIRST_SW_C    FIRST_SW
#define FIRST_SD      STORE_BODY(uint64_t, 64, RA)
#define FIRST_SD_C    FIRST_SD
/* A branch that is not taken goes on to the second. */
#define FIRST_BRANCH(condition)                                                                                        \
    if (condition)                                                                                                     \
        JUMP_NEAR();
#define FIRST_BEQ_NEAR                     FIRST_BRANCH(RS1 == RA)
#define FIRST_BNE_NEAR                     FIRST_BRANCH(RS1 != RA)
#define FIRST_BLT_NEAR                     FIRST_BRANCH((int64_t)RS1 < (int64_t)RA)
#define FIRST_BEQ_NEAR_C                   FIRST_BRANCH(RS1 == 0)
#define FIRST_BNE_NEAR_C                   FIRST_BRANCH(RS1 != 0)
#define SECOND_HALF(first, second, length) L_##first##__##second : FIRST_##first GO_ON(L_##second, length)
#define PAIR2(first, second)               SECOND_HALF(first, second, 2)
#define PAIR4(first, second)               SECOND_HALF(first, second, 4)
WH_PAIRS(PAIR2, PAIR4)

/* The decoder: every 2-byte encoding, random 4-byte ones, and a table of known ones. */
#include "cpu_check.h"

static void every_compressed_has_a_twin(void)
{
    unsigned legal = 0;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        if ((bits & 3) == 3)
            continue;
        wh_insn i;
        CHECK_EQ(wh_decode(bits, 64, &i), 2);
        if (i.op == WH_OP_ILLEGAL) {
            CHECK_EQ((uint32_t)i.imm, bits);
            continue;
        }
        legal++;
        if (strncmp(wh_op_name(i.op), "C_", 2) != 0) {
            printf("%04x decodes to %s, which has no 2-byte twin\n", bits, wh_op_name(i.op));
            check_failures++;
        }
    }
    CHECK(legal > 40000);
}

static void operands_stay_in_range(void)
{
    uint64_t seed = 1;
    for (int n = 0; n < 2000000; n++) {
        uint64_t r = check_random(&seed);
        uint32_t offset = (uint32_t)(r >> 32) & 0xffc;
        wh_insn i;
        CHECK_EQ(wh_decode((uint32_t)r | 3, offset, &i), 4);
        CHECK(i.op >= WH_OP_ILLEGAL && i.op < WH_OP_COUNT);
        if (i.op == WH_OP_ILLEGAL)
            continue;
        CHECK(i.a <= WH_SINK && i.b < 32);
        /* A near jump stays among the decoded instructions of its page. */
        if (strstr(wh_op_name(i.op), "_NEAR") != NULL) {
            int64_t slot = offset / 2 + i.imm / (int64_t)sizeof(wh_insn);
            CHECK(slot >= 0 && slot < WH_PAGE_SLOTS && i.imm % (int64_t)sizeof(wh_insn) == 0);
        }
    }
}

static void known(void)
{
    static const struct {
        uint32_t bits;
        unsigned op, a, b;
        int32_t imm;
    } table[] = {
        {0x00000013, WH_OP_ADDI, WH_SINK, 0, 0},
        {0xfff00093, WH_OP_ADDI, 1, 0, -1},
        {0x003100b3, WH_OP_ADD, 1, 2, 3},
        {0x403100b3, WH_OP_SUB, 1, 2, 3},
        {0x023100b3, WH_OP_MUL, 1, 2, 3},
        {0x0220d093, WH_OP_SRLI, 1, 1, 34},
        {0x4220d093, WH_OP_SRAI, 1, 1, 34},
        {0xfe513c23, WH_OP_SD, 5, 2, -8},
        {0x0ff0000f, WH_OP_FENCE, 0, 0, 0},
        {0x0330000f, WH_OP_FENCE, 0, 0, 0},
        {0x0110000f, WH_OP_FENCE_LIGHT, 0, 0, 0},
        {0x8330000f, WH_OP_FENCE_LIGHT, 0, 0, 0},
        {0x0100000f, WH_OP_PAUSE, 0, 0, 0},
        {0x12000073, WH_OP_SFENCE_VMA, 0, 0, 0},
        {0x100120af, WH_OP_LR_W, 1, 2, 0},
        {0x1821b0af, WH_OP_SC_D, 1, 3, 2},
        {0x0805c53b, WH_OP_ZEXT_H, 10, 11, 0},
        {0x6b85d513, WH_OP_REV8, 10, 11, 0x38},
        {0x60159513, WH_OP_CTZ, 10, 11, 1},
        {0x02b57553, WH_OP_FADD_D, 10, 10, 0},
        {0x0e7350b3, WH_OP_CZERO_EQZ, 1, 6, 7}, /* czero.eqz ra, t1, t2 */
        {0x0e7370b3, WH_OP_CZERO_NEZ, 1, 6, 7},
        {0x0005200f, WH_OP_CBO, 0, 10, WH_CBO_INVAL}, /* cbo.inval (a0) */
        {0x0015200f, WH_OP_CBO, 0, 10, WH_CBO_CLEAN},
        {0x0025200f, WH_OP_CBO, 0, 10, WH_CBO_FLUSH},
        {0x0045200f, WH_OP_CBO, 0, 10, WH_CBO_ZERO},
        {0x0035200f, WH_OP_ILLEGAL, 0, 0, 0x35200f},
        {0x0045208f, WH_OP_ILLEGAL, 0, 0, 0x45208f}, /* rd is not zero */
        {0x00156013, WH_OP_ORI, WH_SINK, 10, 1},     /* prefetch.r 0(a0): a hint */
        {0x00d00073, WH_OP_WRS, 0, 0, 0x0d},         /* wrs.nto */
        {0x01d00073, WH_OP_WRS, 0, 0, 0x1d},         /* wrs.sto */
        {0x28c5a52f, WH_OP_AMOCAS_W, 10, 11, 12},    /* amocas.w a0, a2, (a1) */
        {0x28c5b52f, WH_OP_AMOCAS_D, 10, 11, 12},
        {0x28c5c52f, WH_OP_AMOCAS_Q, 10, 11, 12},
        {0x28c5c5af, WH_OP_ILLEGAL, 0, 0, 0x28c5c5af}, /* odd rd */
        {0x28d5c52f, WH_OP_ILLEGAL, 0, 0, 0x28d5c52f}, /* odd rs2 */
        {0x81c5c573, WH_OP_MOP, 10, 0, 0},             /* mop.r.0 a0, a1 */
        {0xcdf5c573, WH_OP_MOP, 10, 0, 0},             /* mop.r.31 */
        {0x82c5c573, WH_OP_MOP, 10, 0, 0},             /* mop.rr.0 a0, a1, a2 */
        {0xcec5c573, WH_OP_MOP, 10, 0, 0},             /* mop.rr.7 */
        {0x8005c573, WH_OP_ILLEGAL, 0, 0, (int32_t)0x8005c573},
        {0x00259507, WH_OP_FLH, 10, 11, 2}, /* flh fa0, 2(a1) */
        {0x00a59127, WH_OP_FSH, 10, 11, 2}, /* fsh fa0, 2(a1) */
        {0xe4058553, WH_OP_FMV_X_H, 10, 11, 0},
        {0xf4058553, WH_OP_FMV_H_X, 10, 11, 0},
        {0x16b50073, WH_OP_SFENCE_VMA, 11, 10, 0}, /* sinval.vma a0, a1 */
        {0x18000073, WH_OP_SFENCE_ORDER, 0, 0, 0},
        {0x18100073, WH_OP_SFENCE_ORDER, 0, 0, 0},
        {0xffffffff, WH_OP_ILLEGAL, 0, 0, -1},
        {0x00004073, WH_OP_ILLEGAL, 0, 0, 0x4073},
        {0x10100073, WH_OP_ILLEGAL, 0, 0, 0x10100073},
        {0x02b55553, WH_OP_ILLEGAL, 0, 0, 0x02b55553}, /* rm 5 */
    };
    for (size_t n = 0; n < WH_ARRAY_LEN(table); n++) {
        wh_insn i;
        (void)wh_decode(table[n].bits, 0, &i);
        if (i.op != table[n].op || i.a != table[n].a || i.b != table[n].b) {
            printf("%08x: %s a=%u b=%u\n", table[n].bits, wh_op_name(i.op), i.a, i.b);
            check_failures++;
        }
        if (i.op != WH_OP_FADD_D)
            CHECK_EQ((uint32_t)i.imm, (uint32_t)table[n].imm);
    }
    CHECK_EQ(wh_expand(0x0000), 0);      /* defined illegal */
    CHECK_EQ(wh_expand(0x8082), 0x8067); /* ret */
    CHECK_EQ(wh_expand(0x9002), I_EBREAK);
    CHECK_EQ(wh_expand(0x1141), 0xff010113); /* addi sp, sp, -16 */
    CHECK_EQ(wh_expand(0x6105), 0x02010113); /* c.addi16sp 32 */
}

/* Zfa and Zfhmin: FP_SLOW with the operation and the format in imm. */
static void slow_float(void)
{
    static const struct {
        uint32_t bits;
        unsigned op, wide;
    } table[] = {
        {0x4025f553, WH_FP_FROM_H, 0},                                 /* fcvt.s.h fa0, fa1 */
        {0x4225f553, WH_FP_FROM_H, 1},                                 /* fcvt.d.h */
        {0x4405f553, WH_FP_TO_H, 0},                                   /* fcvt.h.s */
        {0x4415f553, WH_FP_TO_H, 1},                                   /* fcvt.h.d */
        {0x4045f553, WH_FP_ROUND, 0},    {0x4245f553, WH_FP_ROUND, 1}, /* fround.s, fround.d */
        {0x4055f553, WH_FP_ROUNDNX, 0},  {0x4255f553, WH_FP_ROUNDNX, 1},
        {0xc2859553, WH_FP_TO_W_MOD, 1},                              /* fcvtmod.w.d a0, fa1, rtz */
        {0xf0150553, WH_FP_LI, 0},       {0xf2150553, WH_FP_LI, 1},   /* fli.s fa0, 10th */
        {0x28c5a553, WH_FP_MINM, 0},     {0x28c5b553, WH_FP_MAXM, 0}, /* fminm.s fa0, fa1, fa2 */
        {0x2ac5a553, WH_FP_MINM, 1},     {0x2ac5b553, WH_FP_MAXM, 1},
        {0xa0c5c553, WH_FP_LEQ, 0},      {0xa0c5d553, WH_FP_LTQ, 0}, /* fleq.s a0, fa1, fa2 */
        {0xa2c5c553, WH_FP_LEQ, 1},      {0xa2c5d553, WH_FP_LTQ, 1},
    };
    static const uint32_t reserved[] = {0xc2858553 /* fcvtmod.w.d with rne */, 0xc0859553 /* no .s of it */,
                                        0x4425f553 /* fcvt.h.h */, 0x04c5f553 /* fadd.h */, 0xf4150553 /* fli.h */};
    for (size_t n = 0; n < WH_ARRAY_LEN(table); n++) {
        wh_insn i;
        (void)wh_decode(table[n].bits, 0, &i);
        if (i.op != WH_OP_FP_SLOW || WH_FP_OP(i.imm) != table[n].op || WH_FP_DOUBLE(i.imm) != table[n].wide) {
            printf("%08x: %s %u %u\n", table[n].bits, wh_op_name(i.op), WH_FP_OP(i.imm), WH_FP_DOUBLE(i.imm));
            check_failures++;
        }
    }
    for (size_t n = 0; n < WH_ARRAY_LEN(reserved); n++) {
        wh_insn i;
        (void)wh_decode(reserved[n], 0, &i);
        CHECK_EQ(i.op, WH_OP_ILLEGAL);
    }
}

static void compressed_extras(void)
{
    CHECK_EQ(wh_expand(0x8048), 0x00144503); /* c.lbu a0, 1(s0) */
    CHECK_EQ(wh_expand(0x8028), 0x00244503); /* c.lbu a0, 2(s0) */
    CHECK_EQ(wh_expand(0x8428), 0x00245503); /* c.lhu a0, 2(s0) */
    CHECK_EQ(wh_expand(0x8468), 0x00241503); /* c.lh a0, 2(s0) */
    CHECK_EQ(wh_expand(0x8868), 0x00a401a3); /* c.sb a0, 3(s0) */
    CHECK_EQ(wh_expand(0x8c28), 0x00a41123); /* c.sh a0, 2(s0) */
    CHECK_EQ(wh_expand(0x8c68), 0);          /* reserved */
    CHECK_EQ(wh_expand(0x9d4d), 0x02b50533); /* c.mul a0, a1 */
    CHECK_EQ(wh_expand(0x9d61), 0x0ff57513); /* c.zext.b a0 */
    CHECK_EQ(wh_expand(0x9d65), 0x60451513); /* c.sext.b */
    CHECK_EQ(wh_expand(0x9d69), 0x0805453b); /* c.zext.h */
    CHECK_EQ(wh_expand(0x9d6d), 0x60551513); /* c.sext.h */
    CHECK_EQ(wh_expand(0x9d71), 0x0805053b); /* c.zext.w */
    CHECK_EQ(wh_expand(0x9d75), 0xfff54513); /* c.not */
    CHECK_EQ(wh_expand(0x9d79), 0);
    CHECK_EQ(wh_expand(0x6281), 0x00000013); /* c.mop.5 */
    CHECK_EQ(wh_expand(0x6201), 0);          /* c.lui x4, 0 stays reserved */
    CHECK_EQ(wh_expand(0x6881), 0);          /* and x17 */
}

static bool legal(uint32_t isa, uint32_t bits)
{
    wh_insn i;
    (void)wh_decode_for(isa, bits, 0, &i);
    return i.op != WH_OP_ILLEGAL;
}

/* Each instruction of an extension is legal with that one alone, and illegal with all but that one. */
static void models(void)
{
    static const struct {
        uint32_t bits, needs;
    } table[] = {
        {0x20b52533, WH_ISA_ZB}, /* sh1add */
        {0x60051513, WH_ISA_ZB}, /* clz */
        {0x48b51533, WH_ISA_ZB}, /* bclr */
        {0x0805453b, WH_ISA_ZB}, /* zext.h */
        {0x0005200f, WH_ISA_ZICBOM}, {0x0045200f, WH_ISA_ZICBOZ},  {0x0e7350b3, WH_ISA_ZICOND},
        {0x00d00073, WH_ISA_ZAWRS},  {0x28c5a52f, WH_ISA_ZACAS},   {0x28c5c52f, WH_ISA_ZACAS},
        {0x81c5c573, WH_ISA_ZIMOP},  {0x6281, WH_ISA_ZIMOP},       {0x8048, WH_ISA_ZCB},
        {0x9d4d, WH_ISA_ZCB},        {0x9d75, WH_ISA_ZCB},         {0x00259507, WH_ISA_ZFHMIN},
        {0x4025f553, WH_ISA_ZFHMIN}, {0xe4058553, WH_ISA_ZFHMIN},  {0x4045f553, WH_ISA_ZFA},
        {0xf0150553, WH_ISA_ZFA},    {0x16b50073, WH_ISA_SVINVAL}, {0x18000073, WH_ISA_SVINVAL},
    };
    for (size_t n = 0; n < WH_ARRAY_LEN(table); n++) {
        bool right = legal(WH_ISA_ALL, table[n].bits) && legal(table[n].needs, table[n].bits) &&
                     !legal(WH_ISA_ALL & ~table[n].needs, table[n].bits) && !legal(0, table[n].bits);
        if (!right) {
            printf("%08x depends on the wrong extension\n", table[n].bits);
            check_failures++;
        }
    }
    CHECK(legal(0, 0x12000073) && legal(0, 0x0100000f) && legal(0, 0x02b50533) && legal(0, 0x8082));
    /* Over every 2-byte encoding and many others: a model never makes legal what the whole decoder refuses, and what
     * it refuses keeps its bits for mtval. */
    uint64_t seed = 5;
    for (uint32_t n = 0; n < 0x10000 + 200000; n++) {
        uint32_t bits = n < 0x10000 ? n : (uint32_t)check_random(&seed) | 3;
        wh_insn i, whole;
        if (n < 0x10000 && (bits & 3) == 3)
            continue;
        unsigned length = wh_decode_for(0, bits, 0, &i);
        CHECK_EQ(length, wh_decode(bits, 0, &whole));
        if (i.op == WH_OP_ILLEGAL)
            CHECK_EQ((uint32_t)i.imm, length == 2 ? bits & 0xffff : bits);
        else
            CHECK(i.op == whole.op && i.a == whole.a && i.b == whole.b && i.imm == whole.imm);
    }
}

static void isa_texts(void)
{
    char text[WH_ISA_TEXT];
    wh_cpu_isa_text(WH_CPU_RV64GC, true, text);
    CHECK(strcmp(text, "rv64imafdc_zicntr_zicsr_zifencei_zihpm") == 0);
    wh_cpu_isa_text(WH_CPU_RVA22, true, text);
    CHECK(strncmp(text, "rv64imafdc_zic64b_zicbom_zicbop_zicboz_", 39) == 0 && strlen(text) < WH_ISA_TEXT - 64);
    CHECK(strstr(text, "_svade_svadu_") != NULL && strstr(text, "zkt") == NULL);
    CHECK(!wh_cpu_model_known(2) && strcmp(wh_cpu_model_name(WH_CPU_RVA22), "rva22") == 0);
}

static void page_borders(void)
{
    wh_insn i;
    (void)wh_decode(0x0000006f | 8u << 20, 0xff0, &i); /* j .+8 */
    CHECK_EQ(i.op, WH_OP_JAL_NEAR);
    (void)wh_decode(0x0000006f | 8u << 21, 0xff0, &i); /* j .+16: the next page's first byte */
    CHECK_EQ(i.op, WH_OP_JAL_FAR);
    CHECK_EQ(i.imm, 16);
    (void)wh_decode(0x0000006f, WH_NO_PAGE, &i);
    CHECK_EQ(i.op, WH_OP_JAL_FAR);
}

int main(void)
{
    every_compressed_has_a_twin();
    operands_stay_in_range();
    known();
    slow_float();
    compressed_extras();
    models();
    isa_texts();
    page_borders();
    return check_failures != 0;
}

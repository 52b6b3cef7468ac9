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
    page_borders();
    return check_failures != 0;
}

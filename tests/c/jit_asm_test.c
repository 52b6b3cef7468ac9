/* The x86-64 encoder: bytes as GNU as writes them; between registers the other direction of the same instruction. */
#include "cpu_check.h"
#include "jit/x86/asm.h"

static uint8_t buf[64];

static void expect(const wh_asm *a, const char *text, const uint8_t *want, size_t len)
{
    size_t got = (size_t)(a->p - buf);
    if (a->full || got != len || memcmp(buf, want, len) != 0) {
        printf("%s:", text);
        for (size_t i = 0; i < got; i++)
            printf(" %02x", buf[i]);
        printf("\n");
        check_failures++;
    }
}

#define ENCODES(call, text, ...)                                                                                       \
    do {                                                                                                               \
        static const uint8_t want[] = {__VA_ARGS__};                                                                   \
        wh_asm a = {.p = buf, .limit = buf + sizeof(buf)};                                                             \
        call;                                                                                                          \
        expect(&a, text, want, sizeof(want));                                                                          \
    } while (0)

static void test_instructions(void)
{
    ENCODES(x_rr(&a, X_ADD, true, RBX, R15), "add rbx, r15", 0x49, 0x03, 0xdf);
    ENCODES(x_rr(&a, X_SUB, false, R8, RDI), "sub r8d, edi", 0x44, 0x2b, 0xc7);
    ENCODES(x_rm(&a, X_MOV, true, RSI, x_at(RBP, -120)), "mov rsi, [rbp-120]", 0x48, 0x8b, 0x75, 0x88);
    ENCODES(x_rm(&a, X_MOV, true, R12, x_at(R13, 0)), "mov r12, [r13+0]", 0x4d, 0x8b, 0x65, 0x00);
    ENCODES(x_rm(&a, X_MOV, false, RAX, x_at(RSP, 8)), "mov eax, [rsp+8]", 0x8b, 0x44, 0x24, 0x08);
    ENCODES(x_rm(&a, X_MOV, true, R9, x_at(R12, 1000)), "mov r9, [r12+1000]", 0x4d, 0x8b, 0x8c, 0x24, 0xe8, 0x03, 0x00,
            0x00);
    ENCODES(x_rm(&a, X_LEA, true, RDX, x_indexed(RDX, RCX, 3, 0)), "lea rdx, [rdx+rcx*8]", 0x48, 0x8d, 0x14, 0xca);
    ENCODES(x_rm(&a, X_MOV_STORE, true, R14, x_indexed(RBX, R14, 0, 16)), "mov [rbx+r14+16], r14", 0x4e, 0x89, 0x74,
            0x33, 0x10);
    ENCODES(x_rm(&a, X_MOV_STORE8, false, RSI, x_indexed(RAX, RDX, 0, 0)), "mov [rax+rdx], sil", 0x40, 0x88, 0x34,
            0x10);
    ENCODES(x_rm(&a, X_MOV_STORE8, false, RBX, x_at(RAX, 1)), "mov [rax+1], bl", 0x88, 0x58, 0x01);
    ENCODES(x_rm(&a, X_66(X_MOV_STORE), false, R10, x_indexed(RAX, RDX, 0, 0)), "mov [rax+rdx], r10w", 0x66, 0x44, 0x89,
            0x14, 0x10);
    ENCODES(x_rm(&a, X_MOVSX8, true, R11, x_indexed(RAX, RDX, 0, 0)), "movsx r11, byte ptr [rax+rdx]", 0x4c, 0x0f, 0xbe,
            0x1c, 0x10);
    ENCODES(x_rm(&a, X_MOVZX16, false, RDI, x_at(RAX, 0)), "movzx edi, word ptr [rax]", 0x0f, 0xb7, 0x38);
    ENCODES(x_rm(&a, X_MOVSXD, true, RCX, x_at(RBP, 256)), "movsxd rcx, dword ptr [rbp+256]", 0x48, 0x63, 0x8d, 0x00,
            0x01, 0x00, 0x00);
    ENCODES(x_rr(&a, X_MOVZX8, false, RBX, RSI), "movzx ebx, sil", 0x40, 0x0f, 0xb6, 0xde);
    ENCODES(x_alu_ri(&a, X_CMP, true, R8, 1), "cmp r8, 1", 0x49, 0x83, 0xf8, 0x01);
    ENCODES(x_alu_ri(&a, X_AND, false, RCX, 0x1ff0), "and ecx, 0x1ff0", 0x81, 0xe1, 0xf0, 0x1f, 0x00, 0x00);
    ENCODES(x_alu_ri(&a, X_SUB, true, R15, 300), "sub r15, 300", 0x49, 0x81, 0xef, 0x2c, 0x01, 0x00, 0x00);
    ENCODES(x_alu_mi(&a, X_ADD, true, x_at(RBP, 8), -1), "add qword ptr [rbp+8], -1", 0x48, 0x83, 0x45, 0x08, 0xff);
    ENCODES(x_cmp8_mi(&a, x_at(RBP, 300), 0), "cmp byte ptr [rbp+300], 0", 0x80, 0xbd, 0x2c, 0x01, 0x00, 0x00, 0x00);
    ENCODES(x_mov_mi(&a, true, x_at(RBP, 16), -5), "mov qword ptr [rbp+16], -5", 0x48, 0xc7, 0x45, 0x10, 0xfb, 0xff,
            0xff, 0xff);
    ENCODES(x_shift_ri(&a, X_SAR, true, R13, 31), "sar r13, 31", 0x49, 0xc1, 0xfd, 0x1f);
    ENCODES(x_shiftx(&a, X_SHL, true, RDI, RSI, R8), "shlx rdi, rsi, r8", 0xc4, 0xe2, 0xb9, 0xf7, 0xfe);
    ENCODES(x_shiftx(&a, X_SHR, false, R9, RAX, RCX), "shrx r9d, eax, ecx", 0xc4, 0x62, 0x73, 0xf7, 0xc8);
    ENCODES(x_shiftx(&a, X_SAR, true, RAX, R10, R11), "sarx rax, r10, r11", 0xc4, 0xc2, 0xa2, 0xf7, 0xc2);
    ENCODES(x_group3(&a, X_IDIV, true, RCX), "idiv rcx", 0x48, 0xf7, 0xf9);
    ENCODES(x_group3_m(&a, X_MUL, true, x_at(RBP, 24)), "mul qword ptr [rbp+24]", 0x48, 0xf7, 0x65, 0x18);
    ENCODES(x_rr(&a, X_IMUL, true, R12, RDI), "imul r12, rdi", 0x4c, 0x0f, 0xaf, 0xe7);
    ENCODES(x_setcc(&a, CC_L, RAX), "setl al", 0x0f, 0x9c, 0xc0);
    ENCODES(x_setcc(&a, CC_B, RDI), "setb dil", 0x40, 0x0f, 0x92, 0xc7);
    ENCODES(x_mov_ri(&a, R9, 0xfffffffful), "mov r9d, 0xffffffff", 0x41, 0xb9, 0xff, 0xff, 0xff, 0xff);
    ENCODES(x_mov_ri(&a, RAX, 0x123456789abcdefull), "movabs rax, 0x123456789abcdef", 0x48, 0xb8, 0xef, 0xcd, 0xab,
            0x89, 0x67, 0x45, 0x23, 0x01);
    ENCODES(x_mov_ri(&a, RDX, (uint64_t)-2), "mov rdx, -2", 0x48, 0xc7, 0xc2, 0xfe, 0xff, 0xff, 0xff);
    ENCODES(x_rm(&a, X_F3(X_0F(0x7e)), false, 11, x_at(RBP, 640)), "movq xmm11, qword ptr [rbp+640]", 0xf3, 0x44, 0x0f,
            0x7e, 0x9d, 0x80, 0x02, 0x00, 0x00);
    ENCODES(x_rm(&a, X_66(X_0F(0xd6)), false, 3, x_at(RBP, 640)), "movq qword ptr [rbp+640], xmm3", 0x66, 0x0f, 0xd6,
            0x9d, 0x80, 0x02, 0x00, 0x00);
    ENCODES(x_jmp_reg(&a, R11), "jmp r11", 0x41, 0xff, 0xe3);
    ENCODES(x_call_reg(&a, RAX), "call rax", 0xff, 0xd0);
    ENCODES(x_push(&a, R12), "push r12", 0x41, 0x54);
    ENCODES(x_pop(&a, RBP), "pop rbp", 0x5d);
}

static void test_jumps(void)
{
    static const uint8_t want[] = {0x0f, 0x84, 5, 0, 0, 0, 0xe9, 0xf5, 0xff, 0xff, 0xff, 0x75, 1, 0x90};
    wh_asm a = {.p = buf, .limit = buf + sizeof(buf)};
    uint8_t *forward = x_jcc(&a, CC_E);
    x_jmp_to(&a, buf);
    x_bind(&a, forward, a.p);
    uint8_t *skip = x_jcc_short(&a, CC_NE);
    x_byte(&a, 0x90);
    x_bind_short(&a, skip);
    expect(&a, "jumps", want, sizeof(want));
}

static void test_alignment_and_limit(void)
{
    for (unsigned at = 0; at < 16; at++) {
        wh_asm a = {.p = buf + at, .limit = buf + sizeof(buf)};
        x_align(&a, 16, 1);
        CHECK_EQ(((uintptr_t)a.p + 1) % 16, 0);
    }
    wh_asm a = {.p = buf, .limit = buf + 3};
    x_mov_ri(&a, RAX, 1);
    CHECK(a.full);
    CHECK(a.p <= a.limit);
}

int main(void)
{
    test_instructions();
    test_jumps();
    test_alignment_and_limit();
    return check_failures != 0;
}

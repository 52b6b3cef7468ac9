/* regs: where guest registers are, and how an emitter gets at them (x86.h). */
#include "jit/x86/x86.h"

#define NO X_NO_REG

/* The nine that Debian's code names most often: sp s0 s1 a0-a5. The last is where writes to x0 go. */
/* clang-format off */
const int16_t wh_x86_host[33] = {
    NO, NO, RBX, NO, NO, NO, NO, NO, R12, R13, RDI, RSI, R8, R9, R10, R11,
    NO, NO, NO,  NO, NO, NO, NO, NO, NO,  NO,  NO,  NO,  NO, NO, NO,  NO, NO,
};
/* ft0-ft2, fs0, fs1, fa0-fa7 */
const int16_t wh_x86_host_f[32] = {
    11, 12, 13, NO, NO, NO, NO, NO, 14, 15, 3,  4,  5,  6,  7,  8,
    9,  10, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO, NO,
};
/* clang-format on */

void wh_x86_load(wh_x86 *e, int to, unsigned reg)
{
    if (reg == 0)
        x_rr(&e->a, X_XOR, false, to, to);
    else if (e->host[reg] >= 0)
        x_mov_rr(&e->a, to, e->host[reg]);
    else
        x_rm(&e->a, X_MOV, true, to, wh_x86_x(reg));
}

void wh_x86_load32(wh_x86 *e, int to, unsigned reg)
{
    if (reg == 0)
        x_rr(&e->a, X_XOR, false, to, to);
    else if (e->host[reg] >= 0)
        x_rr(&e->a, X_MOV, false, to, e->host[reg]);
    else
        x_rm(&e->a, X_MOV, false, to, wh_x86_x(reg));
}

int wh_x86_use(wh_x86 *e, unsigned reg, int scratch)
{
    if (e->host[reg] >= 0)
        return e->host[reg];
    wh_x86_load(e, scratch, reg);
    return scratch;
}

void wh_x86_op(wh_x86 *e, unsigned op, bool w, int host, unsigned reg)
{
    if (e->host[reg] >= 0)
        x_rr(&e->a, op, w, host, e->host[reg]);
    else
        x_rm(&e->a, op, w, host, wh_x86_x(reg)); /* h->x[0] is 0 */
}

void wh_x86_put(wh_x86 *e, unsigned reg, int host)
{
    if (reg == WH_SINK)
        return;
    if (e->host[reg] >= 0)
        x_mov_rr(&e->a, e->host[reg], host);
    else
        x_rm(&e->a, X_MOV_STORE, true, host, wh_x86_x(reg));
}

void wh_x86_put_constant(wh_x86 *e, unsigned reg, uint64_t value)
{
    if (reg == WH_SINK)
        return;
    if (e->host[reg] >= 0) {
        x_mov_ri(&e->a, e->host[reg], value);
    } else if (x_is_int32((int64_t)value)) {
        x_mov_mi(&e->a, true, wh_x86_x(reg), (int32_t)value);
    } else {
        x_mov_ri(&e->a, RAX, value);
        wh_x86_put(e, reg, RAX);
    }
}

int wh_x86_use_f(wh_x86 *e, unsigned reg, int scratch)
{
    if (wh_x86_host_f[reg] >= 0)
        return wh_x86_host_f[reg];
    x_rm(&e->a, X_F3(X_0F(0x7e)), false, scratch, wh_x86_f(reg)); /* movq */
    return scratch;
}

void wh_x86_put_f(wh_x86 *e, unsigned reg, int xmm)
{
    if (wh_x86_host_f[reg] < 0)
        x_rm(&e->a, X_66(X_0F(0xd6)), false, xmm, wh_x86_f(reg)); /* movq to memory */
    else if (wh_x86_host_f[reg] != xmm)
        x_rr(&e->a, X_0F(0x28), false, wh_x86_host_f[reg], xmm); /* movaps */
}

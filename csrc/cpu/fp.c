/* Floating-point state of a hart, and every operation in software. Host flags are sticky in MXCSR while a hart runs;
 * they are fetched only when somebody looks at fflags, or the hart stops running. */
#include "cpu/hart.h"
#include "cpu/hostfp.h"
#include "cpu/softfp.h"

#if WH_HOST_FP
enum { MX_FLAGS = 0x3f, MX_MASKS = 0x1f80 };

static uint32_t guest_mxcsr(const wh_hart *h)
{
    static const uint32_t rounding[8] = {
        [WH_RM_RNE] = 0, [WH_RM_RDN] = 0x2000, [WH_RM_RUP] = 0x4000, [WH_RM_RTZ] = 0x6000};
    return MX_MASKS | rounding[h->frm];
}

void wh_fp_collect(wh_hart *h)
{
    if (!h->fp_entered)
        return;
    uint32_t mx = wh_host_get_mxcsr(), flags = 0;
    flags |= (mx & 0x01) ? WH_NV : 0;
    flags |= (mx & 0x04) ? WH_DZ : 0;
    flags |= (mx & 0x08) ? WH_OF : 0;
    flags |= (mx & 0x10) ? WH_UF : 0;
    flags |= (mx & 0x20) ? WH_NX : 0;
    h->fflags |= flags;
    wh_host_set_mxcsr(mx & ~(uint32_t)MX_FLAGS);
}

void wh_fp_enter(wh_hart *h)
{
    h->host_mxcsr = wh_host_get_mxcsr();
    h->fp_entered = true;
    wh_host_set_mxcsr(guest_mxcsr(h));
}

void wh_fp_leave(wh_hart *h)
{
    wh_fp_collect(h);
    h->fp_entered = false;
    wh_host_set_mxcsr(h->host_mxcsr);
}
#else
void wh_fp_collect(wh_hart *h)
{
    (void)h;
}
void wh_fp_enter(wh_hart *h)
{
    h->fp_entered = true;
}
void wh_fp_leave(wh_hart *h)
{
    h->fp_entered = false;
}
#endif

void wh_fp_update(wh_hart *h)
{
    uint64_t fs = h->csr.mstatus & WH_MSTATUS_FS;
    h->fs_on = fs != 0;
    h->fs_dirty = fs == WH_MSTATUS_FS;
    h->fp_state = WH_HOST_FP && h->fs_dirty && h->frm < WH_RM_RMM ? WH_FP_FAST : WH_FP_SLOW;
#if WH_HOST_FP
    if (h->fp_entered) {
        wh_fp_collect(h);
        wh_host_set_mxcsr(guest_mxcsr(h));
    }
#endif
}

static uint64_t read_f(const wh_hart *h, unsigned reg, bool wide)
{
    return wide ? h->f[reg] : wh_unbox(h->f[reg]);
}

static uint64_t unbox_half(uint64_t v)
{
    return v >> 16 == UINT64_MAX >> 16 ? v & 0xffff : 0x7e00; /* the canonical NaN */
}

/* How the result of an operation stands in an f register: boxed with ones up to 64 bits. */
static uint64_t boxing(const wh_insn *i)
{
    if (WH_FP_OP(i->imm) == WH_FP_TO_H)
        return ~(uint64_t)0xffff;
    return WH_FP_DOUBLE(i->imm) ? 0 : WH_BOX;
}

static uint64_t fused(const wh_fp_format *f, unsigned op, uint64_t a, uint64_t b, uint64_t c, unsigned rm,
                      uint32_t *flags)
{
    uint64_t sign = 1ull << (f->fraction + f->exponent);
    if (op == WH_FP_NMSUB || op == WH_FP_NMADD)
        a ^= sign;
    if (op == WH_FP_MSUB || op == WH_FP_NMADD)
        c ^= sign;
    return wh_fp_fma(f, a, b, c, rm, flags);
}

/* Operations whose result is an x register; false: not one of them. */
static bool to_integer(wh_hart *h, const wh_insn *i, unsigned rm, uint32_t *flags)
{
    bool wide = WH_FP_DOUBLE(i->imm);
    const wh_fp_format *f = wide ? &wh_fp64 : &wh_fp32;
    uint64_t a = read_f(h, i->b, wide), b = read_f(h, WH_FP_RS2(i->imm), wide), r;
    unsigned op = WH_FP_OP(i->imm);
    switch (op) {
    case WH_FP_TO_W:
    case WH_FP_TO_WU:
    case WH_FP_TO_L:
    case WH_FP_TO_LU:
        r = wh_fp_to_int(f, a, op == WH_FP_TO_W || op == WH_FP_TO_L, op <= WH_FP_TO_WU ? 32 : 64, rm, flags);
        break;
    case WH_FP_CLASS:
        r = wh_fp_classify(f, a);
        break;
    case WH_FP_LE:
    case WH_FP_LT:
    case WH_FP_EQ:
        r = wh_fp_compare(wide ? 64 : 32, a, b, (enum wh_fp_relation)(op - WH_FP_LE), flags);
        break;
    case WH_FP_LEQ:
    case WH_FP_LTQ:
        r = wh_fp_compare_quiet(wide ? 64 : 32, a, b, op == WH_FP_LEQ, flags);
        break;
    case WH_FP_TO_W_MOD:
        r = wh_fp_to_int_modular(a, flags);
        break;
    default:
        return false;
    }
    h->x[i->a] = r;
    return true;
}

static uint64_t to_float(wh_hart *h, const wh_insn *i, unsigned rm, uint32_t *flags)
{
    bool wide = WH_FP_DOUBLE(i->imm);
    const wh_fp_format *f = wide ? &wh_fp64 : &wh_fp32;
    unsigned op = WH_FP_OP(i->imm);
    if (op >= WH_FP_FROM_W && op <= WH_FP_FROM_LU) {
        uint64_t v = h->x[i->b];
        if (op == WH_FP_FROM_W)
            v = (uint64_t)(int64_t)(int32_t)v;
        if (op == WH_FP_FROM_WU)
            v = (uint32_t)v;
        return wh_fp_from_int(f, v, op == WH_FP_FROM_W || op == WH_FP_FROM_L, rm, flags);
    }
    if (op == WH_FP_CONVERT)
        return wh_fp_convert(f, wide ? &wh_fp32 : &wh_fp64, read_f(h, i->b, !wide), rm, flags);
    uint64_t a = read_f(h, i->b, wide), b = read_f(h, WH_FP_RS2(i->imm), wide), c = read_f(h, WH_FP_RS3(i->imm), wide);
    switch (op) {
    case WH_FP_FROM_H:
        return wh_fp_convert(f, &wh_fp16, unbox_half(h->f[i->b]), rm, flags);
    case WH_FP_TO_H:
        return wh_fp_convert(&wh_fp16, f, a, rm, flags);
    case WH_FP_ROUND:
    case WH_FP_ROUNDNX:
        return wh_fp_round(f, a, rm, op == WH_FP_ROUNDNX, flags);
    case WH_FP_MINM:
    case WH_FP_MAXM:
        return wh_fp_minmax_nan(f, a, b, op == WH_FP_MAXM, flags);
    case WH_FP_LI:
        return wh_fp_constant(f, i->b);
    case WH_FP_ADD:
        return wh_fp_add(f, a, b, rm, flags);
    case WH_FP_SUB:
        return wh_fp_sub(f, a, b, rm, flags);
    case WH_FP_MUL:
        return wh_fp_mul(f, a, b, rm, flags);
    case WH_FP_DIV:
        return wh_fp_div(f, a, b, rm, flags);
    case WH_FP_SQRT:
        return wh_fp_sqrt(f, a, rm, flags);
    case WH_FP_MIN:
    case WH_FP_MAX:
        return wh_fp_minmax(f, a, b, op == WH_FP_MAX, flags);
    default:
        return fused(f, op, a, b, c, rm, flags);
    }
}

bool wh_fp_slow(wh_hart *h, const wh_insn *i)
{
    unsigned rm = WH_FP_RM(i->imm);
    uint32_t flags = 0;
    if (!h->fs_on)
        return false;
    if (rm == WH_RM_DYN)
        rm = h->frm;
    if (rm > WH_RM_RMM)
        return false;
    if (!to_integer(h, i, rm, &flags)) {
        uint64_t r = to_float(h, i, rm, &flags);
        h->f[i->a] = r | boxing(i);
    }
    h->fflags |= flags;
    if (!h->fs_dirty)
        wh_fp_touch(h);
    return true;
}

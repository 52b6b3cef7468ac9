/* softfp: IEEE 754-2008 binary32 and binary64 in integers, with RISC-V's choices (canonical NaN, tininess after
 * rounding, saturating conversions; unprivileged spec chapters F and D). It is the only engine of hosts without SSE, it
 * does what SSE can't (ties to max magnitude, unsigned conversions), and it is what the host's arithmetic is tested
 * against.
 *
 * Values are raw bits in the low 32 or 64 bits of a uint64_t; boxing is the caller's. flags are OR-ed into. */
#ifndef WH_SOFTFP_H
#define WH_SOFTFP_H

#include "base/base.h"

enum { WH_NX = 1, WH_UF = 2, WH_OF = 4, WH_DZ = 8, WH_NV = 16 };

typedef struct wh_fp_format {
    unsigned fraction; /* bits stored of the significand */
    unsigned exponent; /* bits */
} wh_fp_format;
extern const wh_fp_format wh_fp16, wh_fp32, wh_fp64; /* binary16 is for conversions (Zfhmin) */

uint64_t wh_fp_add(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t wh_fp_sub(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t wh_fp_mul(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t wh_fp_div(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags);
uint64_t wh_fp_sqrt(const wh_fp_format *f, uint64_t a, unsigned rm, uint32_t *flags);
uint64_t wh_fp_fma(const wh_fp_format *f, uint64_t a, uint64_t b, uint64_t c, unsigned rm, uint32_t *flags); /* a*b+c */
uint64_t wh_fp_convert(const wh_fp_format *to, const wh_fp_format *from, uint64_t a, unsigned rm, uint32_t *flags);
uint64_t wh_fp_from_int(const wh_fp_format *f, uint64_t v, bool is_signed, unsigned rm, uint32_t *flags);
/* width 32 or 64; a 32-bit result is sign-extended, also the unsigned one, as FCVT.WU.x wants it. */
uint64_t wh_fp_to_int(const wh_fp_format *f, uint64_t a, bool is_signed, unsigned width, unsigned rm, uint32_t *flags);
uint64_t wh_fp_minmax(const wh_fp_format *f, uint64_t a, uint64_t b, bool max, uint32_t *flags);
/* Zfa: to an integral value of the same format; NX only if asked for. */
uint64_t wh_fp_round(const wh_fp_format *f, uint64_t a, unsigned rm, bool tell_inexact, uint32_t *flags);
/* Zfa: FCVTMOD.W.D - truncated modulo 2^32, sign-extended; flags as of a truncating FCVT.W.D. */
uint64_t wh_fp_to_int_modular(uint64_t a, uint32_t *flags);
uint64_t wh_fp_minmax_nan(const wh_fp_format *f, uint64_t a, uint64_t b, bool max, uint32_t *flags); /* a NaN wins */
bool wh_fp_compare_quiet(unsigned width, uint64_t a, uint64_t b, bool or_equal, uint32_t *flags);    /* <= or < */
uint64_t wh_fp_constant(const wh_fp_format *f, unsigned n); /* FLI's table, n < 32 */
uint64_t wh_fp_classify(const wh_fp_format *f, uint64_t a);

/* Inline because compilers use them in every loop that has a floating-point condition. */
static inline bool wh_fp_is_nan(unsigned fraction, uint64_t infinity, uint64_t a)
{
    (void)fraction;
    return (a & (infinity | (infinity - 1))) > infinity;
}
enum wh_fp_relation { WH_REL_LE, WH_REL_LT, WH_REL_EQ };
static inline bool wh_fp_compare(unsigned width, uint64_t a, uint64_t b, enum wh_fp_relation relation, uint32_t *flags)
{
    const unsigned fraction = width == 64 ? 52 : 23;
    const uint64_t infinity = width == 64 ? 0x7ffull << 52 : 0xffull << 23, sign = 1ull << (width - 1);
    const uint64_t quiet = 1ull << (fraction - 1);
    bool nan_a = wh_fp_is_nan(fraction, infinity, a), nan_b = wh_fp_is_nan(fraction, infinity, b);
    if (WH_UNLIKELY(nan_a || nan_b)) {
        if (relation != WH_REL_EQ || (nan_a && !(a & quiet)) || (nan_b && !(b & quiet)))
            *flags |= WH_NV;
        return false;
    }
    bool both_zero = ((a | b) & (sign - 1)) == 0;
    if (relation == WH_REL_EQ)
        return a == b || both_zero;
    if (both_zero)
        return relation == WH_REL_LE;
    if (a == b)
        return relation == WH_REL_LE;
    bool neg_a = (a & sign) != 0, neg_b = (b & sign) != 0;
    if (neg_a != neg_b)
        return neg_a;
    return (a < b) != neg_a;
}

#endif

/* Theory of operation. A finite value is (-1)^sign * sig * 2^exp with an integer significand. Each operation makes an
 * exact result of that form in 128 bits - or one whose lowest bit is "sticky": or-ed from everything that was below it,
 * with more than two bits of room under the last bit that a rounding can look at - and round_pack does all rounding, in
 * one place. */
#include "cpu/softfp.h"

#include "cpu/insn.h"

typedef unsigned __int128 u128;

const wh_fp_format wh_fp16 = {10, 5}, wh_fp32 = {23, 8}, wh_fp64 = {52, 11};

enum kind { ZERO, FINITE, INFINITE, QUIET, SIGNALLING };
struct value {
    enum kind kind;
    bool sign;
    int exp;
    uint64_t sig;
};

static uint64_t infinity(const wh_fp_format *f)
{
    return ((1ull << f->exponent) - 1) << f->fraction;
}
static uint64_t canonical_nan(const wh_fp_format *f)
{
    return infinity(f) | 1ull << (f->fraction - 1);
}
static uint64_t with_sign(const wh_fp_format *f, bool sign, uint64_t magnitude)
{
    return magnitude | (uint64_t)sign << (f->fraction + f->exponent);
}
static int bias(const wh_fp_format *f)
{
    return (1 << (f->exponent - 1)) - 1;
}

static struct value unpack(const wh_fp_format *f, uint64_t a)
{
    uint64_t fraction = a & ((1ull << f->fraction) - 1), exponent = a >> f->fraction & ((1ull << f->exponent) - 1);
    struct value v = {.sign = a >> (f->fraction + f->exponent) & 1, .sig = fraction};
    if (exponent == (1ull << f->exponent) - 1) {
        v.kind = fraction == 0 ? INFINITE : (fraction >> (f->fraction - 1)) ? QUIET : SIGNALLING;
    } else if (exponent == 0) {
        v.kind = fraction == 0 ? ZERO : FINITE;
        v.exp = 1 - bias(f) - (int)f->fraction;
    } else {
        v.kind = FINITE;
        v.sig |= 1ull << f->fraction;
        v.exp = (int)exponent - bias(f) - (int)f->fraction;
    }
    return v;
}

static int top_bit(u128 v)
{
    uint64_t high = (uint64_t)(v >> 64);
    return high != 0 ? 127 - __builtin_clzll(high) : 63 - __builtin_clzll((uint64_t)v);
}

/* v >> n, with everything shifted out or-ed into bit 0. */
static u128 shift_sticky(u128 v, int n)
{
    if (n <= 0)
        return v;
    if (n > 127)
        return v != 0;
    return v >> n | ((v & (((u128)1 << n) - 1)) != 0);
}

/* Does a remainder of rest / 2^n (0 < n) round the magnitude up? odd: the bit that stays. */
static bool rounds_up(u128 rest, int n, bool odd, bool sign, unsigned rm)
{
    u128 half = n > 128 ? 0 : (u128)1 << (n - 1);
    bool above = n <= 128 && rest > half, tie = n <= 128 && rest == half;
    switch (rm) {
    case WH_RM_RNE:
        return above || (tie && odd);
    case WH_RM_RMM:
        return above || tie;
    case WH_RM_RDN:
        return sign && rest != 0;
    case WH_RM_RUP:
        return !sign && rest != 0;
    default:
        return false;
    }
}

/* Round sig * 2^exp to a multiple of 2^lsb; the result counts those multiples. */
static u128 round_at(u128 sig, int exp, int lsb, bool sign, unsigned rm, bool *inexact)
{
    int n = lsb - exp;
    if (n <= 0) {
        *inexact = false;
        return sig << -n;
    }
    u128 keep = n > 127 ? 0 : sig >> n, rest = n > 127 ? sig : sig & (((u128)1 << n) - 1);
    *inexact = rest != 0;
    return keep + rounds_up(rest, n, keep & 1, sign, rm);
}

static uint64_t overflow(const wh_fp_format *f, bool sign, unsigned rm, uint32_t *flags)
{
    *flags |= WH_OF | WH_NX;
    bool to_max = rm == WH_RM_RTZ || (rm == WH_RM_RDN && !sign) || (rm == WH_RM_RUP && sign);
    return with_sign(f, sign, infinity(f) - to_max);
}

static uint64_t round_pack(const wh_fp_format *f, bool sign, int exp, u128 sig, unsigned rm, uint32_t *flags)
{
    int precision = (int)f->fraction, least = 1 - bias(f); /* exponent of the smallest normal number */
    int magnitude = exp + top_bit(sig);                    /* 2^magnitude <= value */
    bool inexact;
    int lsb = (magnitude < least ? least : magnitude) - precision;
    u128 rounded = round_at(sig, exp, lsb, sign, rm, &inexact);
    if (inexact) {
        *flags |= WH_NX;
        if (magnitude < least) { /* tiny unless rounding with unbounded exponent would reach the normal range */
            bool ignored;
            u128 free_range = round_at(sig, exp, magnitude - precision, sign, rm, &ignored);
            if (magnitude < least - 1 || (free_range >> (precision + 1)) == 0)
                *flags |= WH_UF;
        }
    }
    if (rounded >> (precision + 1)) { /* carried into the next power of two: the bits below are zero */
        rounded >>= 1;
        lsb++;
    }
    if ((rounded >> precision) == 0)
        return with_sign(f, sign, (uint64_t)rounded); /* subnormal or zero */
    int biased = lsb + precision + bias(f);
    if (biased >= (1 << f->exponent) - 1)
        return overflow(f, sign, rm, flags);
    uint64_t fraction = (uint64_t)rounded & ((1ull << f->fraction) - 1);
    return with_sign(f, sign, (uint64_t)biased << f->fraction | fraction);
}

static bool is_nan(struct value v)
{
    return v.kind >= QUIET;
}
static uint64_t nan_result(const wh_fp_format *f, bool invalid, uint32_t *flags)
{
    if (invalid)
        *flags |= WH_NV;
    return canonical_nan(f);
}

/* a + b of exact finite non-zero parts. */
static uint64_t add_parts(const wh_fp_format *f, bool sa, int ea, u128 a, bool sb, int eb, u128 b, unsigned rm,
                          uint32_t *flags)
{
    int up = 125 - top_bit(a);
    a <<= up;
    ea -= up;
    up = 125 - top_bit(b);
    b <<= up;
    eb -= up;
    if (ea < eb || (ea == eb && a < b)) {
        u128 s = a;
        a = b;
        b = s;
        int e = ea;
        ea = eb;
        eb = e;
        bool g = sa;
        sa = sb;
        sb = g;
    }
    b = shift_sticky(b, ea - eb);
    u128 sum = sa == sb ? a + b : a - b;
    if (sum == 0)
        return with_sign(f, rm == WH_RM_RDN, 0);
    return round_pack(f, sa, ea, sum, rm, flags);
}

static uint64_t add_values(const wh_fp_format *f, struct value a, struct value b, uint64_t b_bits, uint64_t a_bits,
                           unsigned rm, uint32_t *flags)
{
    if (is_nan(a) || is_nan(b))
        return nan_result(f, a.kind == SIGNALLING || b.kind == SIGNALLING, flags);
    if (a.kind == INFINITE && b.kind == INFINITE && a.sign != b.sign)
        return nan_result(f, true, flags);
    if (a.kind == INFINITE || b.kind == INFINITE)
        return with_sign(f, a.kind == INFINITE ? a.sign : b.sign, infinity(f));
    if (a.kind == ZERO && b.kind == ZERO)
        return with_sign(f, a.sign == b.sign ? a.sign : rm == WH_RM_RDN, 0);
    if (a.kind == ZERO)
        return b_bits;
    if (b.kind == ZERO)
        return a_bits;
    return add_parts(f, a.sign, a.exp, a.sig, b.sign, b.exp, b.sig, rm, flags);
}

uint64_t wh_fp_add(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags)
{
    return add_values(f, unpack(f, a), unpack(f, b), b, a, rm, flags);
}

uint64_t wh_fp_sub(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags)
{
    return wh_fp_add(f, a, b ^ with_sign(f, true, 0), rm, flags);
}

uint64_t wh_fp_mul(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags)
{
    struct value x = unpack(f, a), y = unpack(f, b);
    bool sign = x.sign != y.sign;
    if (is_nan(x) || is_nan(y))
        return nan_result(f, x.kind == SIGNALLING || y.kind == SIGNALLING, flags);
    if (x.kind == INFINITE || y.kind == INFINITE)
        return x.kind == ZERO || y.kind == ZERO ? nan_result(f, true, flags) : with_sign(f, sign, infinity(f));
    if (x.kind == ZERO || y.kind == ZERO)
        return with_sign(f, sign, 0);
    return round_pack(f, sign, x.exp + y.exp, (u128)x.sig * y.sig, rm, flags);
}

uint64_t wh_fp_fma(const wh_fp_format *f, uint64_t a, uint64_t b, uint64_t c, unsigned rm, uint32_t *flags)
{
    struct value x = unpack(f, a), y = unpack(f, b), z = unpack(f, c);
    bool sign = x.sign != y.sign;
    bool undefined = (x.kind == INFINITE && y.kind == ZERO) || (x.kind == ZERO && y.kind == INFINITE);
    if (is_nan(x) || is_nan(y) || is_nan(z) || undefined)
        return nan_result(f, undefined || x.kind == SIGNALLING || y.kind == SIGNALLING || z.kind == SIGNALLING, flags);
    if (x.kind == INFINITE || y.kind == INFINITE) {
        if (z.kind == INFINITE && z.sign != sign)
            return nan_result(f, true, flags);
        return with_sign(f, sign, infinity(f));
    }
    if (z.kind == INFINITE)
        return c;
    if (x.kind == ZERO || y.kind == ZERO) {
        if (z.kind == ZERO)
            return with_sign(f, sign == z.sign ? sign : rm == WH_RM_RDN, 0);
        return c;
    }
    u128 product = (u128)x.sig * y.sig;
    if (z.kind == ZERO)
        return round_pack(f, sign, x.exp + y.exp, product, rm, flags);
    return add_parts(f, sign, x.exp + y.exp, product, z.sign, z.exp, z.sig, rm, flags);
}

uint64_t wh_fp_div(const wh_fp_format *f, uint64_t a, uint64_t b, unsigned rm, uint32_t *flags)
{
    struct value x = unpack(f, a), y = unpack(f, b);
    bool sign = x.sign != y.sign;
    if (is_nan(x) || is_nan(y))
        return nan_result(f, x.kind == SIGNALLING || y.kind == SIGNALLING, flags);
    if (x.kind == INFINITE)
        return y.kind == INFINITE ? nan_result(f, true, flags) : with_sign(f, sign, infinity(f));
    if (y.kind == INFINITE)
        return with_sign(f, sign, 0);
    if (y.kind == ZERO) {
        if (x.kind == ZERO)
            return nan_result(f, true, flags);
        *flags |= WH_DZ;
        return with_sign(f, sign, infinity(f));
    }
    if (x.kind == ZERO)
        return with_sign(f, sign, 0);
    /* A numerator of 127 bits over at most 53 leaves 74 bits of quotient: the remainder may be sticky. */
    int up = 126 - top_bit(x.sig);
    u128 numerator = (u128)x.sig << up, quotient = numerator / y.sig;
    quotient |= numerator % y.sig != 0;
    return round_pack(f, sign, x.exp - up - y.exp, quotient, rm, flags);
}

uint64_t wh_fp_sqrt(const wh_fp_format *f, uint64_t a, unsigned rm, uint32_t *flags)
{
    struct value x = unpack(f, a);
    if (is_nan(x))
        return nan_result(f, x.kind == SIGNALLING, flags);
    if (x.kind == ZERO || (x.kind == INFINITE && !x.sign))
        return a;
    if (x.sign)
        return nan_result(f, true, flags);
    int up = 126 - top_bit(x.sig);
    up -= (x.exp - up) & 1; /* an even exponent halves exactly */
    u128 rest = (u128)x.sig << up, root = 0;
    for (u128 bit = (u128)1 << 126; bit != 0; bit >>= 2) {
        if (rest >= root + bit) {
            rest -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    /* 63 or 64 bits of root: one sticky bit goes below them. */
    return round_pack(f, false, (x.exp - up) / 2 - 1, root << 1 | (rest != 0), rm, flags);
}

uint64_t wh_fp_convert(const wh_fp_format *to, const wh_fp_format *from, uint64_t a, unsigned rm, uint32_t *flags)
{
    struct value x = unpack(from, a);
    switch (x.kind) {
    case ZERO:
        return with_sign(to, x.sign, 0);
    case INFINITE:
        return with_sign(to, x.sign, infinity(to));
    case FINITE:
        return round_pack(to, x.sign, x.exp, x.sig, rm, flags);
    default:
        return nan_result(to, x.kind == SIGNALLING, flags);
    }
}

uint64_t wh_fp_from_int(const wh_fp_format *f, uint64_t v, bool is_signed, unsigned rm, uint32_t *flags)
{
    bool sign = is_signed && (int64_t)v < 0;
    if (v == 0)
        return 0;
    return round_pack(f, sign, 0, sign ? 0 - v : v, rm, flags);
}

uint64_t wh_fp_to_int(const wh_fp_format *f, uint64_t a, bool is_signed, unsigned width, unsigned rm, uint32_t *flags)
{
    struct value x = unpack(f, a);
    uint64_t max = is_signed ? (1ull << (width - 1)) - 1 : width == 64 ? UINT64_MAX : (1ull << width) - 1;
    uint64_t min = is_signed ? 0 - (1ull << (width - 1)) : 0;
    uint64_t limit = x.sign && !is_nan(x) ? min : max, result = limit;
    bool inexact = false, valid = false;
    if (x.kind == ZERO)
        return 0;
    if (x.kind == FINITE && x.exp + top_bit(x.sig) < 65) {
        u128 whole = round_at(x.sig, x.exp, 0, x.sign, rm, &inexact);
        u128 most = x.sign ? (u128)(0 - min) : (u128)max;
        valid = whole <= most;
        if (valid)
            result = x.sign ? 0 - (uint64_t)whole : (uint64_t)whole;
    }
    *flags |= !valid ? WH_NV : inexact ? WH_NX : 0;
    return width == 32 ? (uint64_t)(int64_t)(int32_t)(uint32_t)result : result;
}

uint64_t wh_fp_minmax(const wh_fp_format *f, uint64_t a, uint64_t b, bool max, uint32_t *flags)
{
    struct value x = unpack(f, a), y = unpack(f, b);
    unsigned width = f->fraction + f->exponent + 1;
    if (x.kind == SIGNALLING || y.kind == SIGNALLING)
        *flags |= WH_NV;
    if (is_nan(x))
        return is_nan(y) ? canonical_nan(f) : b;
    if (is_nan(y))
        return a;
    uint32_t none = 0;
    bool less = wh_fp_compare(width, a, b, WH_REL_LT, &none);
    if (x.kind == ZERO && y.kind == ZERO)
        less = x.sign && !y.sign; /* -0 counts as the smaller */
    return less != max ? a : b;
}

uint64_t wh_fp_round(const wh_fp_format *f, uint64_t a, unsigned rm, bool tell_inexact, uint32_t *flags)
{
    struct value x = unpack(f, a);
    bool inexact;
    uint32_t none = 0;
    if (is_nan(x))
        return nan_result(f, x.kind == SIGNALLING, flags);
    if (x.kind != FINITE || x.exp >= 0)
        return a;
    u128 whole = round_at(x.sig, x.exp, 0, x.sign, rm, &inexact);
    if (inexact && tell_inexact)
        *flags |= WH_NX;
    return whole == 0 ? with_sign(f, x.sign, 0) : round_pack(f, x.sign, 0, whole, WH_RM_RNE, &none); /* exact */
}

uint64_t wh_fp_to_int_modular(uint64_t a, uint32_t *flags)
{
    struct value x = unpack(&wh_fp64, a);
    uint64_t whole = 0;
    (void)wh_fp_to_int(&wh_fp64, a, true, 32, WH_RM_RTZ, flags);
    if (x.kind != FINITE)
        return 0;
    if (x.exp >= 0)
        whole = x.exp < 32 ? x.sig << x.exp : 0;
    else
        whole = x.exp > -64 ? x.sig >> -x.exp : 0;
    return (uint64_t)(int64_t)(int32_t)(uint32_t)(x.sign ? 0 - whole : whole);
}

uint64_t wh_fp_minmax_nan(const wh_fp_format *f, uint64_t a, uint64_t b, bool max, uint32_t *flags)
{
    struct value x = unpack(f, a), y = unpack(f, b);
    if (is_nan(x) || is_nan(y))
        return nan_result(f, x.kind == SIGNALLING || y.kind == SIGNALLING, flags);
    return wh_fp_minmax(f, a, b, max, flags);
}

bool wh_fp_compare_quiet(unsigned width, uint64_t a, uint64_t b, bool or_equal, uint32_t *flags)
{
    const wh_fp_format *f = width == 64 ? &wh_fp64 : &wh_fp32;
    if (is_nan(unpack(f, a)) || is_nan(unpack(f, b)))
        return wh_fp_compare(width, a, b, WH_REL_EQ, flags); /* false; invalid for a signalling one only */
    return wh_fp_compare(width, a, b, or_equal ? WH_REL_LE : WH_REL_LT, flags);
}

uint64_t wh_fp_constant(const wh_fp_format *f, unsigned n)
{
    enum { LEAST_NORMAL = 1 };
    static const uint64_t doubles[32] = {
        0xbff0000000000000, 0,
        0x3ef0000000000000, 0x3f00000000000000, /* -1 (1) 2^-16 2^-15 */
        0x3f70000000000000, 0x3f80000000000000,
        0x3fb0000000000000, 0x3fc0000000000000, /* 2^-8 2^-7 2^-4 2^-3 */
        0x3fd0000000000000, 0x3fd4000000000000,
        0x3fd8000000000000, 0x3fdc000000000000, /* .25 .3125 .375 .4375 */
        0x3fe0000000000000, 0x3fe4000000000000,
        0x3fe8000000000000, 0x3fec000000000000, /* .5 .625 .75 .875 */
        0x3ff0000000000000, 0x3ff4000000000000,
        0x3ff8000000000000, 0x3ffc000000000000, /* 1 1.25 1.5 1.75 */
        0x4000000000000000, 0x4004000000000000,
        0x4008000000000000, 0x4010000000000000, /* 2 2.5 3 4 */
        0x4020000000000000, 0x4030000000000000,
        0x4060000000000000, 0x4070000000000000, /* 8 16 128 256 */
        0x40e0000000000000, 0x40f0000000000000,
        0x7ff0000000000000, 0x7ff8000000000000, /* 2^15 2^16 inf NaN */
    };
    uint32_t none = 0;
    if (n == LEAST_NORMAL)
        return 1ull << f->fraction;
    return wh_fp_convert(f, &wh_fp64, doubles[n], WH_RM_RNE, &none);
}

uint64_t wh_fp_classify(const wh_fp_format *f, uint64_t a)
{
    struct value x = unpack(f, a);
    bool subnormal = x.kind == FINITE && (x.sig >> f->fraction) == 0;
    switch (x.kind) {
    case INFINITE:
        return x.sign ? 1u << 0 : 1u << 7;
    case ZERO:
        return x.sign ? 1u << 3 : 1u << 4;
    case SIGNALLING:
        return 1u << 8;
    case QUIET:
        return 1u << 9;
    default:
        return x.sign ? (subnormal ? 1u << 2 : 1u << 1) : (subnormal ? 1u << 5 : 1u << 6);
    }
}

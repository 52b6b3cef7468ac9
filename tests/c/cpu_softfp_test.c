/* Software floating point against the host's SSE unit, bit for bit with flags; and what SSE has no mode for, by hand.
 */
#include "cpu/hostfp.h"
#include "cpu/softfp.h"
#include "cpu_check.h"

#include <fenv.h>
#include <math.h>

static const uint64_t special64[] = {0,
                                     1,
                                     0x000fffffffffffff,
                                     0x0010000000000000,
                                     0x0010000000000001,
                                     0x3ca0000000000000,
                                     0x3fe0000000000000,
                                     0x3fefffffffffffff,
                                     0x3ff0000000000000,
                                     0x3ff0000000000001,
                                     0x4000000000000000,
                                     0x41dfffffffc00000,
                                     0x43e0000000000000,
                                     0x7fe0000000000000,
                                     0x7fefffffffffffff,
                                     0x7ff0000000000000,
                                     0x7ff0000000000001,
                                     0x7ff8000000000000,
                                     0x380fffffffffffff,
                                     0x36a0000000000000};
static const uint32_t special32[] = {0,          1,          0x007fffff, 0x00800000, 0x00800001, 0x33800000,
                                     0x3f000000, 0x3f7fffff, 0x3f800000, 0x3f800001, 0x40000000, 0x4effffff,
                                     0x4f000000, 0x7f000000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000};

static uint64_t pick(uint64_t *seed, bool wide)
{
    uint64_t r = check_random(seed), sign = r >> 63;
    if ((r & 3) == 0)
        return wide ? check_random(seed) : (uint32_t)check_random(seed);
    if ((r & 3) == 1) { /* exponents near one another, so that sums cancel and ties happen */
        uint64_t e = 1020 + (r >> 8) % 8, m = check_random(seed) & check_random(seed);
        return wide ? sign << 63 | e << 52 | (m >> 12) : sign << 31 | (e - 896) << 23 | (m >> 41);
    }
    if (wide)
        return special64[(r >> 8) % WH_ARRAY_LEN(special64)] | sign << 63;
    return special32[(r >> 8) % WH_ARRAY_LEN(special32)] | sign << 31;
}

#if WH_HOST_FP
static uint32_t host_flags(void)
{
    uint32_t mx = wh_host_get_mxcsr();
    return ((mx & 1) ? WH_NV : 0) | ((mx & 4) ? WH_DZ : 0) | ((mx & 8) ? WH_OF : 0) | ((mx & 16) ? WH_UF : 0) |
           ((mx & 32) ? WH_NX : 0);
}

struct sample {
    const char *name;
    uint64_t a, b, c, soft, host;
    uint32_t soft_flags, host_flags;
    unsigned rm;
};
static void compare(const struct sample *s)
{
    if (s->soft == s->host && s->soft_flags == s->host_flags)
        return;
    if (check_failures++ < 20)
        printf("%s rm %u %016" PRIx64 " %016" PRIx64 " %016" PRIx64 ": soft %016" PRIx64 " %x, host %016" PRIx64
               " %x\n",
               s->name, s->rm, s->a, s->b, s->c, s->soft, s->soft_flags, s->host, s->host_flags);
}

static const uint32_t modes[4] = {0x1f80, 0x7f80, 0x3f80, 0x5f80}; /* RNE RTZ RDN RUP */
#define BOTH(label, host_call, soft_call)                                                                              \
    do {                                                                                                               \
        struct sample s = {.name = label, .a = a, .b = b, .c = c, .rm = rm};                                           \
        wh_host_set_mxcsr(modes[rm]);                                                                                  \
        s.host = host_call;                                                                                            \
        s.host_flags = host_flags();                                                                                   \
        wh_host_set_mxcsr(0x1f80);                                                                                     \
        uint32_t *flags = &s.soft_flags;                                                                               \
        s.soft = soft_call;                                                                                            \
        compare(&s);                                                                                                   \
    } while (0)

static void doubles(uint64_t *seed, unsigned rm)
{
    const wh_fp_format *f = &wh_fp64;
    uint64_t a = pick(seed, true), b = pick(seed, true), c = pick(seed, true);
    BOTH("add.d", wh_host_add_d(a, b), wh_fp_add(f, a, b, rm, flags));
    BOTH("sub.d", wh_host_sub_d(a, b), wh_fp_sub(f, a, b, rm, flags));
    BOTH("mul.d", wh_host_mul_d(a, b), wh_fp_mul(f, a, b, rm, flags));
    BOTH("div.d", wh_host_div_d(a, b), wh_fp_div(f, a, b, rm, flags));
    BOTH("sqrt.d", wh_host_sqrt_d(a), wh_fp_sqrt(f, a, rm, flags));
    BOTH("d to s", wh_host_d_to_s(a), wh_fp_convert(&wh_fp32, f, a, rm, flags));
    BOTH("l to d", wh_host_l_to_d((int64_t)c), wh_fp_from_int(f, c, true, rm, flags));
    if (__builtin_cpu_supports("fma") && !wh_is_nan64(a) && !wh_is_nan64(b) && !wh_is_nan64(c)) {
        uint64_t r = 0;
        BOTH("fma.d", (r = wh_host_fmadd_d(a, b, c), wh_is_nan64(r) ? WH_NAN64 : r), wh_fp_fma(f, a, b, c, rm, flags));
    }
    int64_t truncated = wh_host_d_to_l(a);
    if (truncated != INT64_MIN)
        BOTH("d to l", (uint64_t)wh_host_d_to_l(a), wh_fp_to_int(f, a, true, 64, WH_RM_RTZ, flags));
    if (wh_host_d_to_w(a) != INT32_MIN)
        BOTH("d to w", (uint64_t)(int64_t)wh_host_d_to_w(a), wh_fp_to_int(f, a, true, 32, WH_RM_RTZ, flags));
}

static void singles(uint64_t *seed, unsigned rm)
{
    const wh_fp_format *f = &wh_fp32;
    uint32_t a = (uint32_t)pick(seed, false), b = (uint32_t)pick(seed, false), c = (uint32_t)pick(seed, false);
    BOTH("add.s", wh_host_add_s(a, b), wh_fp_add(f, a, b, rm, flags));
    BOTH("sub.s", wh_host_sub_s(a, b), wh_fp_sub(f, a, b, rm, flags));
    BOTH("mul.s", wh_host_mul_s(a, b), wh_fp_mul(f, a, b, rm, flags));
    BOTH("div.s", wh_host_div_s(a, b), wh_fp_div(f, a, b, rm, flags));
    BOTH("sqrt.s", wh_host_sqrt_s(a), wh_fp_sqrt(f, a, rm, flags));
    BOTH("s to d", wh_host_s_to_d(a), wh_fp_convert(&wh_fp64, f, a, rm, flags));
    BOTH("l to s", wh_host_l_to_s((int64_t)((uint64_t)a << 32 | b)),
         wh_fp_from_int(f, (uint64_t)a << 32 | b, true, rm, flags));
    if (__builtin_cpu_supports("fma") && !wh_is_nan32(a) && !wh_is_nan32(b) && !wh_is_nan32(c)) {
        uint32_t r = 0;
        BOTH("fma.s", (r = wh_host_fmadd_s(a, b, c), wh_is_nan32(r) ? WH_NAN32 : r), wh_fp_fma(f, a, b, c, rm, flags));
    }
}

static void against_host(void)
{
    uint64_t seed = 42;
    for (int n = 0; n < 150000; n++) {
        doubles(&seed, (unsigned)n & 3);
        singles(&seed, (unsigned)n & 3);
    }
}
#else
static void against_host(void)
{
    puts("no SSE here: only the values by hand are checked");
}
#endif

static void by_hand(void)
{
    uint32_t flags = 0;
    const uint64_t one = 0x3ff0000000000000, half_ulp = 0x3ca0000000000000; /* 2^-53 */
    CHECK_EQ(wh_fp_add(&wh_fp64, one, half_ulp, WH_RM_RNE, &flags), one);
    CHECK_EQ(wh_fp_add(&wh_fp64, one, half_ulp, WH_RM_RMM, &flags), one + 1);
    CHECK_EQ(wh_fp_add(&wh_fp64, one | 1ull << 63, half_ulp | 1ull << 63, WH_RM_RMM, &flags), (one + 1) | 1ull << 63);
    CHECK_EQ(flags, WH_NX);
    CHECK_EQ(wh_fp_to_int(&wh_fp64, 0x4004000000000000, true, 64, WH_RM_RMM, &flags), 3); /* 2.5 */
    CHECK_EQ(wh_fp_to_int(&wh_fp64, 0x4004000000000000, true, 64, WH_RM_RNE, &flags), 2);
    CHECK_EQ(wh_fp_to_int(&wh_fp64, 0xc004000000000000, true, 64, WH_RM_RMM, &flags), (uint64_t)-3);
    flags = 0;
    CHECK_EQ(wh_fp_to_int(&wh_fp64, 0xbfe0000000000000, false, 32, WH_RM_RTZ, &flags), 0); /* -0.5 */
    CHECK_EQ(flags, WH_NX);
    flags = 0;
    CHECK_EQ(wh_fp_to_int(&wh_fp64, 0xbff0000000000000, false, 64, WH_RM_RTZ, &flags), 0); /* -1 */
    CHECK_EQ(flags, WH_NV);
    flags = 0;
    CHECK_EQ(wh_fp_to_int(&wh_fp64, WH_NAN64, true, 32, WH_RM_RTZ, &flags), 0x7fffffff);
    CHECK_EQ(wh_fp_to_int(&wh_fp64, 0x41e0000000000000, false, 32, WH_RM_RTZ, &flags), 0xffffffff80000000); /* 2^31 */
    CHECK_EQ(wh_fp_to_int(&wh_fp64, 0x43f0000000000000, false, 64, WH_RM_RTZ, &flags), UINT64_MAX);
    CHECK_EQ(flags, WH_NV);
    flags = 0;
    CHECK_EQ(wh_fp_fma(&wh_fp64, 0x7ff0000000000000, 0, WH_NAN64, WH_RM_RNE, &flags), WH_NAN64);
    CHECK_EQ(flags, WH_NV); /* inf * 0 + qNaN */
    flags = 0;
    CHECK_EQ(wh_fp_minmax(&wh_fp64, 1ull << 63, 0, false, &flags), 1ull << 63);
    CHECK_EQ(wh_fp_minmax(&wh_fp64, WH_NAN64, one, true, &flags), one);
    CHECK_EQ(flags, 0);
    CHECK_EQ(wh_fp_minmax(&wh_fp64, 0x7ff0000000000001, one, true, &flags), one);
    CHECK_EQ(flags, WH_NV);
    CHECK_EQ(wh_fp_classify(&wh_fp64, 0x8000000000000001), 1 << 2);
    CHECK_EQ(wh_fp_classify(&wh_fp32, 0x7f800001), 1 << 8);
}

/* binary16 (Zfhmin): widening is exact, so a half that goes to either format and back is itself in every rounding mode
 * and raises nothing; the value is that of the definition, computed in double arithmetic. */
static void halves(void)
{
    for (uint32_t half = 0; half < 0x10000; half++) {
        uint32_t flags = 0, exponent = half >> 10 & 31, fraction = half & 0x3ff;
        uint64_t wide = wh_fp_convert(&wh_fp64, &wh_fp16, half, WH_RM_RNE, &flags);
        uint64_t single = wh_fp_convert(&wh_fp32, &wh_fp16, half, WH_RM_RNE, &flags);
        if (exponent == 31 && fraction != 0) {
            CHECK_EQ(wide, WH_NAN64);
            CHECK_EQ(single, WH_NAN32);
            CHECK_EQ(flags, (fraction >> 9) ? 0 : WH_NV);
            continue;
        }
        double value = exponent == 0 ? (double)fraction : (double)(0x400 + fraction);
        for (uint32_t e = exponent == 0 ? 1 : exponent; e < 25; e++)
            value /= 2;
        for (uint32_t e = exponent; e > 25; e--)
            value *= 2;
        value = half >> 15 ? -value : value;
        uint64_t want = exponent == 31 ? (half >> 15 ? 0xffful << 52 : 0x7fful << 52) : 0;
        if (exponent != 31)
            memcpy(&want, &value, 8);
        CHECK_EQ(wide, want);
        for (unsigned rm = WH_RM_RNE; rm <= WH_RM_RMM; rm++) {
            CHECK_EQ(wh_fp_convert(&wh_fp16, &wh_fp64, wide, rm, &flags), half);
            CHECK_EQ(wh_fp_convert(&wh_fp16, &wh_fp32, single, rm, &flags), half);
        }
        CHECK_EQ(flags, 0);
    }
    static const struct {
        uint32_t single;
        unsigned rm, half, flags;
    } rows[] = {
        {0x477fefff, WH_RM_RNE, 0x7bff, WH_NX},         /* just under half way above the largest */
        {0x477ff000, WH_RM_RNE, 0x7c00, WH_OF | WH_NX}, /* half way: to infinity */
        {0x477ff000, WH_RM_RTZ, 0x7bff, WH_NX},
        {0x47800000, WH_RM_RTZ, 0x7bff, WH_OF | WH_NX},
        {0xc7800000, WH_RM_RUP, 0xfbff, WH_OF | WH_NX},
        {0x33000000, WH_RM_RNE, 0x0000, WH_UF | WH_NX}, /* half of the least subnormal */
        {0x33000001, WH_RM_RNE, 0x0001, WH_UF | WH_NX},
        {0x33000000, WH_RM_RMM, 0x0001, WH_UF | WH_NX},
        {0x387fe000, WH_RM_RNE, 0x0400, WH_UF | WH_NX}, /* rounds up to the least normal, and was tiny before */
        {0x387ff000, WH_RM_RNE, 0x0400, WH_NX},         /* not tiny with an unbounded exponent */
        {0x7f800001, WH_RM_RNE, 0x7e00, WH_NV},
    };
    for (size_t n = 0; n < WH_ARRAY_LEN(rows); n++) {
        uint32_t flags = 0;
        CHECK_EQ(wh_fp_convert(&wh_fp16, &wh_fp32, rows[n].single, rows[n].rm, &flags), rows[n].half);
        CHECK_EQ(flags, rows[n].flags);
    }
}

/* Zfa: FROUND against rint(), FCVTMOD.W.D against integer arithmetic of the truncated value. */
static void rounding_to_integers(void)
{
    static const int libm_modes[] = {[WH_RM_RNE] = FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    double (*volatile library_rint)(double) = rint; /* compilers expand rint() for round-to-nearest only */
    uint64_t seed = 11;
    for (int n = 0; n < 200000; n++) {
        uint64_t a = pick(&seed, true);
        if (n & 1) /* exponents at which a fraction is partly there */
            a = (a & ~(0x7ffull << 52)) | (1020 + check_random(&seed) % 70) << 52;
        double value;
        memcpy(&value, &a, 8);
        if (value != value)
            continue;
        for (unsigned rm = WH_RM_RNE; rm <= WH_RM_RUP; rm++) {
            fesetround(libm_modes[rm]);
            double rounded = library_rint(value);
            fesetround(FE_TONEAREST);
            uint64_t want;
            uint32_t flags = 0, none = 0;
            memcpy(&want, &rounded, 8);
            CHECK_EQ(wh_fp_round(&wh_fp64, a, rm, true, &flags), want);
            CHECK_EQ(flags, want == a ? 0 : WH_NX);
            CHECK_EQ(wh_fp_round(&wh_fp64, a, rm, false, &none), want);
            CHECK_EQ(none, 0);
        }
        uint32_t flags = 0, same = 0;
        uint64_t modular = wh_fp_to_int_modular(a, &flags);
        (void)wh_fp_to_int(&wh_fp64, a, true, 32, WH_RM_RTZ, &same);
        CHECK_EQ(flags, same);
        if (fabs(value) < 0x1p63)
            CHECK_EQ(modular, (uint64_t)(int64_t)(int32_t)(uint32_t)(int64_t)value);
    }
    uint32_t flags = 0;
    CHECK_EQ(wh_fp_to_int_modular(0x43f0000000100000, &flags), 0); /* 2^64 + 2^32: nothing below bit 32 */
    CHECK_EQ(wh_fp_to_int_modular(0x7ff0000000000000, &flags), 0);
    CHECK_EQ(flags, WH_NV);
    flags = 0;
    CHECK_EQ(wh_fp_minmax_nan(&wh_fp64, 0x3ff0000000000000, WH_NAN64, true, &flags), WH_NAN64);
    CHECK(!wh_fp_compare_quiet(64, 0x3ff0000000000000, WH_NAN64, true, &flags));
    CHECK_EQ(flags, 0);
    CHECK(!wh_fp_compare_quiet(64, 0x3ff0000000000000, 0x7ff0000000000001, false, &flags));
    CHECK_EQ(flags, WH_NV);
    CHECK(wh_fp_compare_quiet(32, 0x80000000, 0, true, &flags) &&
          !wh_fp_compare_quiet(32, 0x80000000, 0, false, &flags));
}

int main(void)
{
    against_host();
    by_hand();
    halves();
    rounding_to_integers();
    if (check_failures != 0)
        printf("%d failures\n", check_failures);
    return check_failures != 0;
}

/* Software floating point against the host's SSE unit, bit for bit with flags; and what SSE has no mode for, by hand.
 */
#include "cpu/hostfp.h"
#include "cpu/softfp.h"
#include "cpu_check.h"

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

int main(void)
{
    against_host();
    by_hand();
    if (check_failures != 0)
        printf("%d failures\n", check_failures);
    return check_failures != 0;
}

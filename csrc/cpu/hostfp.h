/* hostfp: single operations on the host's SSE unit. Each is one instruction in an asm that the compiler neither moves
 * across an MXCSR access nor evaluates itself; rounding comes from MXCSR, flags stay in it until wh_fp_collect. Results
 * that are NaN become the canonical one; x86 raises invalid, divide-by-zero, overflow, underflow (tininess after
 * rounding) and inexact exactly where RISC-V does, except for FMA with a NaN, which the caller repeats in software. */
#ifndef WH_HOSTFP_H
#define WH_HOSTFP_H

#include "base/base.h"

#define WH_NAN64 0x7ff8000000000000ull
#define WH_NAN32 0x7fc00000u
#define WH_BOX   0xffffffff00000000ull

static inline uint32_t wh_unbox(uint64_t v)
{
    return (v >> 32) == 0xffffffffu ? (uint32_t)v : WH_NAN32;
}
static inline bool wh_is_nan64(uint64_t v)
{
    return (v << 1) > (0x7ffull << 53);
}
static inline bool wh_is_nan32(uint32_t v)
{
    return (v << 1) > (0xffu << 24);
}

#if defined(__x86_64__)
#define WH_HOST_FP 1
#include <emmintrin.h>
#define WH_BITS_D(x) ((uint64_t)_mm_cvtsi128_si64(_mm_castpd_si128(x)))
#define WH_XMM_D(v)  _mm_castsi128_pd(_mm_cvtsi64_si128((int64_t)(v)))
#define WH_BITS_S(x) ((uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(x)))
#define WH_XMM_S(v)  _mm_castsi128_ps(_mm_cvtsi32_si128((int32_t)(v)))

#define WH_HOST_TWO(name, insn)                                                                                        \
    static inline uint64_t wh_host_##name##_d(uint64_t a, uint64_t b)                                                  \
    {                                                                                                                  \
        __m128d x = WH_XMM_D(a), y = WH_XMM_D(b);                                                                      \
        __asm__ volatile(insn "sd %1, %0" : "+x"(x) : "x"(y));                                                         \
        uint64_t r = WH_BITS_D(x);                                                                                     \
        return WH_UNLIKELY(wh_is_nan64(r)) ? WH_NAN64 : r;                                                             \
    }                                                                                                                  \
    static inline uint32_t wh_host_##name##_s(uint32_t a, uint32_t b)                                                  \
    {                                                                                                                  \
        __m128 x = WH_XMM_S(a), y = WH_XMM_S(b);                                                                       \
        __asm__ volatile(insn "ss %1, %0" : "+x"(x) : "x"(y));                                                         \
        uint32_t r = WH_BITS_S(x);                                                                                     \
        return WH_UNLIKELY(wh_is_nan32(r)) ? WH_NAN32 : r;                                                             \
    }
WH_HOST_TWO(add, "add")
WH_HOST_TWO(sub, "sub")
WH_HOST_TWO(mul, "mul")
WH_HOST_TWO(div, "div")

static inline uint64_t wh_host_sqrt_d(uint64_t a)
{
    __m128d x = WH_XMM_D(a), y = _mm_setzero_pd();
    __asm__ volatile("sqrtsd %1, %0" : "+x"(y) : "x"(x));
    uint64_t r = WH_BITS_D(y);
    return WH_UNLIKELY(wh_is_nan64(r)) ? WH_NAN64 : r;
}
static inline uint32_t wh_host_sqrt_s(uint32_t a)
{
    __m128 x = WH_XMM_S(a), y = _mm_setzero_ps();
    __asm__ volatile("sqrtss %1, %0" : "+x"(y) : "x"(x));
    uint32_t r = WH_BITS_S(y);
    return WH_UNLIKELY(wh_is_nan32(r)) ? WH_NAN32 : r;
}
/* c = +-(a*b) +- c in one rounding; only where the host has FMA3. The result may be any NaN. */
#define WH_HOST_FMA(name, insn)                                                                                        \
    static inline uint64_t wh_host_##name##_d(uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        __m128d x = WH_XMM_D(a), y = WH_XMM_D(b), z = WH_XMM_D(c);                                                     \
        __asm__ volatile(insn "sd %2, %1, %0" : "+x"(z) : "x"(x), "x"(y));                                             \
        return WH_BITS_D(z);                                                                                           \
    }                                                                                                                  \
    static inline uint32_t wh_host_##name##_s(uint32_t a, uint32_t b, uint32_t c)                                      \
    {                                                                                                                  \
        __m128 x = WH_XMM_S(a), y = WH_XMM_S(b), z = WH_XMM_S(c);                                                      \
        __asm__ volatile(insn "ss %2, %1, %0" : "+x"(z) : "x"(x), "x"(y));                                             \
        return WH_BITS_S(z);                                                                                           \
    }
WH_HOST_FMA(fmadd, "vfmadd231")
WH_HOST_FMA(fmsub, "vfmsub231")
WH_HOST_FMA(fnmsub, "vfnmadd231") /* RISC-V FNMSUB is -(a*b)+c */
WH_HOST_FMA(fnmadd, "vfnmsub231") /* RISC-V FNMADD is -(a*b)-c */

static inline uint32_t wh_host_d_to_s(uint64_t a)
{
    __m128 y = _mm_setzero_ps();
    __asm__ volatile("cvtsd2ss %1, %0" : "+x"(y) : "x"(WH_XMM_D(a)));
    uint32_t r = WH_BITS_S(y);
    return WH_UNLIKELY(wh_is_nan32(r)) ? WH_NAN32 : r;
}
static inline uint64_t wh_host_s_to_d(uint32_t a)
{
    __m128d y = _mm_setzero_pd();
    __asm__ volatile("cvtss2sd %1, %0" : "+x"(y) : "x"(WH_XMM_S(a)));
    uint64_t r = WH_BITS_D(y);
    return WH_UNLIKELY(wh_is_nan64(r)) ? WH_NAN64 : r;
}
static inline uint64_t wh_host_l_to_d(int64_t v)
{
    __m128d y = _mm_setzero_pd();
    __asm__ volatile("cvtsi2sdq %1, %0" : "+x"(y) : "r"(v));
    return WH_BITS_D(y);
}
static inline uint32_t wh_host_l_to_s(int64_t v)
{
    __m128 y = _mm_setzero_ps();
    __asm__ volatile("cvtsi2ssq %1, %0" : "+x"(y) : "r"(v));
    return WH_BITS_S(y);
}
/* Truncation. The most negative number also means "no such integer": the caller looks again in software. */
static inline int64_t wh_host_d_to_l(uint64_t a)
{
    int64_t r;
    __asm__ volatile("cvttsd2siq %1, %0" : "=r"(r) : "x"(WH_XMM_D(a)));
    return r;
}
static inline int32_t wh_host_d_to_w(uint64_t a)
{
    int32_t r;
    __asm__ volatile("cvttsd2sil %1, %0" : "=r"(r) : "x"(WH_XMM_D(a)));
    return r;
}
static inline int64_t wh_host_s_to_l(uint32_t a)
{
    int64_t r;
    __asm__ volatile("cvttss2siq %1, %0" : "=r"(r) : "x"(WH_XMM_S(a)));
    return r;
}
static inline int32_t wh_host_s_to_w(uint32_t a)
{
    int32_t r;
    __asm__ volatile("cvttss2sil %1, %0" : "=r"(r) : "x"(WH_XMM_S(a)));
    return r;
}
static inline uint32_t wh_host_get_mxcsr(void)
{
    uint32_t v;
    __asm__ volatile("stmxcsr %0" : "=m"(v) : : "memory");
    return v;
}
static inline void wh_host_set_mxcsr(uint32_t v)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(v) : "memory");
}
#else
#define WH_HOST_FP 0
#endif

#endif

/* alu: integer operations that are more than one C operator; shared by every engine. M extension: unprivileged spec
 * chapter "M" (division by zero and overflow have defined results); Zbb: chapter "B". */
#ifndef WH_ALU_H
#define WH_ALU_H

#include "base/base.h"

static inline uint64_t wh_sext32(uint64_t v)
{
    return (uint64_t)(int64_t)(int32_t)(uint32_t)v;
}
static inline uint64_t wh_mulhu(uint64_t a, uint64_t b)
{
    return (uint64_t)(((unsigned __int128)a * b) >> 64);
}
static inline uint64_t wh_mulh(uint64_t a, uint64_t b)
{
    return (uint64_t)(((__int128)(int64_t)a * (int64_t)b) >> 64);
}
static inline uint64_t wh_mulhsu(uint64_t a, uint64_t b)
{
    return wh_mulhu(a, b) - ((int64_t)a < 0 ? b : 0);
}
static inline uint64_t wh_div(uint64_t a, uint64_t b)
{
    if (b == 0)
        return UINT64_MAX;
    if (b == UINT64_MAX)
        return 0 - a;
    return (uint64_t)((int64_t)a / (int64_t)b);
}
static inline uint64_t wh_rem(uint64_t a, uint64_t b)
{
    if (b == 0)
        return a;
    if (b == UINT64_MAX)
        return 0;
    return (uint64_t)((int64_t)a % (int64_t)b);
}
static inline uint64_t wh_divu(uint64_t a, uint64_t b)
{
    return b == 0 ? UINT64_MAX : a / b;
}
static inline uint64_t wh_remu(uint64_t a, uint64_t b)
{
    return b == 0 ? a : a % b;
}
static inline uint64_t wh_divw(uint64_t a, uint64_t b)
{
    int64_t n = (int32_t)a, d = (int32_t)b;
    return d == 0 ? UINT64_MAX : wh_sext32((uint64_t)(n / d));
}
static inline uint64_t wh_remw(uint64_t a, uint64_t b)
{
    int64_t n = (int32_t)a, d = (int32_t)b;
    return d == 0 ? (uint64_t)n : wh_sext32((uint64_t)(n % d));
}
static inline uint64_t wh_divuw(uint64_t a, uint64_t b)
{
    uint32_t n = (uint32_t)a, d = (uint32_t)b;
    return d == 0 ? UINT64_MAX : wh_sext32(n / d);
}
static inline uint64_t wh_remuw(uint64_t a, uint64_t b)
{
    uint32_t n = (uint32_t)a, d = (uint32_t)b;
    return wh_sext32(d == 0 ? n : n % d);
}
static inline uint64_t wh_rol(uint64_t a, uint64_t n)
{
    return a << (n & 63) | a >> (-n & 63);
}
static inline uint64_t wh_ror(uint64_t a, uint64_t n)
{
    return a >> (n & 63) | a << (-n & 63);
}
static inline uint64_t wh_rolw(uint64_t a, uint64_t n)
{
    uint32_t v = (uint32_t)a;
    return wh_sext32(v << (n & 31) | v >> (-n & 31));
}
static inline uint64_t wh_rorw(uint64_t a, uint64_t n)
{
    uint32_t v = (uint32_t)a;
    return wh_sext32(v >> (n & 31) | v << (-n & 31));
}
/* Each byte becomes 0xff unless it is zero: bit 7 of (low seven bits + 0x7f) or the byte itself says "not zero". */
static inline uint64_t wh_orc_b(uint64_t a)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7full;
    uint64_t nonzero = (((a & low) + low) | a) & ~low;
    return (nonzero >> 7) * 0xff;
}
static inline uint64_t wh_clz(uint64_t a)
{
    return a == 0 ? 64 : (uint64_t)__builtin_clzll(a);
}
static inline uint64_t wh_ctz(uint64_t a)
{
    return a == 0 ? 64 : (uint64_t)__builtin_ctzll(a);
}
static inline uint64_t wh_clzw(uint64_t a)
{
    return (uint32_t)a == 0 ? 32 : (uint64_t)__builtin_clz((uint32_t)a);
}
static inline uint64_t wh_ctzw(uint64_t a)
{
    return (uint32_t)a == 0 ? 32 : (uint64_t)__builtin_ctz((uint32_t)a);
}

#endif

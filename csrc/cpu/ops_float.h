/* Semantics of F and D for the interpreter; included inside the run loop. An operation that rounds goes to the host
 * only in state FAST; FP_SLOW does the same in software, switches FS on the way, and finds what is illegal. */

L_FP_SLOW : fp_slow : if (WH_UNLIKELY(!wh_fp_slow(h, ip))) goto illegal;
NEXT(4);

#if WH_HOST_FP
#define FAST_ONLY()                                                                                                    \
    if (WH_UNLIKELY(h->fp_state != WH_FP_FAST))                                                                        \
        goto fp_slow;
#define HOST(...) __VA_ARGS__
#else
#define FAST_ONLY()
#define HOST(...) goto fp_slow
#endif
#define FA     h->f[ip->b]
#define FB     h->f[WH_FP_RS2(ip->imm)]
#define FC     h->f[WH_FP_RS3(ip->imm)]
#define SA     wh_unbox(FA)
#define SB_    wh_unbox(FB)
#define SC_    wh_unbox(FC)
#define FD_D   h->f[ip->a]
#define BOX(v) ((uint64_t)(v) | WH_BOX)

#define FP(name, ...)                                                                                                  \
    L_##name:                                                                                                          \
    {                                                                                                                  \
        FAST_ONLY();                                                                                                   \
        HOST(__VA_ARGS__);                                                                                             \
    }                                                                                                                  \
    NEXT(4);
FP(FADD_D, FD_D = wh_host_add_d(FA, FB))
FP(FSUB_D, FD_D = wh_host_sub_d(FA, FB))
FP(FMUL_D, FD_D = wh_host_mul_d(FA, FB))
FP(FDIV_D, FD_D = wh_host_div_d(FA, FB))
FP(FSQRT_D, FD_D = wh_host_sqrt_d(FA))
FP(FADD_S, FD_D = BOX(wh_host_add_s(SA, SB_)))
FP(FSUB_S, FD_D = BOX(wh_host_sub_s(SA, SB_)))
FP(FMUL_S, FD_D = BOX(wh_host_mul_s(SA, SB_)))
FP(FDIV_S, FD_D = BOX(wh_host_div_s(SA, SB_)))
FP(FSQRT_S, FD_D = BOX(wh_host_sqrt_s(SA)))

/* x86 leaves 0*inf+NaN alone where RISC-V wants invalid: any NaN is done again in software. */
#define FMA(name)                                                                                                      \
    uint64_t r;                                                                                                        \
    if (WH_UNLIKELY(!h->has_fma))                                                                                      \
        goto fp_slow;                                                                                                  \
    r = name;
#define FMA_D(op)                                                                                                      \
    FMA(wh_host_##op##_d(FA, FB, FC))                                                                                  \
    if (WH_UNLIKELY(wh_is_nan64(r)))                                                                                   \
        goto fp_slow;                                                                                                  \
    FD_D = r
#define FMA_S(op)                                                                                                      \
    FMA(wh_host_##op##_s(SA, SB_, SC_))                                                                                \
    if (WH_UNLIKELY(wh_is_nan32((uint32_t)r)))                                                                         \
        goto fp_slow;                                                                                                  \
    FD_D = BOX((uint32_t)r)
FP(FMADD_D, FMA_D(fmadd))
FP(FMSUB_D, FMA_D(fmsub))
FP(FNMSUB_D, FMA_D(fnmsub))
FP(FNMADD_D, FMA_D(fnmadd))
FP(FMADD_S, FMA_S(fmadd))
FP(FMSUB_S, FMA_S(fmsub))
FP(FNMSUB_S, FMA_S(fnmsub))
FP(FNMADD_S, FMA_S(fnmadd))

FP(FCVT_S_D, FD_D = BOX(wh_host_d_to_s(FA)))
FP(FCVT_D_S, FD_D = wh_host_s_to_d(SA))
FP(FCVT_D_W, FD_D = wh_host_l_to_d((int32_t)RS1))
FP(FCVT_D_L, FD_D = wh_host_l_to_d((int64_t)RS1))
FP(FCVT_S_W, FD_D = BOX(wh_host_l_to_s((int32_t)RS1)))
FP(FCVT_S_L, FD_D = BOX(wh_host_l_to_s((int64_t)RS1)))
#define TRUNCATE(type, least, value)                                                                                   \
    type r = value;                                                                                                    \
    if (WH_UNLIKELY(r == least))                                                                                       \
        goto fp_slow;                                                                                                  \
    RD = (uint64_t)(int64_t)r
FP(FCVT_W_D_RTZ, TRUNCATE(int32_t, INT32_MIN, wh_host_d_to_w(FA)))
FP(FCVT_L_D_RTZ, TRUNCATE(int64_t, INT64_MIN, wh_host_d_to_l(FA)))
FP(FCVT_W_S_RTZ, TRUNCATE(int32_t, INT32_MIN, wh_host_s_to_w(SA)))
FP(FCVT_L_S_RTZ, TRUNCATE(int64_t, INT64_MIN, wh_host_s_to_l(SA)))

/* Exact operations: no rounding mode, so that they only look at FS. */
#define COMPARE(name, width, a, b, relation)                                                                           \
    L_##name : FP_WRITE_CHECK();                                                                                       \
    RD = wh_fp_compare(width, a, b, relation, &h->fflags);                                                             \
    NEXT(4);
COMPARE(FLE_D, 64, FA, FB, WH_REL_LE)
COMPARE(FLT_D, 64, FA, FB, WH_REL_LT)
COMPARE(FEQ_D, 64, FA, FB, WH_REL_EQ)
COMPARE(FLE_S, 32, SA, SB_, WH_REL_LE)
COMPARE(FLT_S, 32, SA, SB_, WH_REL_LT)
COMPARE(FEQ_S, 32, SA, SB_, WH_REL_EQ)

#define EXACT(name, check, ...)                                                                                        \
    L_##name : check();                                                                                                \
    __VA_ARGS__;                                                                                                       \
    NEXT(4);
#define SIGN64 (1ull << 63)
#define SIGN32 (1u << 31)
EXACT(FSGNJ_D, FP_WRITE_CHECK, FD_D = (FA & ~SIGN64) | (FB & SIGN64))
EXACT(FSGNJN_D, FP_WRITE_CHECK, FD_D = (FA & ~SIGN64) | (~FB & SIGN64))
EXACT(FSGNJX_D, FP_WRITE_CHECK, FD_D = FA ^ (FB & SIGN64))
EXACT(FSGNJ_S, FP_WRITE_CHECK, FD_D = BOX((SA & ~SIGN32) | (SB_ & SIGN32)))
EXACT(FSGNJN_S, FP_WRITE_CHECK, FD_D = BOX((SA & ~SIGN32) | (~SB_ & SIGN32)))
EXACT(FSGNJX_S, FP_WRITE_CHECK, FD_D = BOX(SA ^ (SB_ & SIGN32)))
EXACT(FMV_X_W, FP_READ_CHECK, RD = wh_sext32(FA))
EXACT(FMV_X_D, FP_READ_CHECK, RD = FA)
EXACT(FMV_W_X, FP_WRITE_CHECK, FD_D = BOX((uint32_t)RS1))
EXACT(FMV_D_X, FP_WRITE_CHECK, FD_D = RS1)

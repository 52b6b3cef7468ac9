/* Semantics of Zicond, Zicbom, Zicboz, Zawrs, Zimop, Zacas and Zfhmin's loads, stores and moves for the interpreter;
 * included inside the run loop, after ops_memory.h and ops_float.h. Zfa and Zfhmin's conversions are FP_SLOW. */

ONE(CZERO_EQZ, RD = RS2 == 0 ? 0 : RS1)
ONE(CZERO_NEZ, RD = RS2 != 0 ? 0 : RS1)
ONE(MOP, RD = 0)

L_CBO : SYNC();
status = wh_cbo(h, (unsigned)ip->imm, RS1);
if (WH_UNLIKELY(status != 0)) {
    if (status > 0)
        goto illegal;
    goto trap;
}
NEXT(4);

L_WRS : /* ends at once, which it may for any reason; only one hart among several gives its time away */
        SYNC();
if (!wh_wrs_allowed(h, ip->imm == 0x0d))
    goto illegal;
goto L_PAUSE;

/* rd is compared and then loaded; x0 compares as zero, and its place among the registers holds anything. */
#define COMPARE_AND_SWAP(name, type, stype)                                                                            \
    L_##name:                                                                                                          \
    {                                                                                                                  \
        ATOMIC_ADDRESS(type, WH_STORE)                                                                                 \
        type expected = ip->a == WH_SINK ? 0 : (type)RD;                                                               \
        (void)__atomic_compare_exchange_n(word, &expected, (type)RS2, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);      \
        RD = (uint64_t)(int64_t)(stype)expected;                                                                       \
    }                                                                                                                  \
    NEXT(4);
COMPARE_AND_SWAP(AMOCAS_W, uint32_t, int32_t)
COMPARE_AND_SWAP(AMOCAS_D, uint64_t, int64_t)
L_AMOCAS_Q : SYNC();
if (WH_UNLIKELY(wh_amocas_q(h, ip) != 0))
    goto trap;
NEXT(4);

#define BOX_H (~(uint64_t)0xffff)
L_FLH : FP_WRITE_CHECK();
LOAD_BODY(uint16_t, 16, h->f[ip->a] = (uint16_t)value | BOX_H)
NEXT(4);
L_FSH : FP_READ_CHECK();
STORE_BODY(uint16_t, 16, h->f[ip->a])
NEXT(4);
EXACT(FMV_X_H, FP_READ_CHECK, RD = (uint64_t)(int64_t)(int16_t)FA)
EXACT(FMV_H_X, FP_WRITE_CHECK, FD_D = (uint16_t)RS1 | BOX_H)

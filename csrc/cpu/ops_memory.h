/* Semantics of loads, stores and atomics for the interpreter; included inside the run loop. */

#define LOAD_BODY(type, width, place)                                                                                  \
    {                                                                                                                  \
        uint64_t va = RS1 + IMM, value;                                                                                \
        const wh_tlb_entry *e = &h->mmu.load[(va >> WH_PAGE_SHIFT) % WH_TLB_ENTRIES];                                  \
        if (WH_LIKELY(e->tag == (((va + sizeof(type) - 1) >> WH_PAGE_SHIFT) | h->mmu.data_context))) {                 \
            value = guest_read_##width(va + e->addend);                                                                \
        } else {                                                                                                       \
            uint64_t slow; /* apart, so that `value` needs no address and stays in a register */                       \
            SYNC();                                                                                                    \
            if (wh_load(h, va, sizeof(type), &slow) != 0)                                                              \
                goto trap;                                                                                             \
            value = slow;                                                                                              \
            AFTER_SLOW();                                                                                              \
        }                                                                                                              \
        place;                                                                                                         \
    }
#define LOAD(name, length, type, width, place) L_##name : LOAD_BODY(type, width, place) NEXT(length);
#define EXTEND(type)                           RD = (uint64_t)(int64_t)(type)value
LOAD(LB, 4, int8_t, 8, EXTEND(int8_t))
LOAD(LH, 4, int16_t, 16, EXTEND(int16_t))
LOAD(LH_C, 2, int16_t, 16, EXTEND(int16_t))
LOAD(LW, 4, int32_t, 32, EXTEND(int32_t))
LOAD(LW_C, 2, int32_t, 32, EXTEND(int32_t))
LOAD(LD, 4, int64_t, 64, RD = value)
LOAD(LD_C, 2, int64_t, 64, RD = value)
LOAD(LBU, 4, uint8_t, 8, RD = (uint8_t)value)
LOAD(LBU_C, 2, uint8_t, 8, RD = (uint8_t)value)
LOAD(LHU, 4, uint16_t, 16, RD = (uint16_t)value)
LOAD(LHU_C, 2, uint16_t, 16, RD = (uint16_t)value)
LOAD(LWU, 4, uint32_t, 32, RD = (uint32_t)value)

#define STORE_BODY(type, width, value)                                                                                 \
    {                                                                                                                  \
        uint64_t va = RS1 + IMM;                                                                                       \
        const wh_tlb_entry *e = &h->mmu.store[(va >> WH_PAGE_SHIFT) % WH_TLB_ENTRIES];                                 \
        if (WH_LIKELY(e->tag == (((va + sizeof(type) - 1) >> WH_PAGE_SHIFT) | h->mmu.data_context))) {                 \
            guest_write_##width(va + e->addend, (type)(value));                                                        \
        } else {                                                                                                       \
            SYNC();                                                                                                    \
            if (wh_store(h, va, sizeof(type), (value)) != 0)                                                           \
                goto trap;                                                                                             \
            AFTER_SLOW();                                                                                              \
        }                                                                                                              \
    }
#define STORE(name, length, type, width, value) L_##name : STORE_BODY(type, width, value) NEXT(length);
STORE(SB, 4, uint8_t, 8, RA)
STORE(SB_C, 2, uint8_t, 8, RA)
STORE(SH, 4, uint16_t, 16, RA)
STORE(SH_C, 2, uint16_t, 16, RA)
STORE(SW, 4, uint32_t, 32, RA)
STORE(SW_C, 2, uint32_t, 32, RA)
STORE(SD, 4, uint64_t, 64, RA)
STORE(SD_C, 2, uint64_t, 64, RA)

L_FLW : FP_WRITE_CHECK();
goto load_flw;
L_FLD : FP_WRITE_CHECK();
goto load_fld;
L_FLD_C : FP_WRITE_CHECK();
goto load_fld_c;
L_FSW : FP_READ_CHECK();
goto store_fsw;
L_FSD : FP_READ_CHECK();
goto store_fsd;
L_FSD_C : FP_READ_CHECK();
goto store_fsd_c;
#define L_load_flw    load_flw
#define L_load_fld    load_fld
#define L_load_fld_c  load_fld_c
#define L_store_fsw   store_fsw
#define L_store_fsd   store_fsd
#define L_store_fsd_c store_fsd_c
LOAD(load_flw, 4, uint32_t, 32, h->f[ip->a] = (uint32_t)value | WH_BOX)
LOAD(load_fld, 4, uint64_t, 64, h->f[ip->a] = value)
LOAD(load_fld_c, 2, uint64_t, 64, h->f[ip->a] = value)
STORE(store_fsw, 4, uint32_t, 32, h->f[ip->a])
STORE(store_fsd, 4, uint64_t, 64, h->f[ip->a])
STORE(store_fsd_c, 2, uint64_t, 64, h->f[ip->a])

/* Atomics: host atomics on the RAM itself, always sequentially consistent (aq and rl ask for no more). An SC succeeds
 * when the word still has the value that LR read; ABA is invisible to software that may only compare values. */
#define ATOMIC_ADDRESS(type, access)                                                                                   \
    uint8_t *host;                                                                                                     \
    SYNC();                                                                                                            \
    if (WH_UNLIKELY(wh_atomic_address(h, RS1, sizeof(type), access, &host) != 0))                                      \
        goto trap;                                                                                                     \
    type *word = (type *)(void *)host;

#define LOAD_RESERVED(name, type, stype)                                                                               \
    L_##name:                                                                                                          \
    {                                                                                                                  \
        ATOMIC_ADDRESS(type, WH_LOAD)                                                                                  \
        type value = __atomic_load_n(word, __ATOMIC_SEQ_CST);                                                          \
        h->reservation = (uintptr_t)host;                                                                              \
        h->reserved_value = value;                                                                                     \
        RD = (uint64_t)(int64_t)(stype)value;                                                                          \
    }                                                                                                                  \
    NEXT(4);
LOAD_RESERVED(LR_W, uint32_t, int32_t)
LOAD_RESERVED(LR_D, uint64_t, int64_t)

#define STORE_CONDITIONAL(name, type)                                                                                  \
    L_##name:                                                                                                          \
    {                                                                                                                  \
        ATOMIC_ADDRESS(type, WH_STORE)                                                                                 \
        type expected = (type)h->reserved_value;                                                                       \
        bool ok = h->reservation == (uintptr_t)host &&                                                                 \
                  __atomic_compare_exchange_n(word, &expected, (type)RS2, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);  \
        h->reservation = 0;                                                                                            \
        RD = !ok;                                                                                                      \
    }                                                                                                                  \
    NEXT(4);
STORE_CONDITIONAL(SC_W, uint32_t)
STORE_CONDITIONAL(SC_D, uint64_t)

#define AMO(name, type, stype, operation)                                                                              \
    L_##name:                                                                                                          \
    {                                                                                                                  \
        ATOMIC_ADDRESS(type, WH_STORE)                                                                                 \
        type operand = (type)RS2, old;                                                                                 \
        old = operation;                                                                                               \
        RD = (uint64_t)(int64_t)(stype)old;                                                                            \
    }                                                                                                                  \
    NEXT(4);
#define AMO_BUILTIN(fn) fn(word, operand, __ATOMIC_SEQ_CST)
#define AMO_CHOOSE(ctype, cmp)                                                                                         \
    __atomic_load_n(word, __ATOMIC_RELAXED);                                                                           \
    while (!__atomic_compare_exchange_n(word, &old, ((ctype)old cmp(ctype) operand) ? old : operand, false,            \
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))                                           \
    continue
#define AMO_BOTH(name, operation)                                                                                      \
    AMO(name##_W, uint32_t, int32_t, operation) AMO(name##_D, uint64_t, int64_t, operation)
AMO_BOTH(AMOSWAP, AMO_BUILTIN(__atomic_exchange_n))
AMO_BOTH(AMOADD, AMO_BUILTIN(__atomic_fetch_add))
AMO_BOTH(AMOXOR, AMO_BUILTIN(__atomic_fetch_xor))
AMO_BOTH(AMOAND, AMO_BUILTIN(__atomic_fetch_and))
AMO_BOTH(AMOOR, AMO_BUILTIN(__atomic_fetch_or))
AMO(AMOMIN_W, uint32_t, int32_t, AMO_CHOOSE(int32_t, <))
AMO(AMOMIN_D, uint64_t, int64_t, AMO_CHOOSE(int64_t, <))
AMO(AMOMAX_W, uint32_t, int32_t, AMO_CHOOSE(int32_t, >))
AMO(AMOMAX_D, uint64_t, int64_t, AMO_CHOOSE(int64_t, >))
AMO(AMOMINU_W, uint32_t, int32_t, AMO_CHOOSE(uint32_t, <))
AMO(AMOMINU_D, uint64_t, int64_t, AMO_CHOOSE(uint64_t, <))
AMO(AMOMAXU_W, uint32_t, int32_t, AMO_CHOOSE(uint32_t, >))
AMO(AMOMAXU_D, uint64_t, int64_t, AMO_CHOOSE(uint64_t, >))

L_FENCE : atomic_thread_fence(memory_order_seq_cst);
NEXT(4);
L_FENCE_LIGHT : atomic_thread_fence(memory_order_acq_rel);
NEXT(4);

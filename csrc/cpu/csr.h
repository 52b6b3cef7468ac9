/* csr: control and status registers that are stored, their numbers and bits (privileged spec 1.12, table 2.x). */
#ifndef WH_CSR_H
#define WH_CSR_H

#include "base/base.h"

typedef struct wh_csrs {
    uint64_t mstatus, medeleg, mideleg, mie, mip; /* mip: software-writable part (STIP, SEIP) and Sstc's STIP */
    uint64_t mtvec, mscratch, mepc, mcause, mtval, mcounteren, menvcfg, mcountinhibit;
    uint64_t stvec, sscratch, sepc, scause, stval, scounteren, senvcfg, stimecmp, satp;
    uint64_t cycle_offset,
        instret_offset; /* counter = retired + offset; while inhibited the offset is the value itself */
} wh_csrs;

#define WH_MSTATUS_SIE  (1ull << 1)
#define WH_MSTATUS_MIE  (1ull << 3)
#define WH_MSTATUS_SPIE (1ull << 5)
#define WH_MSTATUS_MPIE (1ull << 7)
#define WH_MSTATUS_SPP  (1ull << 8)
#define WH_MSTATUS_MPP  (3ull << 11)
#define WH_MSTATUS_FS   (3ull << 13)
#define WH_MSTATUS_MPRV (1ull << 17)
#define WH_MSTATUS_SUM  (1ull << 18)
#define WH_MSTATUS_MXR  (1ull << 19)
#define WH_MSTATUS_TVM  (1ull << 20)
#define WH_MSTATUS_TW   (1ull << 21)
#define WH_MSTATUS_TSR  (1ull << 22)
#define WH_MSTATUS_UXL  (2ull << 32)
#define WH_MSTATUS_SXL  (2ull << 34)
#define WH_MSTATUS_SD   (1ull << 63)
#define WH_MSTATUS_WRITABLE                                                                                            \
    (WH_MSTATUS_SIE | WH_MSTATUS_MIE | WH_MSTATUS_SPIE | WH_MSTATUS_MPIE | WH_MSTATUS_SPP | WH_MSTATUS_MPP |           \
     WH_MSTATUS_FS | WH_MSTATUS_MPRV | WH_MSTATUS_SUM | WH_MSTATUS_MXR | WH_MSTATUS_TVM | WH_MSTATUS_TW |              \
     WH_MSTATUS_TSR)
#define WH_SSTATUS_WRITABLE                                                                                            \
    (WH_MSTATUS_SIE | WH_MSTATUS_SPIE | WH_MSTATUS_SPP | WH_MSTATUS_FS | WH_MSTATUS_SUM | WH_MSTATUS_MXR)
#define WH_SSTATUS_VISIBLE (WH_SSTATUS_WRITABLE | WH_MSTATUS_UXL | WH_MSTATUS_SD)

#define WH_IRQ_SSI      1
#define WH_IRQ_MSI      3
#define WH_IRQ_STI      5
#define WH_IRQ_MTI      7
#define WH_IRQ_SEI      9
#define WH_IRQ_MEI      11
#define WH_MIP(bit)     (1ull << WH_IRQ_##bit)
#define WH_IRQ_S_MASK   (WH_MIP(SSI) | WH_MIP(STI) | WH_MIP(SEI))
#define WH_IRQ_ALL      (WH_IRQ_S_MASK | WH_MIP(MSI) | WH_MIP(MTI) | WH_MIP(MEI))
#define WH_MEDELEG_MASK 0xb3ffull

#define WH_ENVCFG_FIOM   1ull
#define WH_ENVCFG_CBIE   (3ull << 4)
#define WH_ENVCFG_CBCFE  (1ull << 6)
#define WH_ENVCFG_CBZE   (1ull << 7)
#define WH_MENVCFG_ADUE  (1ull << 61)
#define WH_MENVCFG_PBMTE (1ull << 62)
#define WH_MENVCFG_STCE  (1ull << 63)

#define WH_MISA_B (1ull << 1) /* all of Zba, Zbb, Zbs */
#define WH_MISA                                                                                                        \
    ((2ull << 62) | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 12 | 1 << 18 | 1 << 20) /* IMAFDC S U */

enum {
    WH_CAUSE_ILLEGAL = 2,
    WH_CAUSE_BREAK = 3,
    WH_CAUSE_LOAD_MISALIGNED = 4,
    WH_CAUSE_STORE_MISALIGNED = 6,
    WH_CAUSE_ECALL_U = 8
};
#define WH_CAUSE_INTERRUPT (1ull << 63)

#endif

/* model: CPU models - what a hart of each has, and how a device tree names it. A guest keeps its model for life: the
 * state document carries the name, and a cluster fixes a baseline by it.
 *
 * Bits 24 and up are kept for the vector and hypervisor extensions (docs/decisions/0009-cpu-models.md says where their
 * encodings, registers and CSRs will go). */
#ifndef WH_MODEL_H
#define WH_MODEL_H

#include "base/base.h"

/* What a model may have or lack. IMAFDC, Zicsr, Zifencei, Zicntr, Zihpm and hints are in every one. */
enum wh_isa {
    WH_ISA_ZB = 1 << 0, /* Zba Zbb Zbs */
    WH_ISA_ZICBOM = 1 << 1,
    WH_ISA_ZICBOZ = 1 << 2,
    WH_ISA_ZFHMIN = 1 << 3,
    WH_ISA_ZFA = 1 << 4,
    WH_ISA_ZICOND = 1 << 5,
    WH_ISA_ZCB = 1 << 6,
    WH_ISA_ZAWRS = 1 << 7,
    WH_ISA_ZACAS = 1 << 8,
    WH_ISA_ZIMOP = 1 << 9, /* Zimop Zcmop */
    WH_ISA_SVINVAL = 1 << 10,
    WH_ISA_SVPBMT = 1 << 11,
    WH_ISA_SVNAPOT = 1 << 12,
    WH_ISA_SVADU = 1 << 13, /* without it A and D are always set by the walker, and no document promises that */
    WH_ISA_SSTC = 1 << 14,
    WH_ISA_ALL = (1 << 15) - 1
};

#define WH_CACHE_BLOCK 64u /* Zic64b; Zicbom, Zicbop and Zicboz work on this */

/* model: enum wh_cpu_model; every function below wants a known one. */
bool wh_cpu_model_known(uint32_t model);
uint32_t wh_cpu_model_isa(uint32_t model); /* enum wh_isa bits */
const char *wh_cpu_model_name(uint32_t model);

/* The nth name for riscv,isa-extensions, or NULL after the last. svade: A and D are left to software when S-mode
 * starts (firmware boot), so that both Svade and Svadu are there and menvcfg.ADUE chooses. */
const char *wh_cpu_extension(uint32_t model, bool svade, unsigned n);
/* riscv,isa of the same into text; cap of WH_ISA_TEXT is always enough. */
#define WH_ISA_TEXT 512u
void wh_cpu_isa_text(uint32_t model, bool svade, char text[WH_ISA_TEXT]);
const char *wh_cpu_mmu_type(void); /* "riscv,sv57" */

#endif

/* The table of extensions, and the filter that makes an instruction illegal on a model that lacks its extension. */
#include "cpu/model.h"

#include "cpu/insn.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t isa;
} models[] = {
    [WH_CPU_RVA22] = {"rva22", WH_ISA_ALL},
    [WH_CPU_RV64GC] = {"rv64gc", 0},
};

bool wh_cpu_model_known(uint32_t model)
{
    return model < WH_ARRAY_LEN(models);
}

uint32_t wh_cpu_model_isa(uint32_t model)
{
    return models[model].isa;
}

const char *wh_cpu_model_name(uint32_t model)
{
    return models[model].name;
}

/* In the canonical order of ISA strings: single letters, Z by the category of the second letter, S. Names that only
 * state a fact (Za64rs, Zic64b, Ziccif ...) are listed where they are true of this machine. Zkt is not: a host's
 * multiplication may take a time that depends on its operands. */
#define ALWAYS 0u
#define SVADE  (1u << 31)
static const struct {
    const char *name;
    uint32_t needs;
} extensions[] = {
    {"i", ALWAYS},
    {"m", ALWAYS},
    {"a", ALWAYS},
    {"f", ALWAYS},
    {"d", ALWAYS},
    {"c", ALWAYS},
    {"zic64b", WH_ISA_ZICBOM},
    {"zicbom", WH_ISA_ZICBOM},
    {"zicbop", WH_ISA_ZICBOM},
    {"zicboz", WH_ISA_ZICBOZ},
    {"ziccamoa", WH_ISA_ZICBOM},
    {"ziccif", WH_ISA_ZICBOM},
    {"zicclsm", WH_ISA_ZICBOM},
    {"ziccrse", WH_ISA_ZICBOM},
    {"zicntr", ALWAYS},
    {"zicond", WH_ISA_ZICOND},
    {"zicsr", ALWAYS},
    {"zifencei", ALWAYS},
    {"zihintntl", WH_ISA_ZICBOM},
    {"zihintpause", WH_ISA_ZICBOM},
    {"zihpm", ALWAYS},
    {"zimop", WH_ISA_ZIMOP},
    {"za64rs", WH_ISA_ZICBOM},
    {"zaamo", WH_ISA_ZACAS},
    {"zacas", WH_ISA_ZACAS},
    {"zalrsc", WH_ISA_ZACAS},
    {"zawrs", WH_ISA_ZAWRS},
    {"zfa", WH_ISA_ZFA},
    {"zfhmin", WH_ISA_ZFHMIN},
    {"zca", WH_ISA_ZCB},
    {"zcb", WH_ISA_ZCB},
    {"zcd", WH_ISA_ZCB},
    {"zcmop", WH_ISA_ZIMOP},
    {"zba", WH_ISA_ZB},
    {"zbb", WH_ISA_ZB},
    {"zbs", WH_ISA_ZB},
    {"ssccptr", WH_ISA_ZICBOM},
    {"sscounterenw", WH_ISA_ZICBOM},
    {"sstc", WH_ISA_SSTC},
    {"sstvala", WH_ISA_ZICBOM},
    {"sstvecd", WH_ISA_ZICBOM},
    {"svade", SVADE},
    {"svadu", WH_ISA_SVADU},
    {"svbare", WH_ISA_ZICBOM},
    {"svinval", WH_ISA_SVINVAL},
    {"svnapot", WH_ISA_SVNAPOT},
    {"svpbmt", WH_ISA_SVPBMT},
};

const char *wh_cpu_extension(uint32_t model, bool svade, unsigned n)
{
    uint32_t has = models[model].isa;
    if (svade && (has & WH_ISA_SVADU))
        has |= SVADE;
    for (size_t i = 0; i < WH_ARRAY_LEN(extensions); i++)
        if ((extensions[i].needs & ~has) == 0 && n-- == 0)
            return extensions[i].name;
    return NULL;
}

void wh_cpu_isa_text(uint32_t model, bool svade, char text[WH_ISA_TEXT])
{
    const char *name;
    size_t at = (size_t)snprintf(text, WH_ISA_TEXT, "rv64");
    for (unsigned n = 0; (name = wh_cpu_extension(model, svade, n)) != NULL; n++)
        at += (size_t)snprintf(text + at, WH_ISA_TEXT - at, "%s%s", name[1] != '\0' ? "_" : "", name);
}

const char *wh_cpu_mmu_type(void)
{
    return "riscv,sv57";
}

static uint32_t float_needs(const wh_insn *i)
{
    switch (WH_FP_OP(i->imm)) {
    case WH_FP_FROM_H:
    case WH_FP_TO_H:
        return WH_ISA_ZFHMIN;
    case WH_FP_MINM:
    case WH_FP_MAXM:
    case WH_FP_ROUND:
    case WH_FP_ROUNDNX:
    case WH_FP_LEQ:
    case WH_FP_LTQ:
    case WH_FP_LI:
    case WH_FP_TO_W_MOD:
        return WH_ISA_ZFA;
    default:
        return 0;
    }
}

static uint32_t word_needs(uint32_t bits, const wh_insn *i)
{
    if (i->op >= WH_OP_ADD_UW && i->op <= WH_OP_BSETI) /* the order of WH_OPS */
        return WH_ISA_ZB;
    switch (i->op) {
    case WH_OP_FP_SLOW:
        return float_needs(i);
    case WH_OP_FLH:
    case WH_OP_FSH:
    case WH_OP_FMV_X_H:
    case WH_OP_FMV_H_X:
        return WH_ISA_ZFHMIN;
    case WH_OP_SFENCE_VMA:
        return bits >> 25 == 0x0b ? WH_ISA_SVINVAL : 0; /* sinval.vma */
    case WH_OP_SFENCE_ORDER:
        return WH_ISA_SVINVAL;
    case WH_OP_CZERO_EQZ:
    case WH_OP_CZERO_NEZ:
        return WH_ISA_ZICOND;
    case WH_OP_CBO:
        return i->imm == WH_CBO_ZERO ? WH_ISA_ZICBOZ : WH_ISA_ZICBOM;
    case WH_OP_WRS:
        return WH_ISA_ZAWRS;
    case WH_OP_AMOCAS_W:
    case WH_OP_AMOCAS_D:
    case WH_OP_AMOCAS_Q:
        return WH_ISA_ZACAS;
    case WH_OP_MOP:
        return WH_ISA_ZIMOP;
    default:
        return 0;
    }
}

/* Zcb fills quadrant 0's funct3 100 and the end of the arithmetic group of quadrant 1; Zcmop is c.lui of an odd
 * register below 16 by zero. */
static uint32_t half_needs(uint32_t bits)
{
    if ((bits & 0xe003) == 0x8000 || (bits & 0xfc43) == 0x9c41)
        return WH_ISA_ZCB;
    return (bits & 0xf8ff) == 0x6081 ? WH_ISA_ZIMOP : 0;
}

unsigned wh_decode_for(uint32_t isa, uint32_t bits, uint32_t offset, wh_insn *out)
{
    unsigned length = wh_decode(bits, offset, out);
    if (isa == WH_ISA_ALL || out->op == WH_OP_ILLEGAL)
        return length;
    uint32_t needs = length == 2 ? half_needs(bits) : word_needs(bits, out);
    if (needs & ~isa)
        *out = (wh_insn){.op = WH_OP_ILLEGAL, .imm = (int32_t)(length == 2 ? bits & 0xffff : bits)};
    return length;
}

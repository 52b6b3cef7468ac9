/* interp: what the interpreter's variants share (interp_run.h is their loop). Private to cpu/. */
#ifndef WH_INTERP_H
#define WH_INTERP_H

#include "cpu/alu.h"
#include "cpu/hart.h"
#include "cpu/hostfp.h"
#include "cpu/softfp.h"
#include "memory/live.h"

#include <string.h>

static inline wh_code_page *wh_page_of(wh_insn *first)
{
    return (wh_code_page *)(void *)((char *)first - offsetof(wh_code_page, insn));
}

/* interp.c */
/* Decode the one instruction at pc into h->single. 0, or a trap cause with trap_value set. */
int wh_enter_single(wh_hart *h);
/* The usual case of an instruction across two pages: both have their code page at hand. */
bool wh_enter_split(wh_hart *h, wh_insn *ip);
/* Find pc's code page after a miss of the fetch TLB. 0 with *first (NULL: h->single was filled), or a trap cause. */
int wh_enter_page(wh_hart *h, wh_insn **first);
void wh_sfence_vma(wh_hart *h, const wh_insn *i);

#endif

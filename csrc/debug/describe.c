/* target.xml: what registers a hart has (GDB manual, "Target Descriptions", "RISC-V Features"). */
#include "debug/gdb.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    uint16_t number;
    char name[14];
} csrs[] = {
    {0x001, "fflags"},    {0x002, "frm"},        {0x003, "fcsr"},      {0x100, "sstatus"},       {0x104, "sie"},
    {0x105, "stvec"},     {0x106, "scounteren"}, {0x10a, "senvcfg"},   {0x140, "sscratch"},      {0x141, "sepc"},
    {0x142, "scause"},    {0x143, "stval"},      {0x144, "sip"},       {0x14d, "stimecmp"},      {0x180, "satp"},
    {0x300, "mstatus"},   {0x301, "misa"},       {0x302, "medeleg"},   {0x303, "mideleg"},       {0x304, "mie"},
    {0x305, "mtvec"},     {0x306, "mcounteren"}, {0x30a, "menvcfg"},   {0x320, "mcountinhibit"}, {0x340, "mscratch"},
    {0x341, "mepc"},      {0x342, "mcause"},     {0x343, "mtval"},     {0x344, "mip"},           {0x3a0, "pmpcfg0"},
    {0x3a2, "pmpcfg2"},   {0x3b0, "pmpaddr0"},   {0x3b1, "pmpaddr1"},  {0x3b2, "pmpaddr2"},      {0x3b3, "pmpaddr3"},
    {0x3b4, "pmpaddr4"},  {0x3b5, "pmpaddr5"},   {0x3b6, "pmpaddr6"},  {0x3b7, "pmpaddr7"},      {0x3b8, "pmpaddr8"},
    {0x3b9, "pmpaddr9"},  {0x3ba, "pmpaddr10"},  {0x3bb, "pmpaddr11"}, {0x3bc, "pmpaddr12"},     {0x3bd, "pmpaddr13"},
    {0x3be, "pmpaddr14"}, {0x3bf, "pmpaddr15"},  {0xb00, "mcycle"},    {0xb02, "minstret"},      {0xc00, "cycle"},
    {0xc01, "time"},      {0xc02, "instret"},    {0xf11, "mvendorid"}, {0xf12, "marchid"},       {0xf13, "mimpid"},
    {0xf14, "mhartid"},   {0xf15, "mconfigptr"},
};

static const char *const x_names[32] = {"zero", "ra", "sp", "gp", "tp",  "t0",  "t1", "t2", "fp", "s1", "a0",
                                        "a1",   "a2", "a3", "a4", "a5",  "a6",  "a7", "s2", "s3", "s4", "s5",
                                        "s6",   "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6"};
static const char *const f_names[32] = {"ft0", "ft1", "ft2", "ft3", "ft4",  "ft5",  "ft6", "ft7", "fs0",  "fs1", "fa0",
                                        "fa1", "fa2", "fa3", "fa4", "fa5",  "fa6",  "fa7", "fs2", "fs3",  "fs4", "fs5",
                                        "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11"};

static void registers(FILE *f)
{
    fputs("<feature name=\"org.gnu.gdb.riscv.cpu\">", f);
    for (unsigned i = 0; i < 32; i++)
        fprintf(f, "<reg name=\"%s\" bitsize=\"64\" type=\"%s\" regnum=\"%u\"/>", x_names[i],
                i == 1             ? "code_ptr"
                : i >= 2 && i <= 4 ? "data_ptr"
                                   : "int",
                i);
    fprintf(f, "<reg name=\"pc\" bitsize=\"64\" type=\"code_ptr\" regnum=\"%u\"/></feature>", (unsigned)WH_GDB_PC);
    fputs("<feature name=\"org.gnu.gdb.riscv.fpu\"><union id=\"riscv_double\">"
          "<field name=\"float\" type=\"ieee_single\"/><field name=\"double\" type=\"ieee_double\"/></union>",
          f);
    for (unsigned i = 0; i < 32; i++)
        fprintf(f, "<reg name=\"%s\" bitsize=\"64\" type=\"riscv_double\" group=\"float\" regnum=\"%u\"/>", f_names[i],
                WH_GDB_F0 + i);
    fputs("</feature>", f);
}

/* Those of the known ones that this hart answers for. */
static void control_registers(FILE *f, wh_hart *h)
{
    fputs("<feature name=\"org.gnu.gdb.riscv.csr\">", f);
    for (size_t i = 0; i < WH_ARRAY_LEN(csrs); i++) {
        uint64_t value;
        if (wh_hart_get_csr(h, csrs[i].number, &value))
            fprintf(f, "<reg name=\"%s\" bitsize=\"64\" type=\"uint64\" regnum=\"%u\" group=\"system\"/>", csrs[i].name,
                    (unsigned)(WH_GDB_CSR0 + csrs[i].number));
    }
    fprintf(f,
            "</feature><feature name=\"org.gnu.gdb.riscv.virtual\"><reg name=\"priv\" bitsize=\"64\" regnum=\"%u\"/>"
            "</feature>",
            (unsigned)WH_GDB_PRIV);
}

char *wh_gdb_describe(wh_hart *h)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (f == NULL)
        return NULL;
    fputs("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">"
          "<architecture>riscv:rv64</architecture>",
          f);
    registers(f);
    control_registers(f, h);
    fputs("</target>", f);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

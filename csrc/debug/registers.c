/* Registers by the numbers of target.xml; all are 64 bits wide and travel in little-endian byte order. */
#include "debug/gdb.h"

#include <errno.h>

static bool read_register(wh_hart *h, uint64_t number, uint64_t *value)
{
    if (number < 32)
        *value = wh_hart_get_x(h, (unsigned)number);
    else if (number == WH_GDB_PC)
        *value = wh_hart_get_pc(h);
    else if (number < WH_GDB_CSR0)
        *value = wh_hart_get_f(h, (unsigned)number - WH_GDB_F0);
    else if (number < WH_GDB_PRIV)
        return wh_hart_get_csr(h, (unsigned)number - WH_GDB_CSR0, value);
    else if (number == WH_GDB_PRIV)
        *value = wh_hart_privilege(h);
    else
        return false;
    return true;
}

static bool write_register(wh_hart *h, uint64_t number, uint64_t value)
{
    if (number < 32)
        wh_hart_set_x(h, (unsigned)number, value);
    else if (number == WH_GDB_PC)
        wh_hart_set_pc(h, value);
    else if (number < WH_GDB_CSR0)
        wh_hart_set_f(h, (unsigned)number - WH_GDB_F0, value);
    else if (number < WH_GDB_PRIV)
        return wh_hart_set_csr(h, (unsigned)number - WH_GDB_CSR0, value);
    else if (number == WH_GDB_PRIV)
        return wh_hart_set_privilege(h, (unsigned)(value & 0xff)) == WH_OK;
    else
        return false;
    return true;
}

/* x0-x31 and pc; the rest is asked for one by one. */
void wh_gdb_read_all(wh_gdb *g)
{
    for (unsigned i = 0; i <= WH_GDB_PC; i++) {
        uint64_t value = 0;
        (void)read_register(wh_gdb_hart(g), i, &value);
        wh_rsp_hex(&g->out, &value, sizeof value);
    }
}

void wh_gdb_write_all(wh_gdb *g, wh_rsp_in *in)
{
    uint64_t values[WH_GDB_PC + 1];
    if (!wh_rsp_unhex(in, values, sizeof values)) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    for (unsigned i = 0; i <= WH_GDB_PC; i++)
        (void)write_register(wh_gdb_hart(g), i, values[i]);
    wh_gdb_ok(g);
}

void wh_gdb_read_one(wh_gdb *g, wh_rsp_in *in)
{
    uint64_t number, value;
    if (!wh_rsp_number(in, &number) || !read_register(wh_gdb_hart(g), number, &value))
        wh_gdb_error(g, EINVAL);
    else
        wh_rsp_hex(&g->out, &value, sizeof value);
}

void wh_gdb_write_one(wh_gdb *g, wh_rsp_in *in)
{
    uint64_t number, value;
    if (!wh_rsp_number(in, &number) || !wh_rsp_char(in, '=') || !wh_rsp_unhex(in, &value, sizeof value) ||
        !write_register(wh_gdb_hart(g), number, value))
        wh_gdb_error(g, EINVAL);
    else
        wh_gdb_ok(g);
}

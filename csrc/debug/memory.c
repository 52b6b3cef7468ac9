/* Guest memory for the debugger: RAM by virtual address as the chosen hart sees it now, whatever the rights of a page,
 * or by physical address. Devices are not read: that would change them. */
#include "debug/gdb.h"

#include <errno.h>
#include <string.h>

/* The RAM at address, as much of len as lies in its page; NULL: none there. */
static uint8_t *piece(wh_gdb *g, uint64_t address, size_t *len, uint64_t *pa)
{
    size_t room = WH_PAGE_SIZE - (size_t)(address & (WH_PAGE_SIZE - 1));
    *len = *len < room ? *len : room;
    *pa = address;
    if (!g->physical && !wh_hart_probe(wh_gdb_hart(g), address, pa))
        return NULL;
    return wh_ram_at(wh_machine_ram(g->machine), *pa, *len);
}

static bool range(wh_rsp_in *in, uint64_t *address, uint64_t *len)
{
    return wh_rsp_number(in, address) && wh_rsp_char(in, ',') && wh_rsp_number(in, len) && *len <= WH_RSP_MAX;
}

void wh_gdb_read_memory(wh_gdb *g, wh_rsp_in *in)
{
    uint64_t address, len, pa;
    if (!range(in, &address, &len) || len > WH_RSP_MAX / 2) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    while (len > 0) {
        size_t part = (size_t)len;
        const uint8_t *at = piece(g, address, &part, &pa);
        if (at == NULL)
            break;
        wh_rsp_hex(&g->out, at, part);
        address += part;
        len -= part;
    }
    if (len > 0 && g->out.len == 0)
        wh_gdb_error(g, EFAULT); /* what was readable before a hole is an answer */
}

/* Whole or not at all. */
static bool write_bytes(wh_gdb *g, uint64_t address, const uint8_t *from, uint64_t len)
{
    uint64_t pa, at = address;
    for (uint64_t left = len; left > 0;) {
        size_t part = (size_t)left;
        if (piece(g, at, &part, &pa) == NULL)
            return false;
        at += part;
        left -= part;
    }
    for (at = address; len > 0;) {
        size_t part = (size_t)len;
        memcpy(piece(g, at, &part, &pa), from, part);
        wh_ram_mark_dirty(wh_machine_ram(g->machine), pa);
        at += part;
        from += part;
        len -= part;
    }
    return true;
}

void wh_gdb_write_memory(wh_gdb *g, wh_rsp_in *in, bool binary)
{
    uint8_t bytes[WH_RSP_MAX];
    uint64_t address, len;
    bool right = range(in, &address, &len) && wh_rsp_char(in, ':');
    if (right && binary) {
        right = (uint64_t)(in->end - in->at) == len;
        if (right)
            memcpy(bytes, in->at, (size_t)len);
    } else if (right) {
        right = wh_rsp_unhex(in, bytes, (size_t)len);
    }
    if (!right) {
        wh_gdb_error(g, EINVAL);
        return;
    }
    if (!write_bytes(g, address, bytes, len)) {
        wh_gdb_error(g, EFAULT);
        return;
    }
    for (unsigned i = 0; i < wh_debug_hart_count(g->machine); i++)
        wh_hart_code_written(wh_machine_hart(g->machine, i));
    wh_gdb_ok(g);
}

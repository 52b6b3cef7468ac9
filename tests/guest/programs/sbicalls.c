/* SBI calls with good and bad arguments; prints what came back. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

static void call(const char *name, struct sbiret r)
{
    put(name);
    put("=");
    put_number(r.error);
    put(",");
    put_number(r.value);
    put("\n");
}

uint64_t main(uint64_t hart, uint64_t opaque)
{
    static char buffer[16];
    (void)hart, (void)opaque;
    call("spec", sbi(EXT_BASE, 0, 0, 0, 0));
    call("probe_time", sbi(EXT_BASE, 3, EXT_TIME, 0, 0));
    call("probe_pmu", sbi(EXT_BASE, 3, 0x504d55, 0, 0));
    call("base_99", sbi(EXT_BASE, 99, 0, 0, 0));
    call("unknown", sbi(0x12345678, 0, 0, 0, 0));
    call("status_0", sbi(EXT_HSM, 2, 0, 0, 0));
    call("status_1", sbi(EXT_HSM, 2, 1, 0, 0));
    call("status_9", sbi(EXT_HSM, 2, 9, 0, 0));
    call("start_self", sbi(EXT_HSM, 0, 0, 0x80200000, 0));
    call("start_bad_address", sbi(EXT_HSM, 0, 1, 0x1000, 0));
    call("start_bad_hart", sbi(EXT_HSM, 0, 64, 0x80200000, 0));
    call("suspend_reserved", sbi(EXT_HSM, 3, 1, 0, 0));
    call("ipi_bad_base", sbi(EXT_IPI, 0, 1, 2, 0));
    call("ipi_bad_mask", sbi(EXT_IPI, 0, 4, 0, 0));
    call("ipi_overflow", sbi(EXT_IPI, 0, 1ul << 63, 1, 0));
    call("fence_all", sbi(EXT_RFENCE, 0, 0, -1ul, 0));
    call("sfence_all", sbi(EXT_RFENCE, 1, 3, 0, 0));
    call("hfence", sbi(EXT_RFENCE, 3, 1, 0, 0));
    call("srst_bad", sbi(EXT_SRST, 0, 7, 0, 0));
    call("write_outside", sbi(EXT_DBCN, 0, 16, 0x1000, 0));
    call("write_wraps", sbi(EXT_DBCN, 0, -1ul, (uint64_t)buffer, 0));
    call("write_high", sbi(EXT_DBCN, 0, 1, (uint64_t)buffer, 1));
    call("read_nothing", sbi(EXT_DBCN, 1, sizeof buffer, (uint64_t)buffer, 0));
    call("read_outside", sbi(EXT_DBCN, 1, 16, 0x7ffffff8, 0));
    return 0;
}

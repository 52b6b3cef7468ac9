/* UART and debug console output; tells what direct boot left in the registers; ends by SRST. */
#include "rt.h"
FINISH_WITH_ZERO
NO_TRAPS

uint64_t main(uint64_t hart, uint64_t opaque)
{
    static const char text[] = "hello from dbcn\n";
    put("hello from uart\n");
    struct sbiret r = sbi(EXT_DBCN, 0, sizeof text - 1, (uint64_t)text, 0);
    tell("dbcn", r.error * 100 + r.value);
    sbi(EXT_DBCN, 2, '*', 0, 0);
    put("\n");
    tell("hart", (long)hart);
    tell("fdt", *(volatile uint32_t *)opaque == 0xedfe0dd0);
    tell("satp", (long)CSR_READ(satp));
    sbi(EXT_SRST, 0, 0, 0, 0);
    return 0;
}

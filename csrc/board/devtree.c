/* The device tree of this machine: nodes and names as Linux, OpenSBI and U-Boot know them from QEMU's virt board. */
#include "board/fdt.h"
#include "board/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PHANDLE_PLIC = 1, PHANDLE_TEST = 2, PHANDLE_CPU_INTC = 16 /* + hart */ };

static void chosen_node(wh_fdt *f, const wh_machine *m, const wh_devtree *t)
{
    wh_fdt_begin(f, "chosen");
    if (t->cmdline)
        wh_fdt_str(f, "bootargs", t->cmdline);
    wh_fdt_str(f, "stdout-path", "/soc/serial@10000000");
    if (t->initrd_end > t->initrd_start) {
        wh_fdt_u64(f, "linux,initrd-start", t->initrd_start);
        wh_fdt_u64(f, "linux,initrd-end", t->initrd_end);
    }
    wh_fdt_prop(f, "kaslr-seed", m->seed, 8);
    wh_fdt_prop(f, "rng-seed", m->seed + 8, 32);
    wh_fdt_end(f);
}

static void isa_properties(wh_fdt *f, const wh_machine *m)
{
    uint32_t model = m->config.cpu, isa = wh_cpu_model_isa(model);
    bool svade = !m->cpu_env.direct_boot; /* reset leaves menvcfg.ADUE off; our SBI turns it on */
    char text[WH_ISA_TEXT], list[WH_ISA_TEXT];
    size_t len = 0;
    wh_cpu_isa_text(model, svade, text);
    wh_fdt_str(f, "riscv,isa", text);
    wh_fdt_str(f, "riscv,isa-base", "rv64i");
    const char *name;
    for (unsigned n = 0; (name = wh_cpu_extension(model, svade, n)) != NULL; n++) {
        memcpy(list + len, name, strlen(name) + 1);
        len += strlen(name) + 1; /* no more than text: each name has a separator there, too, or is one letter */
    }
    wh_fdt_prop(f, "riscv,isa-extensions", list, len);
    if (isa & WH_ISA_ZICBOM) {
        wh_fdt_u32(f, "riscv,cbom-block-size", WH_CACHE_BLOCK);
        wh_fdt_u32(f, "riscv,cbop-block-size", WH_CACHE_BLOCK);
    }
    if (isa & WH_ISA_ZICBOZ)
        wh_fdt_u32(f, "riscv,cboz-block-size", WH_CACHE_BLOCK);
    wh_fdt_str(f, "mmu-type", wh_cpu_mmu_type());
}

static void cpu_node(wh_fdt *f, const wh_machine *m, unsigned hart)
{
    wh_fdt_begin(f, "cpu@%x", hart);
    wh_fdt_str(f, "device_type", "cpu");
    wh_fdt_u32(f, "reg", hart);
    wh_fdt_str(f, "status", "okay");
    wh_fdt_str(f, "compatible", "riscv");
    isa_properties(f, m);
    wh_fdt_begin(f, "interrupt-controller");
    wh_fdt_u32(f, "#interrupt-cells", 1);
    wh_fdt_empty(f, "interrupt-controller");
    wh_fdt_str(f, "compatible", "riscv,cpu-intc");
    wh_fdt_u32(f, "phandle", PHANDLE_CPU_INTC + hart);
    wh_fdt_end(f);
    wh_fdt_end(f);
}

static void cpu_nodes(wh_fdt *f, const wh_machine *m)
{
    wh_fdt_begin(f, "cpus");
    wh_fdt_u32(f, "#address-cells", 1);
    wh_fdt_u32(f, "#size-cells", 0);
    wh_fdt_u32(f, "timebase-frequency", (uint32_t)WH_TIMEBASE_HZ);
    for (unsigned i = 0; i < m->config.harts; i++)
        cpu_node(f, m, i);
    wh_fdt_end(f);
}

/* interrupts-extended: for each hart, its controller with cause `first` and `second`. */
static void to_harts(wh_fdt *f, const wh_machine *m, uint32_t first, uint32_t second)
{
    uint32_t cells[4 * WH_MAX_HARTS];
    for (unsigned i = 0; i < m->config.harts; i++) {
        cells[4 * i] = cells[4 * i + 2] = PHANDLE_CPU_INTC + i;
        cells[4 * i + 1] = first;
        cells[4 * i + 3] = second;
    }
    wh_fdt_cells(f, "interrupts-extended", cells, 4u * m->config.harts);
}

static void interrupt_nodes(wh_fdt *f, const wh_machine *m)
{
    if (!m->cpu_env.direct_boot) { /* the SBI owns it otherwise, and here that is us */
        wh_fdt_begin(f, "clint@2000000");
        wh_fdt_strs(f, "compatible", "sifive,clint0\0riscv,clint0", sizeof "sifive,clint0\0riscv,clint0" - 1);
        wh_fdt_reg(f, WH_ACLINT_BASE, WH_ACLINT_SIZE);
        to_harts(f, m, 3, 7);
        wh_fdt_end(f);
    }
    wh_fdt_begin(f, "plic@c000000");
    wh_fdt_strs(f, "compatible", "sifive,plic-1.0.0\0riscv,plic0", sizeof "sifive,plic-1.0.0\0riscv,plic0" - 1);
    wh_fdt_u32(f, "#address-cells", 0);
    wh_fdt_u32(f, "#interrupt-cells", 1);
    wh_fdt_empty(f, "interrupt-controller");
    wh_fdt_reg(f, WH_PLIC_BASE, WH_PLIC_SIZE);
    wh_fdt_u32(f, "riscv,ndev", WH_PLIC_SOURCES - 1);
    to_harts(f, m, 11, 9);
    wh_fdt_u32(f, "phandle", PHANDLE_PLIC);
    wh_fdt_end(f);
}

static void begin_device(wh_fdt *f, const char *name, const char *compatible, uint64_t base, uint64_t size,
                         uint32_t irq)
{
    wh_fdt_begin(f, "%s@%llx", name, (unsigned long long)base);
    wh_fdt_str(f, "compatible", compatible);
    wh_fdt_reg(f, base, size);
    wh_fdt_u32(f, "interrupt-parent", PHANDLE_PLIC);
    wh_fdt_u32(f, "interrupts", irq);
}

static void soc_node(wh_fdt *f, const wh_machine *m)
{
    static const char test[] = "sifive,test1\0sifive,test0\0syscon";
    wh_fdt_begin(f, "soc");
    wh_fdt_u32(f, "#address-cells", 2);
    wh_fdt_u32(f, "#size-cells", 2);
    wh_fdt_str(f, "compatible", "simple-bus");
    wh_fdt_empty(f, "ranges");
    interrupt_nodes(f, m);
    begin_device(f, "serial", "ns16550a", WH_UART_BASE, WH_UART_SIZE, WH_UART_IRQ);
    wh_fdt_u32(f, "clock-frequency", 3686400);
    wh_fdt_end(f);
    begin_device(f, "rtc", "google,goldfish-rtc", WH_RTC_BASE, WH_RTC_SIZE, WH_RTC_IRQ);
    wh_fdt_end(f);
    for (unsigned i = 0; i < WH_VIRTIO_SLOTS; i++) {
        begin_device(f, "virtio_mmio", "virtio,mmio", WH_VIRTIO_BASE + (uint64_t)i * WH_VIRTIO_MMIO_SIZE,
                     WH_VIRTIO_MMIO_SIZE, WH_VIRTIO_IRQ + i);
        wh_fdt_end(f);
    }
    wh_fdt_begin(f, "test@100000");
    wh_fdt_strs(f, "compatible", test, sizeof test - 1);
    wh_fdt_reg(f, WH_FINISHER_BASE, WH_FINISHER_SIZE);
    wh_fdt_u32(f, "phandle", PHANDLE_TEST);
    wh_fdt_end(f);
    wh_fdt_end(f);
}

static void syscon_node(wh_fdt *f, const char *name, const char *compatible, uint32_t value)
{
    wh_fdt_begin(f, "%s", name);
    wh_fdt_str(f, "compatible", compatible);
    wh_fdt_u32(f, "regmap", PHANDLE_TEST);
    wh_fdt_u32(f, "offset", 0);
    wh_fdt_u32(f, "value", value);
    wh_fdt_end(f);
}

int wh_devtree_make(wh_machine *m, const wh_devtree *t, uint8_t **blob, size_t *len)
{
    wh_fdt f;
    wh_fdt_init(&f);
    wh_fdt_begin(&f, "%s", "");
    wh_fdt_u32(&f, "#address-cells", 2);
    wh_fdt_u32(&f, "#size-cells", 2);
    wh_fdt_str(&f, "compatible", "riscv-virtio");
    wh_fdt_str(&f, "model", "wherry,virt");
    chosen_node(&f, m, t);
    cpu_nodes(&f, m);
    wh_fdt_begin(&f, "memory@80000000");
    wh_fdt_str(&f, "device_type", "memory");
    wh_fdt_reg(&f, WH_RAM_BASE, m->ram.bytes);
    wh_fdt_end(&f);
    soc_node(&f, m);
    syscon_node(&f, "poweroff", "syscon-poweroff", 0x5555);
    syscon_node(&f, "reboot", "syscon-reboot", 0x7777);
    wh_fdt_end(&f);
    return wh_fdt_finish(&f, blob, len);
}

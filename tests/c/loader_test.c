/* The loaders and the device tree they leave in memory; damaged images and firmware under the sanitizers. */
#include "board_machine.h"

#include <elf.h>

static const uint32_t nothing[] = {0x0000006f}; /* j . */

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static const uint8_t *find(const uint8_t *blob, size_t len, const char *text, size_t n)
{
    return memmem(blob, len, text, n);
}

static void test_linux_layout(void)
{
    wh_machine *m = machine(64 * MIB, 2, WH_BOOT_LINUX);
    uint8_t image[256];
    size_t len = make_image(image, nothing, 1);
    int kernel = file_of(image, len), initrd = file_of("initrd bytes", 12);
    wh_error err;
    CHECK(!wh_machine_load_linux(m, kernel, initrd, "console=ttyS0 quiet", &err));
    CHECK(!memcmp(m->ram.host + 0x200000, image, len));
    const uint8_t *tree = m->ram.host + 62 * MIB;
    size_t total = be32(tree + 4);
    CHECK(be32(tree) == 0xd00dfeed && total < 16384 && m->hart[0].start_opaque == WH_RAM_BASE + 62 * MIB);
    CHECK(!memcmp(m->ram.host + 62 * MIB - 4096, "initrd bytes", 12));
    CHECK(find(tree, total, "console=ttyS0 quiet", 20) && find(tree, total, "linux,initrd-start", 19));
    CHECK(find(tree, total, "cpu@1", 6) && !find(tree, total, "cpu@2", 6) && !find(tree, total, "clint", 5));
    char isa[WH_ISA_TEXT];
    wh_cpu_isa_text(WH_CPU_RVA22, false, isa);
    CHECK(find(tree, total, "virtio_mmio@10008000", 21) && find(tree, total, isa, strlen(isa) + 1));
    CHECK(strstr(isa, "_zicbom_") && strstr(isa, "_svadu_") && !strstr(isa, "_svade"));
    CHECK(find(tree, total, "riscv,cbom-block-size", 22) && find(tree, total, "riscv,cboz-block-size", 22));
    CHECK(m->hart[0].hsm == WH_HSM_START_PENDING && m->hart[1].hsm == WH_HSM_STOPPED);
    uint8_t first[16384];
    memcpy(first, tree, sizeof first);
    wh_machine_free(m);
    m = machine(64 * MIB, 2, WH_BOOT_LINUX); /* seeded machines have the same tree */
    CHECK(!wh_machine_load_linux(m, kernel, initrd, "console=ttyS0 quiet", &err));
    CHECK(!memcmp(first, m->ram.host + 62 * MIB, sizeof first));
    wh_machine_free(m);
    close(kernel);
    close(initrd);
}

static void test_refusals(void)
{
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
    wh_error err;
    int pipes[2], good = file_of("x", 1);
    CHECK(!pipe(pipes));
    CHECK(wh_machine_load_linux(m, pipes[0], -1, NULL, &err) == WH_E_INVAL && !strcmp(err.field, "kernel"));
    CHECK(wh_machine_load_linux(m, -1, -1, NULL, &err) == WH_E_IO && !strcmp(err.field, "kernel"));
    CHECK(wh_machine_load_linux(m, good, -1, NULL, &err) == WH_E_FORMAT);
    CHECK(wh_machine_load_firmware(m, good, &err) == WH_E_INVAL && !strcmp(err.field, "boot"));
    CHECK(wh_machine_start(m, &err) == WH_E_STATE);
    close(pipes[0]);
    close(pipes[1]);
    close(good);
    wh_machine_free(m);
}

static size_t make_elf(uint8_t *out, uint64_t pa, uint64_t filesz, uint64_t memsz, uint64_t entry)
{
    Elf64_Ehdr eh = {
        .e_machine = EM_RISCV, .e_entry = entry, .e_phoff = sizeof eh, .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1};
    memcpy(eh.e_ident,
           "\x7f"
           "ELF\2\1\1",
           7);
    Elf64_Phdr ph = {
        .p_type = PT_LOAD, .p_offset = 0x100, .p_paddr = pa, .p_vaddr = pa, .p_filesz = filesz, .p_memsz = memsz};
    memset(out, 0x13, 0x200);
    memcpy(out, &eh, sizeof eh);
    memcpy(out + sizeof eh, &ph, sizeof ph);
    return 0x200;
}

static int try_firmware(const uint8_t *bytes, size_t len, wh_error *err)
{
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_FIRMWARE);
    int fd = file_of(bytes, len);
    int status = wh_machine_load_firmware(m, fd, err);
    close(fd);
    wh_machine_free(m);
    return status;
}

static void test_elf(void)
{
    uint8_t elf[0x200];
    wh_error err;
    static const struct {
        uint64_t pa, filesz, memsz, entry;
        int status;
    } cases[] = {
        {WH_RAM_BASE, 0x100, 0x1000, WH_RAM_BASE, WH_OK},
        {WH_RAM_BASE, 0x100, 0x80, WH_RAM_BASE, WH_E_FORMAT},
        {WH_RAM_BASE - 8, 0x100, 0x100, WH_RAM_BASE, WH_E_INVAL},
        {WH_RAM_BASE, 0x100, 17 * MIB, WH_RAM_BASE, WH_E_INVAL},
        {UINT64_MAX - 8, 0x100, 0x100, WH_RAM_BASE, WH_E_INVAL},
        {WH_RAM_BASE, 0x100, UINT64_MAX, WH_RAM_BASE, WH_E_INVAL},
        {WH_RAM_BASE, UINT64_MAX, UINT64_MAX, WH_RAM_BASE, WH_E_FORMAT},
        {WH_RAM_BASE, 0x101, 0x1000, WH_RAM_BASE, WH_E_FORMAT},
        {WH_RAM_BASE, 0x100, 0x100, 0x1000, WH_E_FORMAT},
        {WH_RAM_BASE + 13 * MIB, 0x100, 2 * MIB, WH_RAM_BASE, WH_E_INVAL}, /* over the device tree */
    };
    for (size_t i = 0; i < WH_ARRAY_LEN(cases); i++) {
        size_t len = make_elf(elf, cases[i].pa, cases[i].filesz, cases[i].memsz, cases[i].entry);
        int status = try_firmware(elf, len, &err);
        if (status != cases[i].status)
            printf("case %zu: %d %s: %s\n", i, status, err.field, err.message);
        CHECK(status == cases[i].status);
    }
    size_t len = make_elf(elf, WH_RAM_BASE, 0x100, 0x100, WH_RAM_BASE);
    for (size_t cut = 4; cut < len; cut += 5)
        CHECK(try_firmware(elf, cut, &err) == WH_E_FORMAT);
    uint64_t seed = 3;
    for (unsigned i = 0; i < 500; i++) {
        make_elf(elf, WH_RAM_BASE, 0x100, 0x1000, WH_RAM_BASE);
        for (unsigned k = 0; k < 3; k++)
            elf[4 + next_random(&seed) % 120] = (uint8_t)next_random(&seed);
        try_firmware(elf, len, &err);
    }
    CHECK(!try_firmware((const uint8_t *)nothing, sizeof nothing, &err)); /* raw */
}

static void test_noisy_images(void)
{
    uint8_t image[128];
    uint64_t seed = 8;
    for (unsigned i = 0; i < 500; i++) {
        size_t len = make_image(image, nothing, 1);
        for (unsigned k = 0; k < 3; k++)
            image[next_random(&seed) % 0x30] = (uint8_t)next_random(&seed);
        wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
        int fd = file_of(image, len);
        wh_error err;
        wh_machine_load_linux(m, fd, fd, "x", &err);
        close(fd);
        wh_machine_free(m);
    }
}

int main(void)
{
    test_linux_layout();
    test_refusals();
    test_elf();
    test_noisy_images();
    return finish("loader");
}

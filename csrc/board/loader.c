/* Boot contents: a Linux Image with initrd and command line, or firmware. Everything is read straight into guest RAM,
 * and each mistake of the caller has its own message.
 *
 * Linux: the kernel at RAM base + text_offset of its header; the device tree at the highest 2 MiB boundary that holds
 * it; the initrd right below. Firmware: ELF64 segments at their physical addresses, or a raw file at RAM base; every
 * hart starts there in M-mode, by way of the reset vector (dev/rom.c). */
#include "board/machine.h"

#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB2            (2ull << 20)
#define FDT_SPACE       MIB2
#define CMDLINE_MAX     2047u
#define ELF_MAX_HEADERS 64u
#define TREE_LIMIT      (WH_RAM_BASE + (1ull << 30)) /* loaders that are 32-bit at heart must reach the tree */

static int file_size(int fd, const char *field, uint64_t *size, wh_error *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return wh_fail(err, WH_E_IO, field, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return wh_fail(err, WH_E_INVAL, field, "not a regular file");
    *size = (uint64_t)st.st_size;
    return WH_OK;
}

static int read_at(int fd, uint64_t offset, void *to, uint64_t len, const char *field, wh_error *err)
{
    uint8_t *p = to;
    while (len) {
        ssize_t n = pread(fd, p, len < 1u << 30 ? len : 1u << 30, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return wh_fail(err, WH_E_IO, field, "%s", strerror(errno));
        if (!n)
            return wh_fail(err, WH_E_FORMAT, field, "the file ends too early");
        p += n;
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return WH_OK;
}

static int load_at(wh_machine *m, int fd, uint64_t offset, uint64_t pa, uint64_t len, const char *field, wh_error *err)
{
    uint8_t *to = wh_ram_at(&m->ram, pa, len);
    if (!to)
        return wh_fail(err, WH_E_INVAL, "memory", "%llu MiB are too small for the %s (%llu KiB at 0x%llx)",
                       (unsigned long long)(m->ram.bytes >> 20), field, (unsigned long long)(len >> 10),
                       (unsigned long long)pa);
    int status = read_at(fd, offset, to, len, field, err);
    wh_ram_mark_dirty_range(&m->ram, pa, len);
    return status;
}

/* Where the device tree goes: it takes at most FDT_SPACE. */
static uint64_t tree_address(const wh_machine *m)
{
    uint64_t end = WH_RAM_BASE + m->ram.bytes;
    if (end > TREE_LIMIT)
        end = TREE_LIMIT;
    return (end - FDT_SPACE) & ~(MIB2 - 1);
}

static int put_tree(wh_machine *m, const wh_devtree *t, uint64_t pa, wh_error *err)
{
    uint8_t *blob = NULL;
    size_t len = 0;
    int status = wh_devtree_make(m, t, &blob, &len);
    if (status || len > FDT_SPACE) {
        wh_buf_free(blob);
        return wh_fail(err, status ? status : WH_E_FULL, "device tree", "cannot be made");
    }
    memcpy(wh_ram_at(&m->ram, pa, len), blob, len);
    wh_ram_mark_dirty_range(&m->ram, pa, len);
    wh_buf_free(blob);
    return WH_OK;
}

/* ---- Linux */

struct image {
    uint64_t text_offset, size; /* size: memory that the kernel needs from its start, never less than the file */
};

static uint64_t le64_at(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

/* What else people pass as a kernel, by its first bytes. */
static const char *other_kind(const uint8_t *h)
{
    if (h[0] == 0x1f && h[1] == 0x8b)
        return "gzip-compressed; unpack it first";
    if (!memcmp(h,
                "\xfd"
                "7zXZ",
                5))
        return "xz-compressed; unpack it first";
    if (!memcmp(h, "\x28\xb5\x2f\xfd", 4))
        return "zstd-compressed; unpack it first";
    if (!memcmp(h, ELFMAG, 4))
        return "an ELF file; the kernel is its arch/riscv/boot/Image";
    if (!memcmp(h + 0x38, "ARM\x64", 4))
        return "a kernel for arm64";
    if (!memcmp(h, "!<arch>", 7))
        return "a package; the kernel is inside";
    return "no RISC-V Image (magic RSC\\x05 at 0x38 is missing)";
}

static int read_image_header(int fd, struct image *out, wh_error *err)
{
    uint64_t file;
    uint8_t h[64];
    int status = file_size(fd, "kernel", &file, err);
    if (status)
        return status;
    if (file < sizeof h)
        return wh_fail(err, WH_E_FORMAT, "kernel", "%llu bytes are no RISC-V Image", (unsigned long long)file);
    status = read_at(fd, 0, h, sizeof h, "kernel", err);
    if (status)
        return status;
    if (memcmp(h + 0x38, "RSC\x05", 4))
        return wh_fail(err, WH_E_FORMAT, "kernel", "%s", other_kind(h));
    if (le64_at(h + 0x18) & 1)
        return wh_fail(err, WH_E_UNSUPPORTED, "kernel", "big-endian");
    out->text_offset = le64_at(h + 0x08);
    out->size = le64_at(h + 0x10);
    if (out->text_offset % MIB2 || out->text_offset > 1ull << 30 || out->size > WH_MAX_RAM)
        return wh_fail(err, WH_E_FORMAT, "kernel", "damaged Image header");
    if (out->size < file)
        out->size = file;
    return WH_OK;
}

static int load_initrd(wh_machine *m, int fd, uint64_t floor, uint64_t ceiling, wh_devtree *t, wh_error *err)
{
    uint64_t size;
    int status = file_size(fd, "initrd", &size, err);
    if (status)
        return status;
    if (!size)
        return wh_fail(err, WH_E_FORMAT, "initrd", "the file is empty");
    if (size > ceiling - floor || ((ceiling - size) & ~(uint64_t)(WH_PAGE_SIZE - 1)) < floor)
        return wh_fail(err, WH_E_INVAL, "memory", "%llu MiB are too small for this kernel and an initrd of %llu MiB",
                       (unsigned long long)(m->ram.bytes >> 20), (unsigned long long)(size >> 20));
    t->initrd_start = (ceiling - size) & ~(uint64_t)(WH_PAGE_SIZE - 1);
    t->initrd_end = t->initrd_start + size;
    return load_at(m, fd, 0, t->initrd_start, size, "initrd", err);
}

static void set_ready(wh_machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    m->run_state = WH_READY;
    pthread_mutex_unlock(&m->run_lock);
}

static int check_new(wh_machine *m, uint32_t boot, wh_error *err)
{
    if (m->run_state != WH_NEW)
        return wh_fail(err, WH_E_STATE, "machine", "something is loaded already");
    if (m->config.boot != boot)
        return wh_fail(err, WH_E_INVAL, "boot", "the machine was made for the other kind of boot");
    return WH_OK;
}

/* Kernel, initrd and device tree into RAM; *entry is where the kernel begins. */
static int place_linux(wh_machine *m, int kernel_fd, int initrd_fd, const char *cmdline, uint64_t *entry, wh_error *err)
{
    struct image image = {0};
    wh_devtree tree = {.cmdline = cmdline};
    int status = WH_OK;
    if (cmdline && strlen(cmdline) > CMDLINE_MAX)
        status = wh_fail(err, WH_E_INVAL, "cmdline", "longer than %u bytes", CMDLINE_MAX);
    if (!status)
        status = read_image_header(kernel_fd, &image, err);
    if (status)
        return status;
    uint64_t start = WH_RAM_BASE + image.text_offset, end = start + image.size, tree_pa = tree_address(m), file;
    if (end > tree_pa)
        return wh_fail(err, WH_E_INVAL, "memory", "%llu MiB are too small: this kernel needs more than %llu MiB",
                       (unsigned long long)(m->ram.bytes >> 20),
                       (unsigned long long)((end - WH_RAM_BASE + FDT_SPACE + (1u << 20) - 1) >> 20));
    status = file_size(kernel_fd, "kernel", &file, err);
    if (!status)
        status = load_at(m, kernel_fd, 0, start, file, "kernel", err);
    if (!status && initrd_fd >= 0)
        status =
            load_initrd(m, initrd_fd, (end + WH_PAGE_SIZE - 1) & ~(uint64_t)(WH_PAGE_SIZE - 1), tree_pa, &tree, err);
    *entry = start;
    return status ? status : put_tree(m, &tree, tree_pa, err);
}

int wh_machine_load_linux(wh_machine *m, int kernel_fd, int initrd_fd, const char *cmdline, wh_error *err)
{
    uint64_t start = 0, tree_pa = tree_address(m);
    int status = check_new(m, WH_BOOT_LINUX, err);
    if (!status)
        status = place_linux(m, kernel_fd, initrd_fd, cmdline, &start, err);
    if (status)
        return status;
    for (unsigned i = 0; i < m->config.harts; i++) {
        wh_hart_enter_supervisor(m->hart[i].cpu, start, tree_pa); /* with the SBI built in no hart is ever in M-mode */
        m->hart[i].hsm = i ? WH_HSM_STOPPED : WH_HSM_START_PENDING;
    }
    m->hart[0].start_pc = start;
    m->hart[0].start_opaque = tree_pa;
    set_ready(m);
    return WH_OK;
}

/* ---- firmware */

static int load_segment(wh_machine *m, int fd, const Elf64_Phdr *ph, uint64_t base, uint64_t limit, wh_error *err)
{
    uint64_t pa = base + le64toh(ph->p_paddr), in_file = le64toh(ph->p_filesz), in_memory = le64toh(ph->p_memsz);
    if (in_file > in_memory)
        return wh_fail(err, WH_E_FORMAT, "firmware", "damaged ELF segment");
    if (!wh_ram_at(&m->ram, pa, in_memory) || pa + in_memory > limit)
        return wh_fail(err, WH_E_INVAL, "memory", "the firmware's segment at 0x%llx (%llu KiB) lies outside of memory",
                       (unsigned long long)pa, (unsigned long long)(in_memory >> 10));
    return load_at(m, fd, le64toh(ph->p_offset), pa, in_file, "firmware", err); /* the rest is zero already */
}

static int load_elf(wh_machine *m, int fd, const Elf64_Ehdr *eh, uint64_t limit, uint64_t *entry, wh_error *err)
{
    unsigned count = le16toh(eh->e_phnum);
    if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
        le16toh(eh->e_machine) != EM_RISCV)
        return wh_fail(err, WH_E_FORMAT, "firmware", "an ELF file, but not for 64-bit RISC-V");
    if (le16toh(eh->e_phentsize) != sizeof(Elf64_Phdr) || !count || count > ELF_MAX_HEADERS)
        return wh_fail(err, WH_E_FORMAT, "firmware", "damaged ELF header");
    /* Firmware that may stand anywhere (OpenSBI from 1.5 on) is linked to 0 and moves its own pointers. */
    uint64_t base = le16toh(eh->e_type) == ET_DYN ? WH_RAM_BASE : 0;
    bool any = false;
    for (unsigned i = 0; i < count; i++) {
        Elf64_Phdr ph;
        uint64_t at = le64toh(eh->e_phoff) + i * sizeof ph;
        if (at > INT64_MAX - sizeof ph)
            return wh_fail(err, WH_E_FORMAT, "firmware", "damaged ELF header");
        int status = read_at(fd, at, &ph, sizeof ph, "firmware", err);
        if (status)
            return status;
        if (le32toh(ph.p_type) != PT_LOAD || !ph.p_memsz)
            continue;
        if (le64toh(ph.p_offset) > INT64_MAX - le64toh(ph.p_filesz) || le64toh(ph.p_filesz) > INT64_MAX)
            return wh_fail(err, WH_E_FORMAT, "firmware", "damaged ELF segment");
        status = load_segment(m, fd, &ph, base, limit, err);
        if (status)
            return status;
        any = true;
    }
    *entry = base + le64toh(eh->e_entry);
    if (!any || !wh_ram_at(&m->ram, *entry, 2))
        return wh_fail(err, WH_E_FORMAT, "firmware", "nothing to load, or an entry point outside of memory");
    return WH_OK;
}

/* Below limit; *entry is where it begins. */
static int place_firmware(wh_machine *m, int fd, uint64_t limit, uint64_t *entry, wh_error *err)
{
    uint64_t size;
    Elf64_Ehdr eh = {0};
    int status = file_size(fd, "firmware", &size, err);
    if (!status && !size)
        status = wh_fail(err, WH_E_FORMAT, "firmware", "the file is empty");
    if (!status)
        status = read_at(fd, 0, &eh, size < sizeof eh ? size : sizeof eh, "firmware", err);
    if (status)
        return status;
    if (!memcmp(eh.e_ident, ELFMAG, SELFMAG))
        return size < sizeof eh ? wh_fail(err, WH_E_FORMAT, "firmware", "a truncated ELF file")
                                : load_elf(m, fd, &eh, limit, entry, err);
    if (size > limit - WH_RAM_BASE)
        return wh_fail(err, WH_E_INVAL, "memory", "%llu MiB of firmware, there is room for %llu MiB",
                       (unsigned long long)(size >> 20), (unsigned long long)((limit - WH_RAM_BASE) >> 20));
    *entry = WH_RAM_BASE;
    return load_at(m, fd, 0, WH_RAM_BASE, size, "firmware", err);
}

int wh_machine_load_firmware_linux(wh_machine *m, int fd, int kernel_fd, int initrd_fd, const char *cmdline,
                                   wh_error *err)
{
    uint64_t entry = WH_RAM_BASE, tree_pa = tree_address(m), next = 0;
    int status = check_new(m, WH_BOOT_FIRMWARE, err);
    if (!status && kernel_fd >= 0)
        status = place_linux(m, kernel_fd, initrd_fd, cmdline, &next, err);
    if (!status)
        status = place_firmware(m, fd, next ? next : tree_pa, &entry, err);
    if (!status && kernel_fd < 0)
        status = put_tree(m, &(wh_devtree){.cmdline = cmdline}, tree_pa, err);
    if (status)
        return status;
    wh_rom_set(m->rom, entry, tree_pa, next);
    for (unsigned i = 0; i < m->config.harts; i++) {
        wh_hart_reset(m->hart[i].cpu, WH_ROM_BASE);
        m->hart[i].hsm = WH_HSM_STARTED;
    }
    set_ready(m);
    return WH_OK;
}

int wh_machine_load_firmware(wh_machine *m, int fd, wh_error *err)
{
    return wh_machine_load_firmware_linux(m, fd, -1, -1, NULL, err);
}

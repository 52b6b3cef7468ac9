/* Read tohost and the signature range from an ELF64 symbol table. The file is mapped; every offset in it is hostile. */
#include "main/symbols.h"

#include <elf.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct file {
    const uint8_t *data;
    uint64_t size;
};

static const void *range(const struct file *f, uint64_t offset, uint64_t len)
{
    return offset <= f->size && len <= f->size - offset ? f->data + offset : NULL;
}

static bool section(const struct file *f, const Elf64_Ehdr *eh, unsigned index, Elf64_Shdr *out)
{
    if (index >= eh->e_shnum || eh->e_shentsize != sizeof(*out) || eh->e_shoff > f->size)
        return false;
    const void *at = range(f, eh->e_shoff + (uint64_t)index * sizeof(*out), sizeof(*out));
    if (at == NULL)
        return false;
    memcpy(out, at, sizeof(*out));
    return true;
}

struct wanted {
    const char *name;
    uint64_t *value;
};

static void scan(const struct file *f, const Elf64_Ehdr *eh, const Elf64_Shdr *table, const struct wanted *wanted,
                 size_t count)
{
    Elf64_Shdr names;
    if (!section(f, eh, table->sh_link, &names) || range(f, names.sh_offset, names.sh_size) == NULL ||
        range(f, table->sh_offset, table->sh_size) == NULL)
        return;
    for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= table->sh_size; at += sizeof(Elf64_Sym)) {
        Elf64_Sym sym;
        memcpy(&sym, f->data + table->sh_offset + at, sizeof(sym));
        for (size_t i = 0; i < count; i++) {
            uint64_t len = strlen(wanted[i].name) + 1;
            if (sym.st_name < names.sh_size && len <= names.sh_size - sym.st_name &&
                memcmp(f->data + names.sh_offset + sym.st_name, wanted[i].name, len) == 0)
                *wanted[i].value = sym.st_value;
        }
    }
}

static void read_symbols(int fd, const struct wanted *wanted, size_t count)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || st.st_size < (off_t)sizeof(Elf64_Ehdr))
        return;
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        return;
    struct file f = {map, (uint64_t)st.st_size};
    Elf64_Ehdr eh;
    memcpy(&eh, map, sizeof(eh));
    if (memcmp(eh.e_ident, ELFMAG, SELFMAG) == 0 && eh.e_ident[EI_CLASS] == ELFCLASS64)
        for (unsigned i = 0; i < eh.e_shnum; i++) {
            Elf64_Shdr sh;
            if (section(&f, &eh, i, &sh) && sh.sh_type == SHT_SYMTAB)
                scan(&f, &eh, &sh, wanted, count);
        }
    munmap(map, (size_t)st.st_size);
}

void wh_symbols_read(int fd, struct wh_symbols *out)
{
    memset(out, 0, sizeof(*out));
    const struct wanted wanted[] = {{"tohost", &out->tohost},
                                    {"fromhost", &out->fromhost},
                                    {"begin_signature", &out->begin_signature},
                                    {"end_signature", &out->end_signature}};
    read_symbols(fd, wanted, WH_ARRAY_LEN(wanted));
}

bool wh_symbols_find(int fd, const char *name, uint64_t *value)
{
    uint64_t found = UINT64_MAX;
    const struct wanted wanted = {name, &found};
    read_symbols(fd, &wanted, 1);
    if (found == UINT64_MAX)
        return false;
    *value = found;
    return true;
}

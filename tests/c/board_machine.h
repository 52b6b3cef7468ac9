/* What the board's tests share: files of bytes, machines with a hand-written program. */
#ifndef BOARD_MACHINE_H
#define BOARD_MACHINE_H

#include "board/machine.h"
#include "switch_check.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ull << 20)

static inline int file_of(const void *bytes, size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
    return fd;
}

static inline wh_machine *machine(uint64_t ram, uint32_t harts, uint32_t boot)
{
    wh_machine_config c = {.ram_bytes = ram, .harts = harts, .boot = boot, .seed = 42};
    wh_machine *m = NULL;
    wh_error err;
    CHECK(!wh_machine_new(&c, &m, &err));
    return m;
}

/* A Linux Image header in front of code, 64 bytes; the first word jumps over the header. */
static inline size_t make_image(uint8_t *out, const uint32_t *code, size_t words)
{
    const uint32_t jump = 0x0400006f; /* j +64 */
    const uint64_t text_offset = 0x200000, size = 0x10000;
    memset(out, 0, 64);
    memcpy(out, &jump, 4);
    memcpy(out + 8, &text_offset, 8);
    memcpy(out + 16, &size, 8);
    memcpy(out + 0x30, "RISCV\0\0\0RSC\x05", 12);
    memcpy(out + 64, code, words * 4);
    return 64 + words * 4;
}

static inline int load_code(wh_machine *m, const uint32_t *code, size_t words, wh_error *err)
{
    uint8_t image[4096];
    size_t len = make_image(image, code, words);
    int fd = file_of(image, len);
    int status = wh_machine_load_linux(m, fd, -1, "test", err);
    close(fd);
    return status;
}

static inline wh_event next_end(wh_machine *m)
{
    wh_event e;
    for (;;) {
        while (!wh_machine_next_event(m, &e))
            if (e.kind == WH_EV_POWEROFF || e.kind == WH_EV_REBOOT || e.kind == WH_EV_CRASH)
                return e;
        struct pollfd p = {.fd = wh_machine_event_fd(m), .events = POLLIN};
        if (poll(&p, 1, 20000) <= 0) {
            CHECK(!"the guest did not end");
            return e;
        }
    }
}

#endif

/* Machines of four harts that go on from a snapshot while their pages come in: whoever touches a page first, it is seen
 * whole, and what is written to it stays; a file that is harmed ends the machine with the reason, and no hart sees
 * anything else than what was saved. For the sanitizers (make test-tsan above all). */
#include "board_machine.h"

#define HARTS 4u
#define FIRST 0x400000ull /* offset in RAM of the pages that the program reads */
#define PAGES 512u
#define GO    0x1008u

/* In M-mode, all harts, assembled:
 *      wait until the word at RAM + 0x1008 is not zero
 *      512 times, from page (131 * hart) % 512 on: the words at 0, 2040 and 4088 of the page must be its address + 1,
 *      else end with failure 1; amoadd 1 to the word at 16
 *      amoadd 1 to the word at RAM + 0x1000; the last hart powers off, the others WFI for ever */
static const uint32_t program[] = {
    0x00050413, 0x000804b7, 0x00148493, 0x00c49493, 0x0084b283, 0xfe028ee3, 0x00080937, 0x40090913, 0x00c91913,
    0x20000993, 0x08300293, 0x02540a33, 0x00100b13, 0x1ffa7a93, 0x00ca9313, 0x01230333, 0x00130393, 0x00033e03,
    0x047e1863, 0x7f833e03, 0x047e1463, 0x7fc30e93, 0x7fcebe03, 0x027e1e63, 0x01030e93, 0x016eb02f, 0x001a0a13,
    0xfff98993, 0xfc0992e3, 0x0164b32f, 0x00300393, 0x00731a63, 0x001002b7, 0x00005337, 0x55530313, 0x0062a023,
    0x10500073, 0xffdff06f, 0x001002b7, 0x00013337, 0x33330313, 0x0062a023, 0xfe9ff06f};

static uint64_t page_address(unsigned i)
{
    return WH_RAM_BASE + FIRST + ((uint64_t)i << WH_PAGE_SHIFT);
}

static uint64_t *word(wh_machine *m, uint64_t pa)
{
    return (uint64_t *)(void *)wh_ram_at(&m->ram, pa, 8);
}

/* The file of a machine whose harts all wait for the word. */
static int snapshot(uint32_t engine)
{
    wh_error err;
    wh_machine_config c = {
        .ram_bytes = 16 * MIB, .harts = HARTS, .boot = WH_BOOT_FIRMWARE, .seed = 42, .engine = engine};
    wh_machine *m;
    CHECK(!wh_machine_new(&c, &m, &err));
    int code = file_of(program, sizeof program), fd = file_of("", 0);
    CHECK(!wh_machine_load_firmware(m, code, &err));
    close(code);
    for (unsigned i = 0; i < PAGES; i++) {
        static const unsigned at[] = {0, 2040, 4088};
        for (unsigned k = 0; k < 3; k++)
            *word(m, page_address(i) + at[k]) = page_address(i) + 1;
    }
    CHECK(!wh_machine_start(m, &err));
    CHECK(wh_machine_snapshot(m, fd, NULL, 0, &err) == WH_E_STATE); /* it runs */
    CHECK(!wh_machine_pause(m, NULL));
    CHECK(!wh_machine_snapshot(m, fd, NULL, 0, &err));
    CHECK(!wh_machine_resume(m, NULL)); /* a snapshot changes nothing */
    wh_machine_free(m);
    return fd;
}

static wh_machine *restored(int fd, int how, uint32_t engine)
{
    wh_error err;
    wh_machine_config c;
    uint64_t pages;
    wh_machine *m;
    CHECK(!wh_snapshot_info(fd, &c, &pages, &err) && c.harts == HARTS && pages > PAGES);
    c.engine = engine;
    CHECK(!wh_machine_new(&c, &m, &err));
    CHECK(!wh_machine_restore(m, fd, how, NULL, NULL, &err));
    *word(m, WH_RAM_BASE + GO) = 1;
    return m;
}

static void test_every_page_is_seen_whole(int how, uint32_t engine)
{
    wh_error err;
    wh_machine_stats s;
    int fd = snapshot(engine);
    wh_machine *m = restored(fd, how, engine);
    close(fd);
    CHECK(!wh_machine_start(m, &err));
    wh_event e = next_end(m);
    CHECK(e.kind == WH_EV_POWEROFF && e.arg == 0);
    wh_machine_stop(m);
    wh_machine_get_stats(m, &s);
    CHECK(how != WH_RESTORE_EAGER || s.pages_faulted == 0);
    CHECK(how != WH_RESTORE_ON_DEMAND || s.pages_faulted > 0); /* lazily, the filler may be the first everywhere */
    CHECK(s.pages_restored > PAGES && s.pages_absent < s.pages_restored);
    for (unsigned i = 0; i < PAGES; i++)
        CHECK(*word(m, page_address(i) + 16) == HARTS);
    wh_machine_free(m);
}

/* Where a page's content stands in the file: it holds its address + 1 twice more. */
static off_t find_page(int fd, uint64_t pa)
{
    uint64_t v;
    for (off_t at = WH_PAGE_SIZE; pread(fd, &v, 8, at) == 8; at += WH_PAGE_SIZE)
        if (v == pa + 1 && pread(fd, &v, 8, at + 2040) == 8 && v == pa + 1)
            return at;
    CHECK(!"the page is not in the file");
    return 0;
}

static void test_a_harmed_file_ends_the_machine(int how, bool cut, uint32_t engine)
{
    wh_error err;
    int fd = snapshot(engine);
    off_t at = find_page(fd, page_address(333));
    wh_machine *m = restored(fd, how, engine);
    if (cut)
        CHECK(!ftruncate(fd, at));
    else
        CHECK(pwrite(fd, "?", 1, at + 3000) == 1);
    CHECK(!wh_machine_start(m, &err));
    wh_event e = next_end(m);
    CHECK(e.kind == WH_EV_CRASH && !strncmp(e.text, "memory could not be restored: ", 30));
    CHECK(strstr(e.text, cut ? "cut" : "page at 0x8054d000 is damaged"));
    CHECK(wh_machine_pause(m, NULL) == WH_E_STATE && wh_machine_resume(m, NULL) == WH_E_STATE);
    close(fd);
    wh_machine_free(m);
}

/* A guest that never touches the rest is not waited for, stopped or not. */
static void test_freed_in_the_middle(int how, bool started)
{
    wh_error err;
    int fd = snapshot(WH_ENGINE_AUTO);
    wh_machine *m = restored(fd, how, WH_ENGINE_AUTO);
    close(fd);
    if (started)
        CHECK(!wh_machine_start(m, &err));
    wh_machine_free(m);
}

int main(void)
{
    static const uint32_t engines[] = {
        WH_ENGINE_INTERPRETER,
#ifdef __x86_64__
        WH_ENGINE_JIT,
#endif
    };
    for (unsigned i = 0; i < WH_ARRAY_LEN(engines); i++) {
        for (int how = WH_RESTORE_EAGER; how <= WH_RESTORE_ON_DEMAND; how++)
            test_every_page_is_seen_whole(how, engines[i]);
        for (int how = WH_RESTORE_LAZY; how <= WH_RESTORE_ON_DEMAND; how++) {
            test_a_harmed_file_ends_the_machine(how, true, engines[i]);
            test_a_harmed_file_ends_the_machine(how, false, engines[i]);
        }
    }
    for (int how = WH_RESTORE_EAGER; how <= WH_RESTORE_ON_DEMAND; how++) {
        test_freed_in_the_middle(how, true);
        test_freed_in_the_middle(how, false);
    }
    return finish("board restore");
}

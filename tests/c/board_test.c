/* The machine's life: making, running, pausing under load, channels, events, ends, and state documents that were
 * damaged. */
#include "board_machine.h"

/* Counts in a0, stores it to its own page, for ever. */
static const uint32_t spin[] = {
    0x00000517, /* auipc a0, 0 */
    0x00158593, /* addi a1, a1, 1 */
    0x10b53023, /* sd a1, 256(a0) */
    0xff9ff06f, /* j -8 */
};
/* Waits for interrupts for ever. */
static const uint32_t idle[] = {0x10500073, 0xffdff06f};
/* UART: prints 'A', then echoes what comes until 'q', then powers off through SRST. */
static const uint32_t echo[] = {
    0x10000537, /* lui a0, 0x10000 */
    0x04100593, /* li a1, 'A' */
    0x00b50023, /* sb a1, 0(a0) */
    0x00554603, /* lbu a2, 5(a0) */
    0x00167613, /* andi a2, a2, 1 */
    0xfe060ce3, /* beqz a2, -8 */
    0x00054583, /* lbu a1, 0(a0) */
    0x00b50023, /* sb a1, 0(a0) */
    0x07100613, /* li a2, 'q' */
    0xfec594e3, /* bne a1, a2, -24 */
    0x00000513, /* li a0, 0 */
    0x00000593, /* li a1, 0 */
    0x00000813, /* li a6, 0 */
    0x535258b7, /* lui a7, 0x53525 */
    0x35488893, /* addi a7, a7, 0x354 */
    0x00000073, /* ecall */
};

static void test_config(void)
{
    static const struct {
        wh_machine_config c;
        const char *field;
    } bad[] = {{{.ram_bytes = 15 * MIB, .harts = 1}, "memory"},
               {{.ram_bytes = 16 * MIB + 4096, .harts = 1}, "memory"},
               {{.ram_bytes = 65ull << 30, .harts = 1}, "memory"},
               {{.ram_bytes = 16 * MIB, .harts = 0}, "cpus"},
               {{.ram_bytes = 16 * MIB, .harts = 65}, "cpus"},
               {{.ram_bytes = 16 * MIB, .harts = 1, .boot = 2}, "boot"},
               {{.ram_bytes = 16 * MIB, .harts = 1, .icount = 1}, "seed"}};
    for (size_t i = 0; i < WH_ARRAY_LEN(bad); i++) {
        wh_machine *m;
        wh_error err;
        CHECK(wh_machine_new(&bad[i].c, &m, &err) == WH_E_INVAL && !strcmp(err.field, bad[i].field) && !m);
    }
    wh_machine *m = machine(16 * MIB, 64, WH_BOOT_LINUX);
    wh_error err;
    CHECK(wh_machine_start(m, &err) == WH_E_STATE);
    CHECK(wh_machine_pause(m, NULL) == WH_E_STATE && wh_machine_resume(m, NULL) == WH_E_STATE);
    wh_machine_free(m);
    wh_machine_free(NULL);
}

static void test_devices_fill_the_slots(void)
{
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
    const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    wh_error err;
    int ring, out, in;
    for (unsigned i = 0; i < 5; i++)
        CHECK(!wh_machine_add_nic(m, mac, 1400, &err));
    static const uint8_t sectors[1024];
    int disk = file_of(sectors, sizeof sectors);
    CHECK(!wh_machine_add_disk(m, disk, 1, "d0", &err));
    CHECK(wh_machine_add_disk(m, disk, 1, "d1", &err) == WH_E_FULL && !strcmp(err.field, "disks"));
    CHECK(wh_machine_add_nic(m, mac, 1400, &err) == WH_E_FULL);
    close(disk);
    CHECK(!wh_machine_nic_fds(m, 4, &ring, &out, &in) && ring >= 0);
    CHECK(wh_machine_nic_fds(m, 5, &ring, &out, &in) == WH_E_NOTFOUND);
    uint64_t id = 0;
    static const uint64_t want[] = {3, 4, 1, 1, 1, 1, 1, 2};
    for (unsigned i = 0; i < 8; i++)
        CHECK(!wh_bus_read(m, NULL, WH_VIRTIO_BASE + i * 0x1000 + 8, 4, &id) && id == want[i]);
    CHECK(wh_bus_read(m, NULL, WH_VIRTIO_BASE + 8 * 0x1000, 4, &id));
    CHECK(wh_bus_read(m, NULL, 0, 4, &id) && wh_bus_write(m, NULL, UINT64_MAX - 3, 4, 0));
    CHECK(wh_bus_read(m, NULL, WH_RAM_BASE, 8, &id));
    wh_machine_free(m);
}

static void test_echo(void)
{
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
    wh_error err;
    CHECK(!load_code(m, echo, WH_ARRAY_LEN(echo), &err));
    CHECK(load_code(m, echo, WH_ARRAY_LEN(echo), &err) == WH_E_STATE);
    CHECK(!wh_machine_start(m, &err));
    CHECK(wh_machine_start(m, &err) == WH_E_STATE);
    size_t taken, got;
    CHECK(!wh_machine_channel_write(m, WH_CH_UART, (const uint8_t *)"hello q", 7, &taken) && taken == 7);
    wh_event e = next_end(m);
    CHECK(e.kind == WH_EV_POWEROFF && e.arg == 0);
    CHECK(wh_machine_next_event(m, &e) == WH_E_AGAIN);
    uint8_t buf[100];
    uint64_t offset = 0;
    CHECK(!wh_machine_channel_read(m, WH_CH_UART, &offset, buf, sizeof buf, &got));
    CHECK(got == 8 && !memcmp(buf, "Ahello q", 8) && offset == 0);
    offset = 5;
    CHECK(!wh_machine_channel_read(m, WH_CH_UART, &offset, buf, 2, &got) && got == 2 && !memcmp(buf, "o ", 2));
    offset = 500;
    CHECK(!wh_machine_channel_read(m, WH_CH_UART, &offset, buf, 2, &got) && got == 0 && offset == 8);
    CHECK(wh_machine_channel_read(m, 3, &offset, buf, 2, &got) == WH_E_INVAL);
    CHECK(wh_machine_channel_write(m, 3, buf, 2, &taken) == WH_E_INVAL);
    CHECK(wh_machine_pause(m, NULL) == WH_E_STATE && wh_machine_resume(m, NULL) == WH_E_STATE);
    uint8_t *state;
    CHECK(wh_machine_save(m, &state, &got, &err) == WH_E_STATE);
    CHECK(!wh_machine_stop(m) && !wh_machine_stop(m));
    wh_machine_free(m);
}

static void test_channel_window(void)
{
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
    wh_channel_end end = wh_channel_device_end(&m->channel[WH_CH_AGENT]);
    static uint8_t data[100000], back[100000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31 + (i >> 8));
    uint64_t offset = 0;
    size_t got, taken;
    for (size_t at = 0; at < sizeof data; at += 1000)
        end.output(end.ctx, data + at, 1000);
    CHECK(!wh_machine_channel_read(m, WH_CH_AGENT, &offset, back, sizeof back, &got));
    CHECK(offset == sizeof data - WH_CHANNEL_BYTES && got == WH_CHANNEL_BYTES && !memcmp(back, data + offset, got));
    end.output(end.ctx, data, sizeof data); /* more than the window at once */
    offset = 0;
    CHECK(!wh_machine_channel_read(m, WH_CH_AGENT, &offset, back, sizeof back, &got));
    CHECK(offset == 2 * sizeof data - WH_CHANNEL_BYTES && !memcmp(back, data + sizeof data - WH_CHANNEL_BYTES, got));
    CHECK(!wh_machine_channel_write(m, WH_CH_AGENT, data, sizeof data, &taken) && taken == WH_CHANNEL_BYTES);
    CHECK(wh_machine_channel_write(m, WH_CH_AGENT, data, 1, &taken) == WH_E_AGAIN && !taken);
    CHECK(end.input_ready(end.ctx) == WH_CHANNEL_BYTES && end.input(end.ctx, back, 100) == 100);
    CHECK(!memcmp(back, data, 100));
    CHECK(!wh_machine_channel_write(m, WH_CH_AGENT, data, 200, &taken) && taken == 100);
    CHECK(end.input(end.ctx, back, sizeof back) == WH_CHANNEL_BYTES);
    wh_event e;
    CHECK(!wh_machine_next_event(m, &e) && e.kind == WH_EV_OUTPUT && e.arg == WH_CH_AGENT);
    end.opened(end.ctx, true);
    end.opened(end.ctx, false);
    CHECK(!wh_machine_next_event(m, &e) && e.kind == WH_EV_CHANNEL && e.arg == WH_CH_AGENT << 1);
    CHECK(wh_machine_next_event(m, &e) == WH_E_AGAIN);
    wh_machine_free(m);
}

/* While someone reads, unread output stays: the device is told how much found room, and to come back when there is
 * more. */
static void test_output_waits_for_its_reader(void)
{
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
    wh_channel_end end = wh_channel_device_end(&m->channel[WH_CH_AGENT]);
    static uint8_t data[100000], back[100000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 13 + (i >> 9));
    CHECK(wh_machine_channel_consumed(m, WH_CH_UART, 0) == WH_E_UNSUPPORTED);
    CHECK(wh_machine_channel_consumed(m, 3, 0) == WH_E_INVAL);
    CHECK(end.output(end.ctx, data, sizeof data) == sizeof data); /* nobody reads yet */
    CHECK(!wh_machine_channel_consumed(m, WH_CH_AGENT, 0));       /* the kept window is full */
    CHECK(end.output(end.ctx, data, 1) == 0);
    CHECK(!atomic_load(&m->input_waiting));
    uint64_t start = sizeof data, offset = start;
    CHECK(!wh_machine_channel_consumed(m, WH_CH_AGENT, start + 999)); /* no more than there is */
    CHECK(atomic_exchange(&m->input_waiting, 0) == 1u << WH_CH_AGENT);
    size_t sent = 0, got;
    for (unsigned turn = 0; sent < sizeof data || offset < start + sizeof data; turn++) {
        sent += end.output(end.ctx, data + sent, sizeof data - sent < 30000 ? sizeof data - sent : 30000);
        CHECK(sent - (offset - start) <= WH_CHANNEL_BYTES);
        if (turn % 4 != 3)
            continue; /* the reader is slower than the writer */
        CHECK(!wh_machine_channel_read(m, WH_CH_AGENT, &offset, back + (offset - start), 20000, &got));
        offset += got;
        CHECK(!wh_machine_channel_consumed(m, WH_CH_AGENT, offset));
    }
    CHECK(sent == sizeof data && !memcmp(back, data, sizeof data));
    atomic_store(&m->input_waiting, 0);
    CHECK(end.output(end.ctx, data, sizeof data) == WH_CHANNEL_BYTES);
    CHECK(!wh_machine_channel_consumed(m, WH_CH_AGENT, UINT64_MAX)); /* the reader has gone */
    CHECK(atomic_load(&m->input_waiting) == 1u << WH_CH_AGENT);
    CHECK(end.output(end.ctx, data, sizeof data) == sizeof data);
    wh_machine_free(m);
}

static uint64_t counted(wh_machine *m)
{
    return __atomic_load_n((uint64_t *)(m->ram.host + 0x200000 + 64 + 256), __ATOMIC_RELAXED);
}

static void test_pausing_under_load(void)
{
    wh_machine *m = machine(16 * MIB, 1, WH_BOOT_LINUX);
    wh_error err;
    CHECK(!load_code(m, spin, WH_ARRAY_LEN(spin), &err) && !wh_machine_start(m, &err));
    uint64_t last_time = 0;
    for (unsigned i = 0; i < 300; i++) {
        uint64_t paused, resumed;
        CHECK(!wh_machine_pause(m, &paused) && !wh_machine_pause(m, NULL));
        uint64_t n = counted(m), t = wh_clock_now(m);
        CHECK(t >= last_time);
        last_time = t;
        sched_yield();
        CHECK(counted(m) == n && wh_clock_now(m) == t); /* neither guest nor its clock moves */
        CHECK(!wh_machine_resume(m, &resumed) && resumed >= paused);
        CHECK(wh_machine_resume(m, NULL) == WH_E_STATE);
    }
    while (!counted(m))
        sched_yield();
    wh_machine_stats s;
    wh_machine_pause(m, NULL);
    wh_machine_get_stats(m, &s);
    CHECK(s.instructions && s.run_ns);
    wh_machine_free(m); /* while paused */
}

static void test_idle_sleeps(void)
{
    wh_machine *m = machine(16 * MIB, 2, WH_BOOT_LINUX);
    wh_error err;
    CHECK(!load_code(m, idle, WH_ARRAY_LEN(idle), &err) && !wh_machine_start(m, &err));
    wh_machine_stats s;
    for (unsigned i = 0; i < 50; i++)
        CHECK(!wh_machine_pause(m, NULL) && !wh_machine_resume(m, NULL));
    CHECK(!wh_machine_pause(m, NULL));
    wh_machine_get_stats(m, &s);
    CHECK(s.instructions < 1000); /* a pause wakes a waiting hart, nothing else does */
    CHECK(!wh_machine_stop(m));
    wh_machine_free(m);
}

static wh_machine *restored(const uint8_t *state, size_t len, int *status, wh_error *err)
{
    wh_machine *m = machine(16 * MIB, 2, WH_BOOT_LINUX);
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, state, len);
    *status = wh_machine_load(m, exact, len, err);
    free(exact);
    return m;
}

/* RAM travels beside the state. */
static void copy_ram(wh_machine *from, wh_machine *to)
{
    off_t size = lseek(wh_machine_ram_fd(from), 0, SEEK_END), at = 0;
    uint8_t *block = malloc(MIB);
    for (; at < size; at += MIB) {
        CHECK(pread(wh_machine_ram_fd(from), block, MIB, at) == (ssize_t)MIB);
        CHECK(pwrite(wh_machine_ram_fd(to), block, MIB, at) == (ssize_t)MIB);
    }
    free(block);
}

static void test_damaged_states(void)
{
    wh_machine *m = machine(16 * MIB, 2, WH_BOOT_LINUX);
    wh_error err;
    uint8_t *state;
    size_t len;
    int status;
    CHECK(!load_code(m, spin, WH_ARRAY_LEN(spin), &err) && !wh_machine_start(m, &err));
    CHECK(!wh_machine_pause(m, NULL) && !wh_machine_save(m, &state, &len, &err));
    CHECK(wh_machine_load(m, state, len, &err) == WH_E_STATE);
    uint64_t time = wh_clock_now(m);
    wh_machine *other = restored(state, len, &status, &err);
    CHECK(!status && wh_clock_now(other) == time);
    copy_ram(m, other);
    CHECK(!wh_machine_start(other, &err) && !wh_machine_pause(other, NULL));
    wh_machine_free(other);
    uint64_t seed = 9;
    for (size_t cut = 0; cut < len; cut += 1 + cut / 16) {
        other = restored(state, cut, &status, &err);
        CHECK(status == WH_E_FORMAT);
        wh_machine_free(other);
    }
    for (unsigned i = 0; i < 200; i++) {
        uint8_t *noisy = malloc(len);
        memcpy(noisy, state, len);
        for (unsigned k = 0; k < 1 + i % 8; k++)
            noisy[next_random(&seed) % len] = (uint8_t)next_random(&seed);
        other = restored(noisy, len, &status, &err);
        CHECK(!status || wh_machine_start(other, &err) == WH_E_STATE);
        if (!status && !wh_machine_start(other, &err))
            wh_machine_pause(other, NULL);
        wh_machine_free(other);
        free(noisy);
    }
    wh_buf_free(state);
    wh_machine_free(m);
}

int main(void)
{
    test_config();
    test_devices_fill_the_slots();
    test_echo();
    test_channel_window();
    test_output_waits_for_its_reader();
    test_pausing_under_load();
    test_idle_sleeps();
    test_damaged_states();
    return finish("board");
}

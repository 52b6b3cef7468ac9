/* A machine whose four harts start each other, interrupt and fence each other, write the same words and print, while
 * the outside pauses and resumes it, reads and writes its channels, follows its dirty pages and asks for its figures.
 * What is checked is little; the run is for the sanitizers (make test-tsan above all). */
#include "board_machine.h"

#include <sched.h>

#define HARTS   4u
#define DATA    (0x200000u + 64 + 8192) /* in RAM: on another page than the code, see `program` */
#define TURNS   120u
#define ENOUGH  20000u
#define AT_ONCE 4096u

/* In S-mode, assembled:
 *      s3 = data; hart 0 starts harts 3, 2, 1 by HSM at the first instruction, with a0 not zero
 *      loop: amoadd 1 to s3[0] (old value: n); s3[8] += 1, not atomic; clear SSIP; IPI to all; remote FENCE.I (n even)
 * or SFENCE.VMA to all; every sixteenth turn print 'x'; WFI; PAUSE */
static const uint32_t program[] = {
    0x00000417, 0x000029b7, 0x008989b3, 0x02051863, 0x00300493, 0x004858b7, 0x34d88893, 0x00000813, 0x00048513,
    0x00040593, 0x00100613, 0x00000073, 0xfff48493, 0xfe0490e3, 0x00100a13, 0x00100293, 0x10416073, 0x0059b32f,
    0x0409b383, 0x00138393, 0x0479b023, 0x14417073, 0x007358b7, 0x04988893, 0x00000813, 0x00000513, 0xfff00593,
    0x00000073, 0x524658b7, 0xe4388893, 0x00137813, 0x00000513, 0xfff00593, 0x00000613, 0x00000693, 0x00000073,
    0x00f37513, 0x00051863, 0x00100893, 0x07800513, 0x00000073, 0x10500073, 0x0100000f, 0xf99ff06f};

struct world {
    wh_machine *m;
    _Atomic bool done;
};

static uint64_t count(wh_machine *m)
{
    return __atomic_load_n((uint64_t *)(void *)(m->ram.host + DATA), __ATOMIC_RELAXED);
}

/* What a guest process does all the time. */
static void *reader(void *arg)
{
    struct world *w = arg;
    static uint8_t buf[AT_ONCE];
    uint64_t offset = 0;
    size_t n;
    while (!atomic_load(&w->done)) {
        wh_event e;
        while (!wh_machine_next_event(w->m, &e))
            CHECK(e.kind == WH_EV_OUTPUT && e.arg == WH_CH_UART);
        CHECK(!wh_machine_channel_read(w->m, WH_CH_UART, &offset, buf, sizeof buf, &n));
        offset += n;
        for (size_t i = 0; i < n; i++)
            CHECK(buf[i] == 'x');
        (void)wh_machine_channel_write(w->m, WH_CH_UART, buf, 16, &n);
        (void)wh_machine_channel_write(w->m, WH_CH_AGENT, buf, 16, &n);
        CHECK(!wh_machine_channel_consumed(w->m, WH_CH_AGENT, 0));
        wh_machine_stats s;
        wh_machine_get_stats(w->m, &s);
        sched_yield();
    }
    CHECK(offset > 0);
    return NULL;
}

/* What an agent does in a migration. */
static void *follower(void *arg)
{
    struct world *w = arg;
    wh_ramview *v;
    uint64_t dirty;
    wh_batch_info info;
    static uint8_t batch[1 << 16];
    CHECK(!wh_ramview_open(wh_machine_ram_fd(w->m), wh_machine_share_fd(w->m), &v, NULL));
    CHECK(!wh_ramview_track(v, 1));
    while (!atomic_load(&w->done)) {
        CHECK(!wh_ramview_round(v, 20000, &dirty));
        CHECK(!wh_ramview_pack(v, batch, sizeof batch, &info));
    }
    CHECK(!wh_ramview_track(v, 0));
    wh_ramview_close(v);
    return NULL;
}

static void everything_at_once(void)
{
    struct world w = {.m = machine(16 * MIB, HARTS, WH_BOOT_LINUX)};
    pthread_t threads[2];
    wh_error err;
    CHECK(!load_code(w.m, program, WH_ARRAY_LEN(program), &err) && !wh_machine_start(w.m, &err));
    CHECK(!pthread_create(&threads[0], NULL, reader, &w) && !pthread_create(&threads[1], NULL, follower, &w));
    uint64_t last = 0;
    for (unsigned i = 0; i < TURNS || last < ENOUGH; i++) {
        CHECK(!wh_machine_pause(w.m, NULL));
        uint64_t now = count(w.m);
        CHECK(now >= last);
        last = now;
        if (i % 8 == 0) {
            uint8_t *state;
            size_t len;
            CHECK(!wh_machine_save(w.m, &state, &len, &err));
            wh_buf_free(state);
        }
        CHECK(!wh_machine_throttle(w.m, i % 3 * 30, 1000, &err)); /* rests and wakes meet pauses and fences */
        CHECK(count(w.m) == now);
        CHECK(!wh_machine_resume(w.m, NULL));
        while (count(w.m) ==
               now) /* all harts asleep with no one to wake them would end here, by the test's time limit */
            sched_yield();
    }
    atomic_store(&w.done, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK(!wh_machine_stop(w.m));
    for (unsigned i = 0; i < HARTS; i++)
        CHECK(w.m->hart[i].hsm == WH_HSM_STARTED);
    wh_machine_free(w.m);
}

int main(void)
{
    alarm(120);
    everything_at_once();
    return finish("board_smp");
}

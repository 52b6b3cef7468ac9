/* VLAN tags at ports against a model that keeps a frame as a list of tags; and settings. */
#include "switch/vlan.h"
#include "switch_check.h"

#include <stdlib.h>

#define ROOM  64u
#define BYTES 256u

struct tags {
    unsigned n;
    uint16_t type[2], tci[2];
};

static uint32_t build(uint8_t *frame, const struct tags *t, uint32_t payload)
{
    uint32_t at = 12;
    for (unsigned i = 0; i < 12; i++)
        frame[i] = (uint8_t)(0x20 + i);
    for (unsigned i = 0; i < t->n; i++, at += 4) {
        uint8_t tag[4] = {(uint8_t)(t->type[i] >> 8), (uint8_t)t->type[i], (uint8_t)(t->tci[i] >> 8),
                          (uint8_t)t->tci[i]};
        memcpy(frame + at, tag, 4);
    }
    for (uint32_t i = 0; i < payload + 2; i++)
        frame[at + i] = (uint8_t)(i * 7 + 8);
    return at + 2 + payload;
}

static bool carries(const bool set[4096], uint16_t tci)
{
    return set[tci & 0xfff];
}

static bool model_in(const struct wh_vlan *v, const bool set[4096], struct tags *t)
{
    if (v->mode == WH_VLAN_TRANSPARENT)
        return true;
    bool untagged = t->n == 0, priority = t->n && t->type[0] == 0x8100 && (t->tci[0] & 0xfff) == 0;
    if (!untagged && !priority)
        return v->mode == WH_VLAN_TRUNK && carries(set, t->tci[0]);
    if (!v->vid)
        return false;
    if (untagged) {
        *t = (struct tags){1, {0x8100, 0}, {v->vid, 0}};
    } else {
        t->tci[0] = (uint16_t)((t->tci[0] & 0xf000) | v->vid);
    }
    return true;
}

static bool model_out(const struct wh_vlan *v, const bool set[4096], struct tags *t)
{
    if (v->mode == WH_VLAN_TRANSPARENT)
        return true;
    if (t->n == 1 && t->type[0] == 0x8100 && v->vid && (t->tci[0] & 0xfff) == v->vid) {
        t->n = 0;
        return true;
    }
    return v->mode == WH_VLAN_TRUNK && t->n && carries(set, t->tci[0]);
}

static uint16_t some_vid(uint64_t r)
{
    static const uint16_t few[] = {0, 1, 10, 20, 4094};
    return few[r % 5];
}

static void settings(uint64_t *state, struct wh_vlan *v, bool set[4096])
{
    uint16_t allowed[3];
    int mode = (int)(next_random(state) % 3);
    uint32_t count = mode == WH_VLAN_TRUNK ? (uint32_t)(next_random(state) % 4) : 0;
    uint16_t vid = mode == WH_VLAN_TRANSPARENT ? 0 : some_vid(next_random(state));
    if (mode == WH_VLAN_ACCESS && !vid)
        vid = 10;
    memset(set, 0, 4096 * sizeof(*set));
    for (uint32_t i = 0; i < count; i++) {
        uint16_t one = some_vid(next_random(state));
        allowed[i] = one ? one : 20;
        set[allowed[i]] = true;
    }
    if (mode == WH_VLAN_TRUNK && vid)
        set[vid] = true;
    CHECK(wh_vlan_set(v, mode, vid, allowed, count, NULL) == WH_OK);
}

static void against_model(uint64_t seed)
{
    struct wh_vlan in = {0}, out = {0};
    bool in_set[4096], out_set[4096];
    uint8_t *room = malloc(ROOM + BYTES), want[BYTES];
    uint64_t state = seed;
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t r = next_random(&state);
        if (step % 50 == 0)
            settings(&state, &in, in_set), settings(&state, &out, out_set);
        struct tags t = {(unsigned)(r % 3), {r & 64 ? 0x8100 : 0x88a8, 0x8100}, {0, 0}};
        t.tci[0] = (uint16_t)((r >> 20 & 0xf000) | some_vid(r >> 8));
        t.tci[1] = some_vid(r >> 12);
        struct wh_frame f = wh_frame_plain(room + ROOM, 0), left;
        uint32_t payload = (uint32_t)(r >> 32) % 60;
        f.len = build(f.data, &t, payload);
        f.csum = r >> 60 & 1 ? WH_CSUM_PARTIAL : WH_CSUM_COMPLETE;
        f.csum_start = (uint16_t)(14 + 4 * t.n);
        uint32_t from_end = f.len - f.csum_start;
        bool entered = wh_vlan_in(&in, &f);
        CHECK(entered == model_in(&in, in_set, &t));
        if (!entered)
            continue;
        CHECK(f.len == build(want, &t, payload) && !memcmp(f.data, want, f.len));
        CHECK(wh_vlan_tags(&f) == t.n && wh_vlan_of(&f) == (t.n ? t.tci[0] & 0xfff : 0));
        CHECK(f.csum != WH_CSUM_PARTIAL || f.len - f.csum_start == from_end);
        uint16_t tci = t.n ? t.tci[0] : 0;
        bool leaves = wh_vlan_out(&out, &f, &left);
        struct tags gone = t;
        CHECK(leaves == model_out(&out, out_set, &gone));
        if (!leaves)
            continue;
        uint8_t bare[BYTES];
        CHECK(left.len == build(bare, &gone, payload) && !memcmp(left.data, bare, left.len));
        CHECK(left.csum != WH_CSUM_PARTIAL || left.len - left.csum_start == from_end);
        wh_vlan_back(&f, &left, tci);
        CHECK(!memcmp(f.data, want, f.len)); /* for the next port of a flood */
    }
    wh_vlan_clear(&in), wh_vlan_clear(&out);
    free(room);
}

static void refused(void)
{
    struct wh_vlan v = {0};
    wh_error err;
    uint16_t one = 5, top = 4095, none = 0;
    CHECK(wh_vlan_set(&v, 2, 9, &one, 1, &err) == WH_OK && v.vid == 9);
    CHECK(wh_vlan_set(&v, 3, 0, NULL, 0, &err) == WH_E_INVAL && !strcmp(err.field, "mode"));
    CHECK(wh_vlan_set(&v, 1, 0, NULL, 0, &err) == WH_E_INVAL && !strcmp(err.field, "vid"));
    CHECK(wh_vlan_set(&v, 1, 4095, NULL, 0, &err) == WH_E_INVAL && wh_vlan_set(&v, 0, 1, NULL, 0, &err) == WH_E_INVAL);
    CHECK(wh_vlan_set(&v, 1, 5, &one, 1, &err) == WH_E_INVAL && !strcmp(err.field, "allowed"));
    CHECK(wh_vlan_set(&v, 2, 0, &top, 1, &err) == WH_E_INVAL && wh_vlan_set(&v, 2, 0, &none, 1, &err) == WH_E_INVAL);
    CHECK(v.mode == WH_VLAN_TRUNK && v.vid == 9); /* as it was */
    wh_vlan_clear(&v);
}

int main(void)
{
    for (uint64_t seed = 1; seed <= 5; seed++)
        against_model(seed * 7919);
    refused();
    return finish("vlan");
}

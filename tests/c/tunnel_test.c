/* Sealing and opening one datagram: round trips, every byte tampered, every length cut, bad arguments. */
#include "switch/aead.h"
#include "switch_check.h"

static const uint8_t key[32] = {1, 2, 3, 4, 5, 6, 7, 8, 9};

static size_t make(int cipher, const uint8_t *plain, size_t len, uint8_t *out, size_t cap)
{
    struct wh_header h = {
        .version = 1, .type = WH_TUNNEL_RELAYED, .hops = 8, .epoch = 3, .sender = 10, .dest = 20, .counter = 77};
    uint8_t header[WH_TUNNEL_HEADER];
    wh_header_encode(&h, header);
    CHECK(wh_tunnel_seal(cipher, key, header, sizeof(header), plain, len, out, &cap) == WH_OK);
    return cap;
}

static void round_trip(int cipher, size_t len)
{
    uint8_t plain[1500], sealed[1600], opened[1500];
    size_t got = sizeof(opened);
    for (size_t i = 0; i < len; i++)
        plain[i] = (uint8_t)(i * 7);
    size_t n = make(cipher, plain, len, sealed, sizeof(sealed));
    CHECK(n == len + WH_TUNNEL_OVERHEAD);
    sealed[2] = 3; /* a relay lowers the hop limit */
    CHECK(wh_tunnel_open(cipher, key, sealed, n, opened, &got) == WH_OK && got == len && !memcmp(opened, plain, len));
    got = sizeof(opened);
    CHECK(wh_tunnel_open(!cipher, key, sealed, n, opened, &got) == WH_E_AUTH && got == 0);
}

static void tampered(int cipher)
{
    uint8_t plain[60] = {9}, sealed[200], opened[200];
    size_t n = make(cipher, plain, sizeof(plain), sealed, sizeof(sealed));
    for (size_t i = 0; i < n; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            size_t got = sizeof(opened);
            sealed[i] ^= (uint8_t)(1u << bit);
            int status = wh_tunnel_open(cipher, key, sealed, n, opened, &got);
            CHECK(i == 2 ? status == WH_OK : status == WH_E_AUTH || (i < 4 && status == WH_E_FORMAT));
            sealed[i] ^= (uint8_t)(1u << bit);
        }
    }
    size_t room = sizeof(opened);
    memset(opened, 0, sizeof(opened));
    sealed[n - 1] ^= 1;
    CHECK(wh_tunnel_open(cipher, key, sealed, n, opened, &room) == WH_E_AUTH);
    for (size_t i = 0; i < sizeof(opened); i++)
        CHECK(opened[i] == 0); /* nothing unauthentic is left to be read by mistake */
    sealed[n - 1] ^= 1;
    for (size_t len = 0; len < n; len++) {
        size_t got = sizeof(opened);
        int status = wh_tunnel_open(cipher, key, sealed, len, opened, &got);
        CHECK(status == (len < WH_TUNNEL_OVERHEAD ? WH_E_FORMAT : WH_E_AUTH));
    }
}

static void arguments(void)
{
    uint8_t header[WH_TUNNEL_HEADER] = {1, 1}, plain[16] = {0}, out[100];
    size_t n = 16 + WH_TUNNEL_OVERHEAD - 1;
    CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, 16, out, &n) == WH_E_FULL);
    n = sizeof(out);
    CHECK(wh_tunnel_seal(0, key, header, sizeof(header) - 1, plain, 16, out, &n) == WH_E_FORMAT);
    CHECK(wh_tunnel_seal(2, key, header, sizeof(header), plain, 16, out, &n) == WH_E_INVAL);
    CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, SIZE_MAX, out, &n) == WH_E_INVAL);
    header[0] = 2;
    n = sizeof(out);
    CHECK(wh_tunnel_seal(0, key, header, sizeof(header), plain, 16, out, &n) == WH_E_FORMAT);
    size_t len = make(0, plain, 16, out, sizeof(out));
    n = 15;
    CHECK(wh_tunnel_open(0, key, out, len, plain, &n) == WH_E_FULL);
    int best = wh_switch_best_cipher();
    CHECK(best == 0 || best == 1);
}

/* Both implementations make the same bytes and open each other's, also in place. */
static void agree(const wh_crypto *crypto, int cipher)
{
    wh_aead *seal[2], *open[2];
    uint8_t plain[1500], sealed[2][1600], header[WH_TUNNEL_HEADER];
    uint64_t state = 5;
    for (int i = 0; i < 2; i++)
        CHECK(wh_aead_new(i ? crypto : NULL, cipher, key, true, &seal[i]) == WH_OK &&
              wh_aead_new(i ? crypto : NULL, cipher, key, false, &open[i]) == WH_OK);
    for (uint32_t len = 0; len < sizeof(plain); len += len < 300 ? 1 : 37) {
        struct wh_header h = {
            .version = 1, .type = 2, .hops = (uint8_t)len, .epoch = len, .sender = 1, .dest = 2, .counter = len + 1};
        wh_header_encode(&h, header);
        for (uint32_t i = 0; i < len; i++)
            plain[i] = (uint8_t)next_random(&state);
        size_t n = len + WH_TUNNEL_OVERHEAD;
        CHECK(wh_aead_seal(seal[0], header, plain, len, sealed[0]) == WH_OK);
        memcpy(sealed[1] + WH_TUNNEL_HEADER, plain, len);
        CHECK(wh_aead_seal(seal[1], header, sealed[1] + WH_TUNNEL_HEADER, len, sealed[1]) == WH_OK);
        CHECK(!memcmp(sealed[0], sealed[1], n));
        for (int i = 0; i < 2; i++) {
            CHECK(wh_aead_open(open[i], sealed[i], n, sealed[i] + WH_TUNNEL_HEADER) == WH_OK);
            CHECK(!memcmp(sealed[i] + WH_TUNNEL_HEADER, plain, len));
        }
    }
    for (int i = 0; i < 2; i++)
        wh_aead_free(seal[i]), wh_aead_free(open[i]);
}

/* One context serves many nonces: what an earlier datagram left in it must not show in a later one. */
static void context_reuse(const wh_crypto *crypto, int cipher)
{
    wh_aead *out = NULL, *in = NULL;
    uint8_t plain[300], sealed[400], opened[300];
    memset(plain, 5, sizeof(plain));
    CHECK(wh_aead_new(crypto, cipher, key, true, &out) == WH_OK &&
          wh_aead_new(crypto, cipher, key, false, &in) == WH_OK);
    for (uint32_t i = 1; i <= 300; i++) {
        struct wh_header h = {.version = 1, .type = 1, .hops = 1, .epoch = i % 3, .sender = 1, .dest = 2, .counter = i};
        uint8_t header[WH_TUNNEL_HEADER];
        wh_header_encode(&h, header);
        CHECK(wh_aead_seal(out, header, plain, i, sealed) == WH_OK);
        if (i % 5 == 0) { /* a failure in between must not poison the context */
            sealed[WH_TUNNEL_HEADER] ^= 1;
            CHECK(wh_aead_open(in, sealed, i + WH_TUNNEL_OVERHEAD, opened) == WH_E_AUTH);
            sealed[WH_TUNNEL_HEADER] ^= 1;
        }
        CHECK(wh_aead_open(in, sealed, i + WH_TUNNEL_OVERHEAD, opened) == WH_OK && !memcmp(plain, opened, i));
    }
    uint8_t other[32] = {0};
    CHECK(wh_aead_same(in, cipher, key) && !wh_aead_same(in, !cipher, key) && !wh_aead_same(in, cipher, other));
    wh_aead_free(out);
    wh_aead_free(in);
}

int main(void)
{
    static const size_t lengths[] = {0, 1, 15, 16, 17, 64, 255, 1400, 1424};
    wh_crypto *crypto;
    CHECK(wh_crypto_new(&crypto) == WH_OK);
    printf("AES-256-GCM by %s\n", wh_crypto_name(crypto));
    for (int cipher = 0; cipher < 2; cipher++) {
        for (size_t i = 0; i < WH_ARRAY_LEN(lengths); i++)
            round_trip(cipher, lengths[i]);
        tampered(cipher);
        context_reuse(NULL, cipher);
        context_reuse(crypto, cipher);
        agree(crypto, cipher);
    }
    wh_crypto_free(crypto);
    arguments();
    return finish("tunnel");
}

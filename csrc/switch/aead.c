#include "switch/aead.h"

#include "switch/ipsecmb.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

struct wh_crypto {
    struct wh_ipsecmb mb; /* without functions where the host has none */
};

struct wh_aead {
    _Alignas(WH_GCM_ALIGN) uint8_t gcm_context[WH_GCM_CONTEXT_BYTES];
    const struct wh_ipsecmb *mb; /* NULL: libcrypto's ctx is used, and gcm_key is not there */
    EVP_CIPHER_CTX *ctx;
    int cipher;
    bool seal;
    uint8_t key[32]; /* kept to recognise a key that is installed again: its counter must not start anew */
    _Alignas(WH_GCM_ALIGN) uint8_t gcm_key[];
};

int wh_crypto_new(wh_crypto **out)
{
    wh_crypto *c = calloc(1, sizeof(*c));
    if (!c)
        return WH_E_NOMEM;
    (void)wh_ipsecmb_load(&c->mb); /* without it we have libcrypto */
    *out = c;
    return WH_OK;
}

void wh_crypto_free(wh_crypto *c)
{
    if (c)
        wh_ipsecmb_unload(&c->mb);
    free(c);
}

const char *wh_crypto_name(const wh_crypto *c)
{
    return c && c->mb.seal ? c->mb.name : OpenSSL_version(OPENSSL_VERSION);
}

int wh_switch_best_cipher(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") ? WH_CIPHER_AES256_GCM
                                                                             : WH_CIPHER_CHACHA20_POLY1305;
#elif defined(__aarch64__)
    return getauxval(AT_HWCAP) & HWCAP_AES ? WH_CIPHER_AES256_GCM : WH_CIPHER_CHACHA20_POLY1305;
#else
    return WH_CIPHER_CHACHA20_POLY1305;
#endif
}

static bool init_evp(wh_aead *a, const uint8_t key[32])
{
    const EVP_CIPHER *evp = a->cipher == WH_CIPHER_AES256_GCM ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();
    a->ctx = EVP_CIPHER_CTX_new();
    return a->ctx && EVP_CipherInit_ex(a->ctx, evp, NULL, key, NULL, a->seal) == 1;
}

static size_t size_of(const struct wh_ipsecmb *mb)
{
    return sizeof(wh_aead) + (mb ? WH_GCM_KEY_BYTES : 0); /* both multiples of the alignment */
}

int wh_aead_new(const wh_crypto *crypto, int cipher, const uint8_t key[32], bool seal, wh_aead **out)
{
    if (cipher != WH_CIPHER_AES256_GCM && cipher != WH_CIPHER_CHACHA20_POLY1305)
        return WH_E_INVAL;
    const struct wh_ipsecmb *mb = crypto && crypto->mb.seal && cipher == WH_CIPHER_AES256_GCM ? &crypto->mb : NULL;
    wh_aead *a = aligned_alloc(WH_GCM_ALIGN, size_of(mb));
    if (!a)
        return WH_E_NOMEM;
    memset(a, 0, size_of(mb));
    a->mb = mb;
    a->cipher = cipher;
    a->seal = seal;
    memcpy(a->key, key, sizeof(a->key));
    if (mb) {
        mb->expand(key, a->gcm_key);
    } else if (!init_evp(a, key)) {
        wh_aead_free(a);
        return WH_E_NOMEM;
    }
    *out = a;
    return WH_OK;
}

void wh_aead_free(wh_aead *a)
{
    if (!a)
        return;
    EVP_CIPHER_CTX_free(a->ctx); /* cleanses its key schedule */
    OPENSSL_cleanse(a, size_of(a->mb));
    free(a);
}

bool wh_aead_same(const wh_aead *a, int cipher, const uint8_t key[32])
{
    return a && a->cipher == cipher && CRYPTO_memcmp(a->key, key, sizeof(a->key)) == 0;
}

static bool begin(wh_aead *a, const uint8_t header[WH_TUNNEL_HEADER])
{
    uint8_t aad[WH_TUNNEL_HEADER], nonce[WH_TUNNEL_NONCE];
    int n;
    wh_header_aad(header, aad);
    wh_header_nonce(header, nonce);
    return EVP_CipherInit_ex(a->ctx, NULL, NULL, NULL, nonce, a->seal) == 1 &&
           EVP_CipherUpdate(a->ctx, NULL, &n, aad, sizeof(aad)) == 1;
}

static int seal_evp(wh_aead *a, const uint8_t *plain, size_t plain_len, uint8_t *out)
{
    uint8_t *body = out + WH_TUNNEL_HEADER;
    int n = 0, last = 0;
    if (!begin(a, out) || (plain_len && EVP_CipherUpdate(a->ctx, body, &n, plain, (int)plain_len) != 1) ||
        EVP_CipherFinal_ex(a->ctx, body + n, &last) != 1 ||
        EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_GET_TAG, WH_TUNNEL_TAG, body + plain_len) != 1)
        return WH_E_NOMEM; /* the only failure left to libcrypto here */
    return WH_OK;
}

int wh_aead_seal(wh_aead *a, const uint8_t header[WH_TUNNEL_HEADER], const uint8_t *plain, size_t plain_len,
                 uint8_t *out)
{
    if (!a->seal || plain_len > INT_MAX - WH_TUNNEL_OVERHEAD)
        return WH_E_INVAL;
    memmove(out, header, WH_TUNNEL_HEADER);
    if (!a->mb)
        return seal_evp(a, plain, plain_len, out);
    uint8_t aad[WH_TUNNEL_HEADER], nonce[WH_TUNNEL_NONCE], *body = out + WH_TUNNEL_HEADER;
    wh_header_aad(out, aad);
    wh_header_nonce(out, nonce);
    a->mb->seal(a->gcm_key, a->gcm_context, body, plain, plain_len, nonce, aad, sizeof(aad), body + plain_len,
                WH_TUNNEL_TAG);
    return WH_OK;
}

static int open_evp(wh_aead *a, const uint8_t *datagram, size_t len, uint8_t *out)
{
    const uint8_t *body = datagram + WH_TUNNEL_HEADER;
    uint8_t tag[WH_TUNNEL_TAG];
    int n = 0, last = 0;
    memcpy(tag, body + len, sizeof(tag));
    if (!begin(a, datagram) || (len && EVP_CipherUpdate(a->ctx, out, &n, body, (int)len) != 1) ||
        EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_SET_TAG, WH_TUNNEL_TAG, tag) != 1)
        return WH_E_NOMEM;
    return EVP_CipherFinal_ex(a->ctx, out + n, &last) == 1 ? WH_OK : WH_E_AUTH;
}

static int open_mb(wh_aead *a, const uint8_t *datagram, size_t len, uint8_t *out)
{
    const uint8_t *body = datagram + WH_TUNNEL_HEADER;
    uint8_t aad[WH_TUNNEL_HEADER], nonce[WH_TUNNEL_NONCE], tag[WH_TUNNEL_TAG];
    wh_header_aad(datagram, aad);
    wh_header_nonce(datagram, nonce);
    a->mb->open(a->gcm_key, a->gcm_context, out, body, len, nonce, aad, sizeof(aad), tag, sizeof(tag));
    return CRYPTO_memcmp(tag, body + len, sizeof(tag)) == 0 ? WH_OK : WH_E_AUTH;
}

int wh_aead_open(wh_aead *a, const uint8_t *datagram, size_t datagram_len, uint8_t *out)
{
    if (a->seal)
        return WH_E_INVAL;
    if (datagram_len < WH_TUNNEL_OVERHEAD || datagram_len > INT_MAX)
        return WH_E_FORMAT;
    size_t len = datagram_len - WH_TUNNEL_OVERHEAD;
    int status = a->mb ? open_mb(a, datagram, len, out) : open_evp(a, datagram, len, out);
    if (status == WH_E_AUTH)
        OPENSSL_cleanse(out, len);
    return status;
}

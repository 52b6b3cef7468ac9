#include "switch/aead.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

struct wh_aead {
    EVP_CIPHER_CTX *ctx;
    int cipher;
    bool seal;
    uint8_t key[32]; /* kept to recognise a key that is installed again: its counter must not start anew */
};

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

int wh_aead_new(int cipher, const uint8_t key[32], bool seal, wh_aead **out)
{
    const EVP_CIPHER *evp;
    if (cipher == WH_CIPHER_AES256_GCM)
        evp = EVP_aes_256_gcm();
    else if (cipher == WH_CIPHER_CHACHA20_POLY1305)
        evp = EVP_chacha20_poly1305();
    else
        return WH_E_INVAL;
    wh_aead *a = calloc(1, sizeof(*a));
    if (!a)
        return WH_E_NOMEM;
    a->cipher = cipher;
    a->seal = seal;
    memcpy(a->key, key, sizeof(a->key));
    a->ctx = EVP_CIPHER_CTX_new();
    if (!a->ctx || EVP_CipherInit_ex(a->ctx, evp, NULL, key, NULL, seal) != 1) {
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
    OPENSSL_cleanse(a, sizeof(*a));
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

int wh_aead_seal(wh_aead *a, const uint8_t header[WH_TUNNEL_HEADER], const uint8_t *plain, size_t plain_len,
                 uint8_t *out)
{
    uint8_t *body = out + WH_TUNNEL_HEADER;
    int n = 0, last = 0;
    if (!a->seal || plain_len > INT_MAX - WH_TUNNEL_OVERHEAD)
        return WH_E_INVAL;
    memmove(out, header, WH_TUNNEL_HEADER);
    if (!begin(a, out) || (plain_len && EVP_CipherUpdate(a->ctx, body, &n, plain, (int)plain_len) != 1) ||
        EVP_CipherFinal_ex(a->ctx, body + n, &last) != 1 ||
        EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_GET_TAG, WH_TUNNEL_TAG, body + plain_len) != 1)
        return WH_E_NOMEM; /* the only failure left to libcrypto here */
    return WH_OK;
}

int wh_aead_open(wh_aead *a, const uint8_t *datagram, size_t datagram_len, uint8_t *out)
{
    int n = 0, last = 0;
    if (a->seal)
        return WH_E_INVAL;
    if (datagram_len < WH_TUNNEL_OVERHEAD || datagram_len > INT_MAX)
        return WH_E_FORMAT;
    size_t len = datagram_len - WH_TUNNEL_OVERHEAD;
    const uint8_t *body = datagram + WH_TUNNEL_HEADER;
    uint8_t tag[WH_TUNNEL_TAG];
    memcpy(tag, body + len, sizeof(tag));
    if (!begin(a, datagram) || (len && EVP_CipherUpdate(a->ctx, out, &n, body, (int)len) != 1) ||
        EVP_CIPHER_CTX_ctrl(a->ctx, EVP_CTRL_AEAD_SET_TAG, WH_TUNNEL_TAG, tag) != 1)
        return WH_E_NOMEM;
    if (EVP_CipherFinal_ex(a->ctx, out + n, &last) != 1) {
        OPENSSL_cleanse(out, len);
        return WH_E_AUTH;
    }
    return WH_OK;
}

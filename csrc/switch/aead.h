/* aead: one key in one direction, AES-256-GCM or ChaCha20-Poly1305 by libcrypto. The context is set up once a key and
 * only given a new nonce for each datagram. Not safe for two threads at once. */
#ifndef WH_SWITCH_AEAD_H
#define WH_SWITCH_AEAD_H

#include "switch/wire.h"

enum wh_cipher { WH_CIPHER_AES256_GCM = 0, WH_CIPHER_CHACHA20_POLY1305 = 1 };

typedef struct wh_aead wh_aead;

int wh_aead_new(int cipher, const uint8_t key[32], bool seal, wh_aead **out); /* WH_E_INVAL: no such cipher */
void wh_aead_free(wh_aead *a);                                                /* erases the key */
bool wh_aead_same(const wh_aead *a, int cipher, const uint8_t key[32]);       /* constant time in the key */

/* out has room for the header, plain_len and the tag; the header is copied to its start. */
int wh_aead_seal(wh_aead *a, const uint8_t header[WH_TUNNEL_HEADER], const uint8_t *plain, size_t plain_len,
                 uint8_t *out);
/* out has room for datagram_len - WH_TUNNEL_OVERHEAD. WH_E_FORMAT: too short; WH_E_AUTH: tag (out is wiped). */
int wh_aead_open(wh_aead *a, const uint8_t *datagram, size_t datagram_len, uint8_t *out);

#endif

/* aead: one key in one direction, AES-256-GCM or ChaCha20-Poly1305. The key is expanded once and each datagram only
 * brings a new nonce. Not safe for two threads at once.
 *
 * Whose code computes it is a property of the process: libcrypto knows both ciphers; libipsec-mb, where the host has
 * it, does AES-256-GCM in two thirds of the time for full datagrams and in a fifth for small ones (no context to
 * prepare). The bytes are the same. */
#ifndef WH_SWITCH_AEAD_H
#define WH_SWITCH_AEAD_H

#include "switch/wire.h"

enum wh_cipher { WH_CIPHER_AES256_GCM = 0, WH_CIPHER_CHACHA20_POLY1305 = 1 };

typedef struct wh_crypto wh_crypto; /* whose code computes; one a switch */
typedef struct wh_aead wh_aead;

int wh_crypto_new(wh_crypto **out);
void wh_crypto_free(wh_crypto *c); /* after the last key that was made with it */
/* Who computes AES-256-GCM, with the version. Stays valid as long as c. */
const char *wh_crypto_name(const wh_crypto *c);

/* crypto NULL: libcrypto. WH_E_INVAL: no such cipher. */
int wh_aead_new(const wh_crypto *crypto, int cipher, const uint8_t key[32], bool seal, wh_aead **out);
void wh_aead_free(wh_aead *a);                                          /* erases the key */
bool wh_aead_same(const wh_aead *a, int cipher, const uint8_t key[32]); /* constant time in the key */

/* out has room for the header, plain_len and the tag; the header is copied to its start. plain may stand where its
 * ciphertext will (out + WH_TUNNEL_HEADER), but must not overlap it in another way. */
int wh_aead_seal(wh_aead *a, const uint8_t header[WH_TUNNEL_HEADER], const uint8_t *plain, size_t plain_len,
                 uint8_t *out);
/* out has room for datagram_len - WH_TUNNEL_OVERHEAD; it may be datagram + WH_TUNNEL_HEADER. WH_E_FORMAT: too short;
 * WH_E_AUTH: tag (out is wiped). */
int wh_aead_open(wh_aead *a, const uint8_t *datagram, size_t datagram_len, uint8_t *out);

#endif

/* tunnel: one datagram sealed and opened without a switch, for the tests that hold C and the Python reference
 * (protocol/tunnel.py) against each other. */
#include "switch/aead.h"

int wh_tunnel_seal(int cipher, const uint8_t key[32], const uint8_t *header, size_t header_len, const uint8_t *plain,
                   size_t plain_len, uint8_t *out, size_t *out_len)
{
    struct wh_header h;
    wh_aead *a;
    if (header_len != WH_TUNNEL_HEADER || !wh_header_decode(header, header_len, &h))
        return WH_E_FORMAT;
    if (plain_len > WH_DATAGRAM_MAX - WH_TUNNEL_OVERHEAD)
        return WH_E_INVAL;
    if (*out_len < plain_len + WH_TUNNEL_OVERHEAD)
        return WH_E_FULL;
    int status = wh_aead_new(NULL, cipher, key, true, &a);
    if (status)
        return status;
    status = wh_aead_seal(a, header, plain, plain_len, out);
    wh_aead_free(a);
    *out_len = status ? 0 : plain_len + WH_TUNNEL_OVERHEAD;
    return status;
}

int wh_tunnel_open(int cipher, const uint8_t key[32], const uint8_t *datagram, size_t datagram_len, uint8_t *out,
                   size_t *out_len)
{
    struct wh_header h;
    wh_aead *a;
    if (datagram_len < WH_TUNNEL_OVERHEAD || datagram_len > WH_DATAGRAM_MAX ||
        !wh_header_decode(datagram, datagram_len, &h))
        return WH_E_FORMAT;
    if (*out_len < datagram_len - WH_TUNNEL_OVERHEAD)
        return WH_E_FULL;
    int status = wh_aead_new(NULL, cipher, key, false, &a);
    if (status)
        return status;
    status = wh_aead_open(a, datagram, datagram_len, out);
    wh_aead_free(a);
    *out_len = status ? 0 : datagram_len - WH_TUNNEL_OVERHEAD;
    return status;
}

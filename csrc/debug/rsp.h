/* rsp: packets of the GDB remote serial protocol (GDB manual, appendix "Remote Protocol", "Overview"). Pure: bytes in,
 * events out; no input makes it fail or grow. */
#ifndef WH_RSP_H
#define WH_RSP_H

#include "base/base.h"

#define WH_RSP_MAX 0x4000u /* the longest packet taken or made, without $, # and checksum */

enum wh_rsp_event {
    WH_RSP_NONE,
    WH_RSP_PACKET, /* in data[0..len), unescaped, terminated by a 0 that is not counted */
    WH_RSP_BAD,    /* the checksum is wrong or it was too long: ask for it again */
    WH_RSP_ACK,
    WH_RSP_NAK,
    WH_RSP_BREAK, /* Ctrl-C */
};

typedef struct wh_rsp {
    enum { WH_RSP_IDLE, WH_RSP_BODY, WH_RSP_ESCAPED, WH_RSP_SUM1, WH_RSP_SUM2 } state;
    bool too_long;
    uint8_t sum, wanted;
    uint32_t len;
    uint8_t data[WH_RSP_MAX + 1];
} wh_rsp;

void wh_rsp_init(wh_rsp *r);
enum wh_rsp_event wh_rsp_feed(wh_rsp *r, uint8_t byte);

/* A reply under construction; what does not fit marks it too long, and it becomes an error reply. */
typedef struct wh_rsp_out {
    uint32_t len;
    bool too_long;
    char data[WH_RSP_MAX];
} wh_rsp_out;
void wh_rsp_clear(wh_rsp_out *o);
void wh_rsp_bytes(wh_rsp_out *o, const void *bytes, size_t len); /* as they are: the framing escapes them */
void wh_rsp_text(wh_rsp_out *o, const char *text);
void wh_rsp_printf(wh_rsp_out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void wh_rsp_hex(wh_rsp_out *o, const void *bytes, size_t len);
/* $...#xx with escapes into out; cap must be 2 * WH_RSP_MAX + 4. Returns the length. */
#define WH_RSP_FRAME_MAX (2u * WH_RSP_MAX + 4u)
size_t wh_rsp_frame(const wh_rsp_out *o, uint8_t *out);

/* Parsing within a packet: a cursor over 0-terminated text. */
typedef struct wh_rsp_in {
    const char *at, *end;
} wh_rsp_in;
bool wh_rsp_number(wh_rsp_in *in, uint64_t *out);  /* hexadecimal, at least one digit; false: none, or above 64 bits */
bool wh_rsp_char(wh_rsp_in *in, char c);           /* takes c if it is next */
bool wh_rsp_word(wh_rsp_in *in, const char *word); /* takes word if it is next */
/* Exactly len bytes of hexadecimal pairs. */
bool wh_rsp_unhex(wh_rsp_in *in, void *out, size_t len);

#endif

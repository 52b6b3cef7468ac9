/* Framing and text of the remote serial protocol. Contract: rsp.h. */
#include "debug/rsp.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void wh_rsp_init(wh_rsp *r)
{
    r->state = WH_RSP_IDLE;
    r->len = 0;
    r->too_long = false;
}

static enum wh_rsp_event begin(wh_rsp *r, uint8_t byte)
{
    switch (byte) {
    case '$':
        r->state = WH_RSP_BODY;
        r->len = 0;
        r->sum = 0;
        r->too_long = false;
        return WH_RSP_NONE;
    case '+':
        return WH_RSP_ACK;
    case '-':
        return WH_RSP_NAK;
    case 3:
        return WH_RSP_BREAK;
    default:
        return WH_RSP_NONE; /* noise between packets */
    }
}

static void keep(wh_rsp *r, uint8_t byte)
{
    if (r->len < WH_RSP_MAX)
        r->data[r->len++] = byte;
    else
        r->too_long = true;
}

static void body(wh_rsp *r, uint8_t byte)
{
    if (byte == '#') {
        r->state = WH_RSP_SUM1;
        return;
    }
    if (byte == '$') { /* can't be part of one: the sender began anew */
        (void)begin(r, byte);
        return;
    }
    r->sum = (uint8_t)(r->sum + byte);
    if (byte == '}')
        r->state = WH_RSP_ESCAPED;
    else
        keep(r, byte);
}

static enum wh_rsp_event finish(wh_rsp *r, int low)
{
    r->state = WH_RSP_IDLE;
    r->data[r->len] = 0;
    bool right = low >= 0 && r->wanted != 0xff && (unsigned)(r->wanted << 4 | low) == r->sum;
    return right && !r->too_long ? WH_RSP_PACKET : WH_RSP_BAD;
}

enum wh_rsp_event wh_rsp_feed(wh_rsp *r, uint8_t byte)
{
    switch (r->state) {
    case WH_RSP_BODY:
        body(r, byte);
        return WH_RSP_NONE;
    case WH_RSP_ESCAPED:
        r->sum = (uint8_t)(r->sum + byte);
        keep(r, byte ^ 0x20);
        r->state = WH_RSP_BODY;
        return WH_RSP_NONE;
    case WH_RSP_SUM1:
        r->wanted = (uint8_t)digit(byte); /* 0xff: no digit, no sum is right */
        r->state = WH_RSP_SUM2;
        return WH_RSP_NONE;
    case WH_RSP_SUM2:
        return finish(r, digit(byte));
    default:
        return begin(r, byte);
    }
}

void wh_rsp_clear(wh_rsp_out *o)
{
    o->len = 0;
    o->too_long = false;
}

void wh_rsp_bytes(wh_rsp_out *o, const void *bytes, size_t len)
{
    if (len > sizeof o->data - o->len) {
        o->too_long = true;
        return;
    }
    memcpy(o->data + o->len, bytes, len);
    o->len += (uint32_t)len;
}

void wh_rsp_text(wh_rsp_out *o, const char *text)
{
    wh_rsp_bytes(o, text, strlen(text));
}

void wh_rsp_printf(wh_rsp_out *o, const char *fmt, ...)
{
    char text[256];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text)
        o->too_long = true;
    else
        wh_rsp_bytes(o, text, (size_t)n);
}

void wh_rsp_hex(wh_rsp_out *o, const void *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *from = bytes;
    for (size_t i = 0; i < len; i++) {
        char pair[2] = {digits[from[i] >> 4], digits[from[i] & 15]};
        wh_rsp_bytes(o, pair, 2);
    }
}

size_t wh_rsp_frame(const wh_rsp_out *o, uint8_t *out)
{
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;
    uint8_t sum = 0;
    out[n++] = '$';
    for (uint32_t i = 0; i < o->len; i++) {
        uint8_t c = (uint8_t)o->data[i];
        if (c == '$' || c == '#' || c == '}' || c == '*') {
            out[n++] = '}';
            sum = (uint8_t)(sum + '}');
            c ^= 0x20;
        }
        out[n++] = c;
        sum = (uint8_t)(sum + c);
    }
    out[n++] = '#';
    out[n++] = (uint8_t)digits[sum >> 4];
    out[n++] = (uint8_t)digits[sum & 15];
    return n;
}

bool wh_rsp_number(wh_rsp_in *in, uint64_t *out)
{
    uint64_t v = 0;
    const char *at = in->at;
    for (; at < in->end && digit(*at) >= 0; at++) {
        if (v >> 60)
            return false;
        v = v << 4 | (unsigned)digit(*at);
    }
    if (at == in->at)
        return false;
    in->at = at;
    *out = v;
    return true;
}

bool wh_rsp_char(wh_rsp_in *in, char c)
{
    if (in->at >= in->end || *in->at != c)
        return false;
    in->at++;
    return true;
}

bool wh_rsp_word(wh_rsp_in *in, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(in->end - in->at) < len || memcmp(in->at, word, len) != 0)
        return false;
    in->at += len;
    return true;
}

bool wh_rsp_unhex(wh_rsp_in *in, void *out, size_t len)
{
    uint8_t *to = out;
    if ((size_t)(in->end - in->at) / 2 < len)
        return false;
    for (size_t i = 0; i < len; i++) {
        int high = digit(in->at[2 * i]), low = digit(in->at[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        to[i] = (uint8_t)(high << 4 | low);
    }
    in->at += 2 * len;
    return true;
}

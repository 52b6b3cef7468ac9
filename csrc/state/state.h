/* state: a msgpack writer and reader (https://github.com/msgpack/msgpack/blob/master/spec.md) for machine state, page
 * batches and tunnel payloads. The writer grows a buffer; the first failure sticks and is told at the end. The reader
 * walks bytes it does not own, checks every length against what is left, and its first failure sticks too, so that a
 * caller reads a whole document and asks once. */
#ifndef WH_STATE_H
#define WH_STATE_H

#include "base/base.h"

typedef struct wh_writer {
    uint8_t *data;
    size_t len, cap;
    int status;
    bool fixed; /* data is the caller's: never grown, WH_E_FULL at the end */
} wh_writer;

void wh_writer_init(wh_writer *w);
void wh_writer_fixed(wh_writer *w, uint8_t *data, size_t cap);
void wh_writer_free(wh_writer *w);
void wh_put_nil(wh_writer *w);
void wh_put_bool(wh_writer *w, bool v);
void wh_put_uint(wh_writer *w, uint64_t v);
void wh_put_int(wh_writer *w, int64_t v);
void wh_put_bin(wh_writer *w, const void *data, size_t len);
void wh_put_str(wh_writer *w, const char *text);
void wh_put_array(wh_writer *w, uint32_t count);
void wh_put_map(wh_writer *w, uint32_t count);
/* "key": value, the usual line of a device's save() */
void wh_put_kuint(wh_writer *w, const char *key, uint64_t v);
void wh_put_kbin(wh_writer *w, const char *key, const void *data, size_t len);

typedef struct wh_reader {
    const uint8_t *p, *end;
    int status;
    unsigned depth;
    char field[48]; /* the key at which the first failure stood */
} wh_reader;

void wh_reader_init(wh_reader *r, const uint8_t *data, size_t len);
/* For a value that is well-formed and yet not allowed: the status becomes WH_E_FORMAT and field is kept. */
void wh_reader_fail(wh_reader *r, const char *field);
bool wh_get_nil(wh_reader *r); /* true and consumed when the next value is nil; else nothing is consumed */
bool wh_get_bool(wh_reader *r);
uint64_t wh_get_uint(wh_reader *r);
uint64_t wh_get_uint_max(wh_reader *r, uint64_t max);
int64_t wh_get_int(wh_reader *r);
const uint8_t *wh_get_bin(wh_reader *r, size_t *len);
void wh_get_bin_exact(wh_reader *r, void *out, size_t len);
const char *wh_get_str(wh_reader *r, size_t *len); /* not terminated */
uint32_t wh_get_array(wh_reader *r);
uint32_t wh_get_map(wh_reader *r);
void wh_get_skip(wh_reader *r); /* any value, depth-limited */
/* The document is well formed, but the value of key is not one that the caller can take: WH_E_FORMAT with key as field.
 */
void wh_reader_refuse(wh_reader *r, const char *key);
/* Maps are read in any order: find(key) in a map whose reader stands at its header gives a reader at the value; absent:
 * status WH_E_FORMAT with the key as field. Extra keys are allowed (a newer minor version). */
wh_reader wh_map_find(const wh_reader *map, const char *key);
bool wh_map_has(const wh_reader *map, const char *key);
uint64_t wh_map_uint(const wh_reader *map, const char *key, wh_reader *fail); /* a failure is copied into *fail */
void wh_map_bin(const wh_reader *map, const char *key, void *out, size_t len, wh_reader *fail);

#endif

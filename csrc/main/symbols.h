/* symbols: the few ELF64 symbols that the command knows. Absent ones are 0; a damaged file has none. */
#ifndef WH_SYMBOLS_H
#define WH_SYMBOLS_H

#include "base/base.h"

struct wh_symbols {
    uint64_t tohost, fromhost, begin_signature, end_signature;
};
void wh_symbols_read(int fd, struct wh_symbols *out);
bool wh_symbols_find(int fd, const char *name, uint64_t *value); /* false and untouched where there is none */

#endif

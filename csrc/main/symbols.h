/* symbols: the few ELF64 symbols that the command knows. Absent ones are 0; a damaged file has none. */
#ifndef WH_SYMBOLS_H
#define WH_SYMBOLS_H

#include "base/base.h"

struct wh_symbols {
    uint64_t tohost, begin_signature, end_signature;
};
void wh_symbols_read(int fd, struct wh_symbols *out);

#endif

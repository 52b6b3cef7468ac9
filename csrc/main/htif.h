/* htif: the host's end of the HTIF convention of RISC-V test programs (a word `tohost` that the program writes, a word
 * `fromhost` that answers), and the dump of a signature. The driver looks now and then; nothing interrupts the guest.
 */
#ifndef WH_HTIF_H
#define WH_HTIF_H

#include "main/symbols.h"
#include "memory/memory.h"

/* What the program asks for in tohost: device 0, command 0, an odd payload is its end (1: success, code << 1 | 1:
 * failure); an even one is the address of a system call block (write to 1 or 2 is served, all others fail); device 1,
 * command 1 is a character for the console. -1 to go on, else the exit status: 0, or the code, 255 for those above. */
int wh_htif_look(wh_ram *ram, const struct wh_symbols *symbols);

/* [first, end) as 32-bit hexadecimal words, one a line; -1 with the reason on standard error. */
int wh_signature_write(wh_ram *ram, uint64_t first, uint64_t end, const char *path);

#endif

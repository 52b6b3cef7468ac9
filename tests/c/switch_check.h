/* What the switch's tests share: checks that print and count. */
#ifndef SWITCH_CHECK_H
#define SWITCH_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static unsigned failures;

#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #cond);                                                  \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

/* A reproducible stream (xorshift64*); the seed is printed by who takes it from elsewhere. */
static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

static inline int finish(const char *name)
{
    printf("%s: %s\n", name, failures ? "FAILED" : "ok");
    return failures != 0;
}

#endif

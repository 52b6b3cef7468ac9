/* Integer mix in about equal parts: each iteration reverses and searches a linked list, multiplies two small matrices of a
 * size known at run time only, runs a byte state machine and folds all of it into a bitwise CRC. Prints "iterations ticks checksum", ticks of the
 * 10 MHz time CSR, so that the time of starting an emulator is not in the figure. */
#include <stdint.h>

static volatile uint8_t *const uart = (uint8_t *)0x10000000;

static void put_text(const char *s)
{
    while (*s)
        *uart = (uint8_t)*s++;
}

static void put_number(uint64_t v)
{
    char buf[24];
    int i = 23;
    buf[i] = 0;
    do
        buf[--i] = (char)('0' + v % 10);
    while (v /= 10);
    put_text(buf + i);
}

static uint64_t now(void)
{
    uint64_t t;
    __asm__ volatile("rdtime %0" : "=r"(t));
    return t;
}

struct node {
    struct node *next;
    int32_t key;
};
static struct node nodes[64], *list;
static int32_t a[81], b[81], c[81];
static volatile int size = 8;
static uint8_t text[256];

static uint32_t crc(uint32_t sum, uint32_t v)
{
    for (int i = 0; i < 8; i++) {
        uint32_t bit = (sum ^ v) & 1;
        sum >>= 1;
        v >>= 1;
        if (bit)
            sum ^= 0xedb88320u;
    }
    return sum;
}

static uint32_t search_list(uint32_t seed)
{
    uint32_t found = 0;
    for (int pass = 0; pass < 3; pass++) {
        struct node *reversed = 0;
        while (list) {
            struct node *next = list->next;
            list->next = reversed;
            reversed = list;
            list = next;
        }
        list = reversed;
        for (struct node *n = list; n; n = n->next)
            if ((n->key ^ (int32_t)seed) & (4 << pass))
                found += (uint32_t)n->key;
    }
    return found;
}

static uint32_t multiply(int32_t scale)
{
    uint32_t trace = 0;
    int n = size;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            int32_t sum = 0;
            for (int k = 0; k < n; k++)
                sum += a[i * n + k] * b[k * n + j];
            c[i * n + j] = sum + scale;
            trace ^= (uint32_t)c[i * n + j];
        }
    a[(trace & 7) * (uint32_t)n + (uint32_t)scale % 7] = (int32_t)(trace & 255); /* the next product is another one */
    return trace;
}

static uint32_t scan(uint32_t seed)
{
    uint32_t state = 0, counts[5] = {0, 0, 0, 0, 0};
    for (int i = 0; i < 256; i++) {
        uint8_t ch = text[(i + seed) & 255];
        switch (state) {
        case 0: state = ch >= '0' && ch <= '9' ? 1 : ch == '-' ? 2 : 0; break;
        case 1: state = ch == '.' ? 3 : ch >= '0' && ch <= '9' ? 1 : 0; break;
        case 2: state = ch >= '0' && ch <= '9' ? 1 : 4; break;
        case 3: state = ch == 'e' ? 4 : ch >= '0' && ch <= '9' ? 3 : 0; break;
        default: state = ch == ' ' ? 0 : 4; break;
        }
        counts[state]++;
    }
    return counts[0] + counts[1] * 3 + counts[2] * 5 + counts[3] * 7 + counts[4] * 11;
}

int main(void)
{
    static const char alphabet[] = "0123456789-.e xyz";
    for (int i = 0; i < 64; i++) {
        nodes[i].next = i < 63 ? &nodes[i + 1] : 0;
        nodes[i].key = i * 2654435 ^ i;
    }
    for (int i = 0; i < 256; i++)
        text[i] = (uint8_t)alphabet[(i * 7 + (i >> 3)) % 17];
    for (int i = 0; i < 81; i++) {
        a[i] = i - 40;
        b[i] = 3 * i + 1;
    }
    list = nodes;
    uint32_t sum = 0;
    uint64_t start = now(), iterations = 0, ticks;
    do {
        for (int i = 0; i < 64; i++, iterations++) {
            sum = crc(sum, search_list(sum + (uint32_t)i));
            sum = crc(sum, multiply((int32_t)(sum & 15)));
            sum = crc(sum, scan(sum));
        }
        ticks = now() - start;
    } while (ticks < 30000000);
    put_text("result ");
    put_number(iterations);
    put_text(" ");
    put_number(ticks);
    put_text(" ");
    put_number(sum);
    put_text("\n");
    return 0;
}

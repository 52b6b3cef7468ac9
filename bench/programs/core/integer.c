/* Row `integer`: lists, matrices and a state machine in about equal parts (34, 25 and 30 of a hundred instructions, as
 * `wherry-core run --stats` counts them), and a CRC of what they gave, as in a small embedded program. One time sorts a
 * linked list of 32 nodes by two orders through a function pointer, searches and reverses it eight times, multiplies
 * 10x10 matrices (16-bit in, 32-bit sums; the size is not known when it is compiled), scans 640 bytes of numbers with a
 * state machine, and folds lists, products and counts into a CRC-16. Like CoreMark, each time works on the same data.
 *
 * Row `branchy`: the same, but each time leaves its data changed for the next, so that after a while the text is noise,
 * and no branch predictor can learn the branches that look at it. A mispredicted branch costs every emulator the same.
 *
 * Rows `calls` (recursion) and `indirect` (calls through a table that data chooses). */
#include "bench.h"

enum { NODES = 32, TEXT = 640, MOST = 12 };

struct node {
    struct node *next;
    int16_t key, place;
};

static struct data {
    struct node nodes[NODES], *list;
    int16_t left[MOST * MOST], right[MOST * MOST];
    int32_t product[MOST * MOST];
    char text[TEXT];
    struct node *rekeyed; /* what one time changed last, and what it was */
    int16_t old_key;
    char *rewritten, old_char;
} d;
static volatile int size = 10;

static uint16_t crc16(uint16_t sum, uint32_t v)
{
    for (int i = 0; i < 16; i++, v >>= 1) {
        unsigned carry = (sum ^ v) & 1;
        sum >>= 1;
        if (carry)
            sum ^= 0xa001;
    }
    return sum;
}

static int by_key(const struct node *a, const struct node *b)
{
    return a->key - b->key;
}

static int by_place(const struct node *a, const struct node *b)
{
    return a->place - b->place;
}

/* Bottom-up merge sort: runs of `width` nodes are merged in pairs until one is left. */
static struct node *sort(struct node *head, int (*order)(const struct node *, const struct node *))
{
    for (int width = 1;; width *= 2) {
        struct node *rest = head, **tail = &head;
        int merges = 0;
        while (rest != NULL) {
            struct node *a = rest, *b = rest;
            int in_a = 0, in_b = width;
            for (; in_a < width && b != NULL; in_a++)
                b = b->next;
            merges++;
            while (in_a > 0 || (in_b > 0 && b != NULL)) {
                struct node **from = in_a == 0 ? &b : in_b == 0 || b == NULL ? &a : order(a, b) <= 0 ? &a : &b;
                *(from == &a ? &in_a : &in_b) -= 1;
                *tail = *from;
                tail = &(*from)->next;
                *from = (*from)->next;
            }
            rest = b;
        }
        *tail = NULL;
        if (merges <= 1)
            return head;
    }
}

static struct node *reverse(struct node *head)
{
    struct node *done = NULL;
    while (head != NULL) {
        struct node *next = head->next;
        head->next = done;
        done = head;
        head = next;
    }
    return done;
}

static uint32_t lists(uint32_t seed)
{
    uint32_t found = 0;
    d.list = sort(d.list, by_key);
    for (int16_t wanted = (int16_t)(seed & 7); wanted < 64; wanted += 8) {
        struct node *n = d.list;
        while (n != NULL && n->key != wanted)
            n = n->next;
        found = found * 3 + (n != NULL ? (uint32_t)n->place : 1);
        d.list = reverse(d.list);
    }
    d.rekeyed = &d.nodes[seed % NODES];
    d.old_key = d.rekeyed->key;
    d.rekeyed->key = (int16_t)(seed >> 3 & 63);
    d.list = sort(d.list, by_place);
    return found;
}

static uint32_t matrices(int16_t add)
{
    int n = size;
    uint32_t sum = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            int32_t cell = add;
            for (int k = 0; k < n; k++)
                cell += d.left[i * n + k] * d.right[k * n + j];
            d.product[i * n + j] = cell;
        }
    for (int i = 0; i < n * n; i++) {
        sum += (uint32_t)d.product[i] >> (i & 3);
        d.left[i] = (int16_t)(d.left[i] + (d.product[i] & 3) - 1);
    }
    return sum;
}

enum state { START, SIGN, DIGITS, POINT, EXPONENT, BAD };

static uint32_t states(uint32_t seed)
{
    uint32_t counts[6] = {0};
    enum state s = START;
    for (int i = 0; i < TEXT; i++) {
        char c = d.text[i];
        bool digit = c >= '0' && c <= '9';
        switch (s) {
        case START:
            s = digit ? DIGITS : c == '-' || c == '+' ? SIGN : c == '.' ? POINT : c == ',' ? START : BAD;
            break;
        case SIGN:
            s = digit ? DIGITS : c == '.' ? POINT : BAD;
            break;
        case DIGITS:
            s = digit ? DIGITS : c == '.' ? POINT : c == 'e' ? EXPONENT : c == ',' ? START : BAD;
            break;
        case POINT:
            s = digit ? POINT : c == 'e' ? EXPONENT : c == ',' ? START : BAD;
            break;
        case EXPONENT:
            s = digit ? EXPONENT : c == ',' ? START : BAD;
            break;
        default:
            s = c == ',' ? START : BAD;
        }
        counts[s]++;
    }
    d.rewritten = &d.text[seed % TEXT];
    d.old_char = *d.rewritten;
    *d.rewritten = "0123456789,.-+e,x"[seed % 17];
    return counts[0] | counts[1] << 4 | counts[2] << 8 | counts[3] << 16 | counts[4] << 20 | counts[5] << 24;
}

static bool integer_prepare(void)
{
    static const char numbers[] = "12,-345.6e7,+8.90,x1.,77e8,";
    for (int i = 0; i < NODES; i++)
        d.nodes[i] = (struct node){i + 1 < NODES ? &d.nodes[i + 1] : NULL, (int16_t)(i * 29 & 63), (int16_t)i};
    d.list = d.nodes;
    for (int i = 0; i < TEXT; i++)
        d.text[i] = numbers[(unsigned)i % (sizeof numbers - 1)];
    for (int i = 0; i < MOST * MOST; i++) {
        d.left[i] = (int16_t)(i * 7 % 31 - 15);
        d.right[i] = (int16_t)(i * 5 % 23 - 11);
    }
    return true;
}

static uint16_t crc_of_list(uint16_t sum)
{
    for (const struct node *n = d.list; n != NULL; n = n->next)
        sum = crc16(sum, (uint16_t)n->key);
    return sum;
}

static uint16_t crc_of_products(uint16_t sum)
{
    for (int i = 0; i < size * size; i++)
        sum = crc16(sum, (uint32_t)d.product[i]);
    return sum;
}

static uint16_t one_time(uint16_t sum)
{
    sum = crc16(sum, lists(sum));
    sum = crc_of_list(sum);
    sum = crc16(sum, matrices((int16_t)(sum & 15)));
    sum = crc_of_products(sum);
    return crc16(sum, states(sum));
}

static void undo(void)
{
    d.rekeyed->key = d.old_key;
    *d.rewritten = d.old_char;
    for (int i = 0; i < size * size; i++)
        d.left[i] = (int16_t)(d.left[i] - (d.product[i] & 3) + 1);
}

static uint64_t integer_run(uint64_t n)
{
    uint64_t sums = 0;
    for (uint64_t i = 0; i < n; i++) {
        sums = sums * 3 + one_time(0xffff);
        undo();
    }
    return sums;
}

static uint64_t branchy_run(uint64_t n)
{
    uint16_t sum = 0xffff;
    for (uint64_t i = 0; i < n; i++)
        sum = one_time(sum);
    return sum;
}

/* The barriers keep the compiler from making a loop of the second call; each call counts itself. */
__attribute__((noinline)) static uint64_t tree(uint64_t depth)
{
    if (depth < 2)
        return 1;
    uint64_t a = tree(depth - 1);
    __asm__ volatile("" : "+r"(a));
    uint64_t b = tree(depth - 2);
    __asm__ volatile("" : "+r"(b));
    return a + b + 1;
}

enum { TREE = 18, TREE_CALLS = 8361 }; /* tree(18) */

static uint64_t calls_run(uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += tree(TREE);
    return sum;
}

static uint64_t op_add(uint64_t x)
{
    return x + 0x9e37;
}
static uint64_t op_xor(uint64_t x)
{
    return x ^ x >> 7;
}
static uint64_t op_shift(uint64_t x)
{
    return x << 3 ^ x;
}
static uint64_t op_turn(uint64_t x)
{
    return x >> 11 | x << 53;
}
static uint64_t op_times(uint64_t x)
{
    return x * 5 + 1;
}
static uint64_t op_not(uint64_t x)
{
    return ~x + 3;
}
static uint64_t op_mix(uint64_t x)
{
    return (x ^ x << 13) - 7;
}
static uint64_t op_less(uint64_t x)
{
    return x - 0x1234567;
}

typedef uint64_t operation(uint64_t);
static operation *volatile const operations[16] = {op_add,  op_xor,  op_shift, op_turn, op_times, op_not,
                                                   op_mix,  op_less, op_times, op_add,  op_mix,   op_xor,
                                                   op_less, op_turn, op_shift, op_not};

static uint64_t indirect_run(uint64_t n)
{
    uint64_t x = 1;
    for (uint64_t i = 0; i < n; i++)
        x = operations[(x ^ x >> 19) & 15](x) + i;
    return x;
}

const struct row rows_integer[] = {
    {"integer", "it/s", integer_prepare, NULL, integer_run, 200, 1, true},
    {"branchy", "it/s", integer_prepare, NULL, branchy_run, 200, 1, true},
    {"calls", "M/s", NULL, NULL, calls_run, 2, TREE_CALLS / 1e6, true},
    {"indirect", "M/s", NULL, NULL, indirect_run, 10000, 1e-6, true},
    {0},
};

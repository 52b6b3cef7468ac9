#include "switch/pmtu.h"

#include "switch/wire.h"

/* IP packets of 1280, 1400, 1480, 1500, 9000 bytes over IPv4 and IPv6, and the longest datagram. */
static const uint16_t usual[] = {WH_PMTU_BASE, 1232, 1372, 1432, 1452, 1472, 8952, 8972, WH_DATAGRAM_MAX};

void wh_pmtu_reset(struct wh_pmtu *m, uint64_t now_ns)
{
    *m = (struct wh_pmtu){
        .good = WH_PMTU_LEAST, .bad = WH_DATAGRAM_MAX + 1u, .limit = WH_DATAGRAM_MAX, .next_ns = now_ns};
    m->raise_ns = now_ns + WH_PMTU_RAISE_NS;
}

/* 0: the search is over. */
static uint16_t candidate(const struct wh_pmtu *m)
{
    for (size_t i = 0; i < WH_ARRAY_LEN(usual); i++)
        if (usual[i] > m->good && usual[i] < m->bad)
            return usual[i];
    return m->bad - m->good > WH_PMTU_STEP ? (uint16_t)((m->good + m->bad) / 2) : 0;
}

static void finish_search(struct wh_pmtu *m, uint64_t now_ns)
{
    m->done = true;
    m->limit = m->good;
    m->probing = 0;
    m->tries = 0;
    m->next_ns = now_ns + WH_PMTU_CONFIRM_NS;
}

static void search(struct wh_pmtu *m, uint64_t now_ns)
{
    m->done = false;
    m->tries = 0;
    m->probing = candidate(m);
    m->next_ns = now_ns;
    if (!m->probing)
        finish_search(m, now_ns);
}

static void lost(struct wh_pmtu *m, uint16_t size, uint64_t now_ns)
{
    m->bad = size;
    if (size <= m->good) { /* what came through once does no longer: below it everything is open */
        m->good = WH_PMTU_LEAST;
        m->limit = (uint16_t)(size - 1);
    } else if (m->limit >= size && m->limit != m->good) {
        m->limit = (uint16_t)(size - 1); /* first search: nothing below has failed */
    }
    search(m, now_ns);
}

uint16_t wh_pmtu_due(struct wh_pmtu *m, uint64_t now_ns, uint64_t rtt_ns)
{
    if (now_ns < m->next_ns)
        return 0;
    if (m->done && now_ns >= m->raise_ns && !m->probing) {
        m->bad = WH_DATAGRAM_MAX + 1u;
        m->raise_ns = now_ns + WH_PMTU_RAISE_NS;
        search(m, now_ns);
    } else if (m->done && !m->probing) {
        m->probing = m->good; /* still? */
    } else if (!m->probing) {
        search(m, now_ns);
    } else if (m->tries == WH_PMTU_TRIES) {
        lost(m, m->probing, now_ns);
    }
    if (!m->probing)
        return 0;
    m->tries++;
    m->next_ns = now_ns + (rtt_ns * 3 > WH_PMTU_WAIT_NS ? rtt_ns * 3 : WH_PMTU_WAIT_NS);
    return m->probing;
}

void wh_pmtu_answered(struct wh_pmtu *m, uint16_t size, uint64_t now_ns)
{
    if (m->done && size <= m->good) {
        if (size == m->probing)
            finish_search(m, now_ns);
        return;
    }
    if (size <= m->good)
        return;
    m->good = size;
    if (m->bad <= size)
        m->bad = size + 1u;
    if (m->limit < size)
        m->limit = size;
    search(m, now_ns);
}

void wh_pmtu_refused(struct wh_pmtu *m, uint16_t size, uint64_t now_ns)
{
    if (size < m->bad && size > WH_PMTU_LEAST)
        lost(m, size, now_ns);
}

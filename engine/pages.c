/* pages.c: see pages.h. Idle pages form one list, the next to be taken first: pages without a name
 * at its front, named ones at its back in the order they were given. */
#include "pages.h"

#include <stdlib.h>
#include <sys/random.h>

typedef struct page {
    an_prefix parent, name;
    int32_t ids[AN_KV_BLOCK];
    int32_t refs;
    bool named;
    int32_t prev, next; /* idle pages */
    int32_t chain;      /* next named page of its bucket */
} page;

struct an_pages {
    page *page;
    int32_t *bucket;
    int64_t count, held;
    uint64_t mask;       /* buckets - 1 */
    int32_t first, last; /* idle pages */
    uint64_t key[2];
};

/* ---------------------------------------------------------------- names
 * SipHash: Aumasson and Bernstein 2012, the variant with 128 bits of the authors' reference. */

typedef struct sip {
    uint64_t v0, v1, v2, v3, words;
} sip;

static uint64_t turn(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static void sip_rounds(sip *s, int n)
{
    for (int i = 0; i < n; i++) {
        s->v0 += s->v1;
        s->v1 = turn(s->v1, 13) ^ s->v0;
        s->v0 = turn(s->v0, 32);
        s->v2 += s->v3;
        s->v3 = turn(s->v3, 16) ^ s->v2;
        s->v0 += s->v3;
        s->v3 = turn(s->v3, 21) ^ s->v0;
        s->v2 += s->v1;
        s->v1 = turn(s->v1, 17) ^ s->v2;
        s->v2 = turn(s->v2, 32);
    }
}

static sip sip_start(const uint64_t key[2])
{
    return (sip){.v0 = key[0] ^ 0x736f6d6570736575u,
                 .v1 = key[1] ^ 0x646f72616e646f6du ^ 0xee,
                 .v2 = key[0] ^ 0x6c7967656e657261u,
                 .v3 = key[1] ^ 0x7465646279746573u};
}

static void sip_word(sip *s, uint64_t w)
{
    s->v3 ^= w;
    sip_rounds(s, 2);
    s->v0 ^= w;
    s->words++;
}

static an_prefix sip_end(sip *s)
{
    an_prefix out;
    sip_word(s, (s->words * 8) << 56);
    s->v2 ^= 0xee;
    sip_rounds(s, 4);
    out.a = s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
    s->v1 ^= 0xdd;
    sip_rounds(s, 4);
    out.b = s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
    return out;
}

an_prefix an_prefix_root(const an_pages *p, const char *salt, uint64_t number)
{
    sip s = sip_start(p->key);
    size_t n = strlen(salt);
    sip_word(&s, n);
    sip_word(&s, number);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t w = 0;
        memcpy(&w, salt + i, n - i < 8 ? n - i : 8);
        sip_word(&s, w);
    }
    return sip_end(&s);
}

an_prefix an_prefix_next(const an_pages *p, an_prefix parent, const int32_t ids[AN_KV_BLOCK])
{
    sip s = sip_start(p->key);
    sip_word(&s, parent.a);
    sip_word(&s, parent.b);
    for (int i = 0; i < AN_KV_BLOCK; i += 2)
        sip_word(&s, (uint64_t)(uint32_t)ids[i] | (uint64_t)(uint32_t)ids[i + 1] << 32);
    return sip_end(&s);
}

static bool same(an_prefix x, an_prefix y)
{
    return x.a == y.a && x.b == y.b;
}

/* ---------------------------------------------------------------- the idle list */

static void idle_out(an_pages *p, int32_t i)
{
    page *x = &p->page[i];
    if (x->prev >= 0)
        p->page[x->prev].next = x->next;
    else
        p->first = x->next;
    if (x->next >= 0)
        p->page[x->next].prev = x->prev;
    else
        p->last = x->prev;
}

static void idle_in(an_pages *p, int32_t i, bool front)
{
    page *x = &p->page[i];
    x->prev = front ? -1 : p->last;
    x->next = front ? p->first : -1;
    if (x->prev >= 0)
        p->page[x->prev].next = i;
    else
        p->first = i;
    if (x->next >= 0)
        p->page[x->next].prev = i;
    else
        p->last = i;
}

/* ---------------------------------------------------------------- life */

an_pages *an_pages_new(int64_t count)
{
    if (count < 1 || count > INT32_MAX) return NULL;
    an_pages *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    uint64_t buckets = 16;
    while (buckets < (uint64_t)count) buckets *= 2;
    p->page = calloc((size_t)count, sizeof *p->page);
    p->bucket = malloc(buckets * sizeof *p->bucket);
    bool keyed = getrandom(p->key, sizeof p->key, 0) == (ssize_t)sizeof p->key;
    if (!p->page || !p->bucket || !keyed) {
        an_pages_free(p);
        return NULL;
    }
    p->count = count;
    p->mask = buckets - 1;
    p->first = p->last = -1;
    for (uint64_t b = 0; b < buckets; b++) p->bucket[b] = -1;
    for (int64_t i = 0; i < count; i++) idle_in(p, (int32_t)i, false);
    return p;
}

void an_pages_free(an_pages *p)
{
    if (!p) return;
    free(p->page);
    free(p->bucket);
    free(p);
}

int64_t an_pages_count(const an_pages *p)
{
    return p->count;
}

int64_t an_pages_held(const an_pages *p)
{
    return p->held;
}

int64_t an_pages_left(const an_pages *p)
{
    return p->count - p->held;
}

/* ---------------------------------------------------------------- taking and giving */

static void forget(an_pages *p, int32_t i)
{
    page *x = &p->page[i];
    if (!x->named) return;
    int32_t *at = &p->bucket[x->name.a & p->mask];
    while (*at != i) at = &p->page[*at].chain;
    *at = x->chain;
    x->named = false;
}

int32_t an_pages_take(an_pages *p)
{
    int32_t i = p->first;
    if (i < 0) return -1;
    idle_out(p, i);
    forget(p, i);
    p->page[i].refs = 1;
    p->held++;
    return i;
}

void an_pages_hold(an_pages *p, int32_t i)
{
    if (p->page[i].refs++ > 0) return;
    idle_out(p, i);
    p->held++;
}

void an_pages_give(an_pages *p, int32_t i)
{
    if (--p->page[i].refs > 0) return;
    idle_in(p, i, !p->page[i].named);
    p->held--;
}

/* ---------------------------------------------------------------- finding */

bool an_pages_has(const an_pages *p, an_prefix name)
{
    for (int32_t i = p->bucket[name.a & p->mask]; i >= 0; i = p->page[i].chain)
        if (same(p->page[i].name, name)) return true;
    return false;
}

int32_t an_pages_find(an_pages *p, an_prefix parent, an_prefix name, const int32_t ids[AN_KV_BLOCK])
{
    for (int32_t i = p->bucket[name.a & p->mask]; i >= 0; i = p->page[i].chain) {
        const page *x = &p->page[i];
        if (!same(x->name, name) || !same(x->parent, parent)) continue;
        if (memcmp(x->ids, ids, sizeof x->ids) != 0) continue;
        an_pages_hold(p, i);
        return i;
    }
    return -1;
}

void an_pages_name(an_pages *p, int32_t page_, an_prefix parent, an_prefix name,
                   const int32_t ids[AN_KV_BLOCK])
{
    int32_t *bucket = &p->bucket[name.a & p->mask];
    for (int32_t i = *bucket; i >= 0; i = p->page[i].chain)
        if (same(p->page[i].name, name)) return;
    page *x = &p->page[page_];
    if (x->named) return;
    x->parent = parent;
    x->name = name;
    memcpy(x->ids, ids, sizeof x->ids);
    x->named = true;
    x->chain = *bucket;
    *bucket = page_;
}

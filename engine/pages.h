/* pages.h: who holds which blocks of keys and values, and which of them hold a prefix that others
 * may share. Numbers and hashes only: the keys and values themselves lie in the model's an_kv.
 *
 * A page is held by any number of sequences. A full one may be named by what it holds: its 16 ids,
 * its parent's name (so that everything before it is part of it) and the salt at the root. A page
 * nobody holds keeps its name, and can be found again, until it is the least recently used one and
 * the memory is wanted. One thread at a time. */
#ifndef ENGINE_PAGES_H
#define ENGINE_PAGES_H

#include "anneal/ops.h"

typedef struct an_pages an_pages;

/* SipHash-2-4 with 128 bits and a key of the process's own: a client that chooses ids cannot make
 * two prefixes meet. */
typedef struct an_prefix {
    uint64_t a, b;
} an_prefix;

an_pages *an_pages_new(int64_t count); /* NULL: no memory */
void an_pages_free(an_pages *p);
int64_t an_pages_count(const an_pages *p);
int64_t an_pages_held(const an_pages *p); /* by at least one sequence */
int64_t an_pages_left(const an_pages *p); /* can be taken: never used, or only remembered */

/* A page with one holder and no name; the oldest remembered prefix goes for it. -1: all are held.
 */
int32_t an_pages_take(an_pages *p);
void an_pages_hold(an_pages *p, int32_t page); /* one holder more */
/* One holder less. A sequence gives its last page first: heads of prefixes are remembered longest.
 */
void an_pages_give(an_pages *p, int32_t page);

/* Whether a page of this name is remembered, without taking it. */
bool an_pages_has(const an_pages *p, an_prefix name);

an_prefix an_prefix_root(const an_pages *p, const char *salt, uint64_t number);
an_prefix an_prefix_next(const an_pages *p, an_prefix parent, const int32_t ids[AN_KV_BLOCK]);
/* The page of this name, or -1; one holder more. The ids are compared, not only the hashes. */
int32_t an_pages_find(an_pages *p, an_prefix parent, an_prefix name,
                      const int32_t ids[AN_KV_BLOCK]);
/* Names a held page whose 16 positions are all computed. Nothing happens if another has the name.
 */
void an_pages_name(an_pages *p, int32_t page, an_prefix parent, an_prefix name,
                   const int32_t ids[AN_KV_BLOCK]);

#endif

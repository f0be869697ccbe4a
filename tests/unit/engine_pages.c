/* Pages: taken and given, named and found, forgotten in the order they were last used; a long
 * random life against a plain list. */
#include "pages.h"
#include "test.h"

#include <stdlib.h>

static void ids_of(int32_t ids[AN_KV_BLOCK], int32_t v)
{
    for (int i = 0; i < AN_KV_BLOCK; i++) ids[i] = v + i;
}

TEST(taken_and_given)
{
    an_pages *p = an_pages_new(3);
    REQUIRE(p);
    int32_t a = an_pages_take(p), b = an_pages_take(p), c = an_pages_take(p);
    CHECK(a >= 0 && b >= 0 && c >= 0 && a != b && b != c && a != c);
    CHECK(an_pages_take(p) == -1);
    CHECK(an_pages_held(p) == 3 && an_pages_left(p) == 0);
    an_pages_hold(p, b);
    an_pages_give(p, b);
    CHECK(an_pages_left(p) == 0); /* still held once */
    an_pages_give(p, b);
    CHECK(an_pages_left(p) == 1 && an_pages_take(p) == b);
    an_pages_free(p);
    CHECK(an_pages_new(0) == NULL);
}

TEST(named_and_found)
{
    an_pages *p = an_pages_new(4);
    REQUIRE(p);
    int32_t ids[AN_KV_BLOCK], other[AN_KV_BLOCK];
    ids_of(ids, 7);
    ids_of(other, 8);
    an_prefix root = an_prefix_root(p, "", 0), salted = an_prefix_root(p, "x", 0);
    CHECK(memcmp(&root, &salted, sizeof root) != 0);
    an_prefix numbered = an_prefix_root(p, "", 1);
    CHECK(memcmp(&root, &numbered, sizeof root) != 0);
    an_prefix name = an_prefix_next(p, root, ids);
    int32_t a = an_pages_take(p);
    an_pages_name(p, a, root, name, ids);
    CHECK(an_pages_find(p, root, name, ids) == a);
    an_pages_give(p, a);
    /* A name that meets by chance: the ids and the parent are compared. */
    CHECK(an_pages_find(p, root, name, other) == -1);
    CHECK(an_pages_find(p, salted, name, ids) == -1);
    CHECK(an_pages_find(p, salted, an_prefix_next(p, salted, ids), ids) == -1);
    /* Two that computed the same: the first keeps the name. */
    int32_t b = an_pages_take(p);
    an_pages_name(p, b, root, name, ids);
    CHECK(an_pages_find(p, root, name, ids) == a);
    an_pages_give(p, a);
    an_pages_give(p, a);
    an_pages_give(p, b);
    CHECK(an_pages_held(p) == 0);
    CHECK(an_pages_find(p, root, name, ids) == a); /* remembered */
    CHECK(an_pages_held(p) == 1);
    an_pages_free(p);
}

TEST(the_least_recently_used_goes_first)
{
    enum { N = 5 };
    an_pages *p = an_pages_new(N);
    REQUIRE(p);
    int32_t ids[AN_KV_BLOCK], page[N];
    an_prefix root = an_prefix_root(p, "", 0), name[N];
    for (int i = 0; i < N; i++) {
        ids_of(ids, 100 * i);
        name[i] = an_prefix_next(p, root, ids);
        page[i] = an_pages_take(p);
        if (i != 3) an_pages_name(p, page[i], root, name[i], ids);
    }
    static const int order[N] = {2, 0, 3, 4, 1};
    for (int i = 0; i < N; i++) an_pages_give(p, page[order[i]]);
    CHECK(an_pages_take(p) == page[3]); /* has no name: nothing is lost with it */
    ids_of(ids, 200);
    CHECK(an_pages_find(p, root, name[2], ids) == page[2]); /* used again: no longer the oldest */
    an_pages_give(p, page[2]);
    CHECK(an_pages_take(p) == page[0]);
    ids_of(ids, 0);
    CHECK(an_pages_find(p, root, name[0], ids) == -1); /* forgotten */
    CHECK(an_pages_take(p) == page[4]);
    CHECK(an_pages_take(p) == page[1]);
    CHECK(an_pages_take(p) == page[2]);
    CHECK(an_pages_take(p) == -1);
    an_pages_free(p);
}

TEST(a_long_life)
{
    enum { N = 40, KEYS = 90 };
    an_pages *p = an_pages_new(N);
    REQUIRE(p);
    an_prefix root = an_prefix_root(p, "", 0);
    int refs[N] = {0}, key[N], held = 0;
    for (int i = 0; i < N; i++) key[i] = -1;
    srand(3);
    for (int step = 0; step < 200000; step++) {
        int32_t ids[AN_KV_BLOCK];
        int k = rand() % KEYS, what = rand() % 3;
        ids_of(ids, k * 50);
        an_prefix name = an_prefix_next(p, root, ids);
        if (what == 0) {
            int32_t page = an_pages_find(p, root, name, ids);
            if (page < 0) continue;
            CHECK(key[page] == k);
            held += refs[page]++ == 0;
        } else if (what == 1) {
            int32_t page = an_pages_take(p);
            CHECK((page < 0) == (held == N));
            if (page < 0) continue;
            CHECK(refs[page] == 0);
            refs[page] = 1;
            held++;
            key[page] = -1;
            bool there = false;
            for (int i = 0; i < N; i++) there |= key[i] == k;
            an_pages_name(p, page, root, name, ids);
            if (!there) key[page] = k;
        } else {
            int32_t page = rand() % N;
            if (refs[page] == 0) continue;
            an_pages_give(p, page);
            held -= --refs[page] == 0;
        }
        CHECK(an_pages_held(p) == held && an_pages_left(p) == N - held);
    }
    an_pages_free(p);
}

/* The vectors of SipHash's authors have their own key; what counts here is that every bit of the
 * input reaches both halves. */
TEST(names_differ)
{
    an_pages *p = an_pages_new(1);
    REQUIRE(p);
    int32_t ids[AN_KV_BLOCK] = {0};
    an_prefix root = an_prefix_root(p, "", 0), name = an_prefix_next(p, root, ids);
    int changed = 0;
    for (int i = 0; i < AN_KV_BLOCK; i++)
        for (int bit = 0; bit < 31; bit++) {
            ids[i] ^= 1 << bit;
            an_prefix x = an_prefix_next(p, root, ids);
            ids[i] ^= 1 << bit;
            CHECK(x.a != name.a && x.b != name.b);
            changed += __builtin_popcountll(x.a ^ name.a) + __builtin_popcountll(x.b ^ name.b);
        }
    double mean = changed / (31.0 * AN_KV_BLOCK);
    CHECK_MSG(mean > 60 && mean < 68, "%.1f of 128 bits change", mean);
    an_pages_free(p);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

/* bpe.h: what both byte-pair encoders are made of, CLIP's (clip_bpe.c) and that of language models
 * (vocab_bpe.c): a growing list of ids, and the heap in which pairs wait. Private to the room. */
#ifndef ANNEAL_TEXT_BPE_H
#define ANNEAL_TEXT_BPE_H

#include "anneal/base.h"

#include <stdlib.h>

typedef struct an_ids {
    int32_t *id; /* free() */
    size_t n, cap;
} an_ids;

static inline an_status an_ids_add(an_ids *l, int32_t id, an_error *err)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        int32_t *grown = realloc(l->id, cap * sizeof *grown);
        if (!grown) return an_fail(err, AN_NO_MEMORY, "out of memory for %zu ids", cap);
        l->id = grown;
        l->cap = cap;
    }
    l->id[l->n++] = id;
    return AN_OK;
}

/* Hands the list over as encoders do: of no ids too there is something to free(). */
static inline an_status an_ids_give(an_ids *l, int32_t **ids, size_t *count, an_error *err)
{
    if (!l->id && !(l->id = malloc(sizeof *l->id)))
        return an_fail(err, AN_NO_MEMORY, "out of memory for ids");
    *ids = l->id;
    *count = l->n;
    return AN_OK;
}

/* Two neighbours that could become one: the symbol at `at` and its right one. */
typedef struct an_pair {
    int32_t rank, at, result;
    uint32_t len; /* bytes of both, where symbols have such */
} an_pair;

/* Of the best rank, and of those the leftmost. */
static inline bool an_pair_before(const an_pair *a, const an_pair *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

/* Four children a node: half the levels of a binary heap, and the four lie in one cache line. */
static inline void an_pair_push(an_pair *heap, size_t *n, an_pair c)
{
    size_t i = (*n)++;
    for (; i > 0 && an_pair_before(&c, &heap[(i - 1) / 4]); i = (i - 1) / 4)
        heap[i] = heap[(i - 1) / 4];
    heap[i] = c;
}

static inline an_pair an_pair_pop(an_pair *heap, size_t *n)
{
    an_pair top = heap[0], last = heap[--*n];
    size_t i = 0, child;
    while ((child = 4 * i + 1) < *n) {
        size_t end = child + 4 < *n ? child + 4 : *n;
        for (size_t k = child + 1; k < end; k++)
            if (an_pair_before(&heap[k], &heap[child])) child = k;
        if (!an_pair_before(&heap[child], &last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

#endif

/* attention.c: the attention ops on a GPU: what kernels need to know of rows is put into small
 * device arrays, then they are launched. */
#include "cuda/gpu_host.h"

#include <stdlib.h>

/* The grid's limit in y and z. */
#define MOST_BLOCKS 65535

an_status GPU(attention_op)(an_lane *l, const an_attention_args *a)
{
    const size_t bytes = (size_t)a->rows * sizeof(int64_t);
    const int64_t *start = a->kv_start ? GPU(stage)(l, a->kv_start, bytes) : NULL;
    const int64_t *lens = a->kv_lens ? GPU(stage)(l, a->kv_lens, bytes) : NULL;
    if (GPU(idle)(l)) return l->error.status;
    int64_t most = a->kv_len;
    for (int64_t r = 0; a->kv_lens && r < a->rows; r++)
        if (r == 0 || a->kv_lens[r] > most) most = a->kv_lens[r];
    if (a->rows > MOST_BLOCKS || a->heads > MOST_BLOCKS || a->q_len > INT32_MAX / 2 ||
        most > INT32_MAX / 2) {
        an_lane_fail(
            l, AN_TOO_LARGE,
            "attention: %lld rows, %d heads, %lld queries, %lld keys: a GPU's kernel takes "
            "up to %d rows and heads, and 2^30 tokens",
            (long long)a->rows, a->heads, (long long)a->q_len, (long long)most, MOST_BLOCKS);
        return l->error.status;
    }
    const gpu_attention g = {.q = a->q,
                             .k = a->k,
                             .v = a->v,
                             .y = a->y.data,
                             .q_stride = a->q_stride,
                             .k_stride = a->k_stride,
                             .v_stride = a->v_stride,
                             .kv_start = start,
                             .kv_lens = lens,
                             .kv_len = a->kv_len,
                             .rows = (int)a->rows,
                             .q_len = (int)a->q_len,
                             .heads = a->heads,
                             .head_dim = a->head_dim,
                             .dtype = (int)a->dtype,
                             .scale = a->scale,
                             .causal = a->causal,
                             .shared_bytes = GPU(device_of)(l->device)->shared_bytes};
    return GPU(check)(l, GPU(attention)(&g, GPU(stream)(l)), "attention");
}

/* ---------------------------------------------------------------- language models */

an_status GPU(rope_op)(an_lane *l, const an_rope_args *a)
{
    const int32_t *pos = GPU(stage)(l, a->pos, (size_t)a->tokens * sizeof *pos);
    if (GPU(idle)(l)) return l->error.status;
    gpu_rope g = {.x = a->x,
                  .tokens = a->tokens,
                  .stride = a->stride,
                  .dtype = (int)a->dtype,
                  .heads = a->heads,
                  .head_dim = a->head_dim,
                  .rot_dim = a->rot_dim,
                  .interleaved = a->interleaved,
                  .pos = pos,
                  .mscale = a->mscale};
    const size_t pairs = (size_t)a->rot_dim / 2, room = sizeof g.inv_freq / sizeof *g.inv_freq;
    if (pairs > room) {
        an_lane_fail(l, AN_TOO_LARGE, "rope: %d elements of a head turn, a GPU's kernel takes %zu",
                     a->rot_dim, 2 * room);
        return l->error.status;
    }
    memcpy(g.inv_freq, a->inv_freq, pairs * sizeof *g.inv_freq);
    return GPU(check)(l, GPU(rope)(&g, GPU(stream)(l)), "rope");
}

static gpu_kv_pool pool_of(const an_kv_pool *p)
{
    return (gpu_kv_pool){p->k, p->v, (int)p->dtype, p->kv_heads, p->head_dim};
}

/* An array on its way to the device: host memory until it is sent. */
static an_status no_host_memory(an_lane *l, size_t bytes)
{
    an_lane_fail(l, AN_NO_MEMORY, "%zu bytes of host memory for the tick's places", bytes);
    return l->error.status;
}

/* What kernels must know of a tick's rows, made of them on the host: kept (an_kv_keep) for all
 * layers, or made anew at every call. */
enum { KEPT_PLACES = AN_KEPT_OWN, KEPT_TILES };

/* Where each new token's key goes. [*places], device; NULL in a counting lane, and after a failure.
 */
static const gpu_kv_place *places_of(an_lane *l, const an_kv_row *rows, int n, int *places)
{
    int64_t tokens = 0;
    for (int i = 0; i < n; i++) tokens += rows[i].q_len;
    *places = (int)tokens;
    const an_kept *kept = an_kept_find(l, KEPT_PLACES, rows, (size_t)n * sizeof *rows);
    if (kept) return kept->there;
    const size_t bytes = (size_t)tokens * sizeof(gpu_kv_place);
    gpu_kv_place *host = l->counting ? NULL : malloc(bytes), *p = host;
    if (!host && !l->counting) {
        no_host_memory(l, bytes);
        return NULL;
    }
    for (int i = 0; host && i < n; i++)
        for (int64_t t = 0; t < rows[i].q_len; t++) {
            const int64_t pos = rows[i].pos + t;
            *p++ = (gpu_kv_place){(int32_t)(rows[i].q_start + t), rows[i].blocks[pos / AN_KV_BLOCK],
                                  (int32_t)(pos % AN_KV_BLOCK)};
        }
    const gpu_kv_place *there = GPU(stage)(l, host, bytes);
    free(host);
    return there;
}

an_status GPU(kv_write_op)(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                           const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                           an_dtype dtype)
{
    gpu_kv_write g = {.pool = pool_of(pool),
                      .k = k,
                      .v = v,
                      .k_stride = k_stride,
                      .v_stride = v_stride,
                      .dtype = (int)dtype};
    g.place = places_of(l, rows, n, &g.places);
    if (GPU(idle)(l)) return l->error.status;
    return GPU(check)(l, GPU(kv_write)(&g, GPU(stream)(l)), "kv_write");
}

/* ---------------------------------------------------------------- paged attention
 * Rows become tiles of queries. Where tiles are few, as for one long sequence, their segments of
 * keys become blocks too, in rounds of as many as there is room for states. No bit depends on
 * that: see paged.cu. */

#define ENOUGH_BLOCKS 128  /* with fewer, segments are split off */
#define STATES        1024 /* times 16 queries: room for states of segments */

/* Which heads meet which; the rows of a tick make the same tiles for all layers alike in this. */
typedef struct head_shape {
    int heads, kv_heads, head_dim;
    bool large_too; /* tiles of the tensor cores, for rows of many queries */
} head_shape;

typedef struct tiling {
    gpu_paged_tile *small, *large; /* large ones lie behind the small ones */
    int smalls, larges;
    int segments[2]; /* the most of a small tile and of a large one, if all keys are seen */
} tiling;

static head_shape heads_of(const an_kv_pool *pool, int n, an_dtype dtype)
{
    return (head_shape){n, pool->kv_heads, pool->head_dim,
                        dtype == AN_BF16 && pool->dtype == AN_BF16};
}

static int tile_queries(const head_shape *h, bool large)
{
    return large ? GPU(paged_large)(h->head_dim) : GPU_PAGED_SMALL;
}

/* Adds the tiles of a row; without memory, counts them. */
static void tile_row(tiling *t, const head_shape *h, const an_kv_row *row, int32_t table)
{
    const int group = h->heads / h->kv_heads;
    const int64_t queries = row->q_len * group;
    const bool large = h->large_too && queries > GPU_PAGED_SMALL;
    const int each = tile_queries(h, large);
    for (int64_t first = 0; first < queries; first += each) {
        int *count = large ? &t->larges : &t->smalls;
        gpu_paged_tile *to = large ? t->large : t->small;
        if (to)
            to[*count] = (gpu_paged_tile){(int32_t)row->q_start, (int32_t)row->pos,
                                          (int32_t)queries, (int32_t)first, table};
        ++*count;
        const int64_t end = first + each < queries ? first + each : queries;
        const int segments = (int)((row->pos + (end - 1) / group) / GPU_PAGED_SEGMENT + 1);
        if (segments > t->segments[large]) t->segments[large] = segments;
    }
}

/* The tiles of a tick on the device, then the blocks of its rows. */
typedef struct tile_list {
    const gpu_paged_tile *tile;
    const int32_t *tables;
    tiling t; /* its numbers */
} tile_list;

static bool paged_fits(an_lane *l, const head_shape *h, const an_kv_row *rows, int n)
{
    const int64_t most = INT32_MAX / 2;
    int64_t blocks = 0;
    for (int i = 0; i < n; i++) {
        const an_kv_row *r = &rows[i];
        blocks += (r->pos + r->q_len) / AN_KV_BLOCK + 1;
        if (r->pos + r->q_len > most || r->q_len > most / h->heads || r->q_start > most ||
            blocks > most || h->kv_heads > MOST_BLOCKS) {
            an_lane_fail(l, AN_TOO_LARGE,
                         "attention_paged: row %d with %lld tokens of %d heads at position %lld, "
                         "%d kv heads: a GPU's kernel counts up to 2^30, and %d kv heads",
                         i, (long long)r->q_len, h->heads, (long long)r->pos, h->kv_heads,
                         MOST_BLOCKS);
            return false;
        }
    }
    return true;
}

/* Fills host: tiles, then tables. */
static void tile_rows(const head_shape *h, const an_kv_row *rows, int n, size_t most,
                      gpu_paged_tile *host, tiling *t)
{
    int32_t *tables = (int32_t *)(void *)(host + most), at = 0;
    *t = (tiling){0};
    for (int i = 0; i < n; i++) tile_row(t, h, &rows[i], 0);
    *t = (tiling){.small = host, .large = host + t->smalls};
    for (int i = 0; i < n; i++) {
        const int32_t blocks = (int32_t)((rows[i].pos + rows[i].q_len - 1) / AN_KV_BLOCK + 1);
        tile_row(t, h, &rows[i], at);
        memcpy(tables + at, rows[i].blocks, (size_t)blocks * sizeof *tables);
        at += blocks;
    }
}

/* Bytes of so many tiles and so many blocks, these up to a power of two. */
static size_t room_for(size_t tiles, size_t blocks)
{
    size_t room = 64;
    while (room < blocks && room <= SIZE_MAX / 4 / sizeof(int32_t)) room *= 2;
    return tiles * sizeof(gpu_paged_tile) + room * sizeof(int32_t);
}

/* Makes the tiles, as what is kept of them. Room by the number of rows and tokens: memory is
 * planned before it is known how they meet. */
static an_status make_tiles(an_lane *l, const head_shape *h, const an_kv_row *rows, int n,
                            an_kept *out)
{
    size_t blocks = 0, tokens = 0;
    for (int i = 0; i < n; i++) {
        blocks += (size_t)((rows[i].pos + rows[i].q_len - 1) / AN_KV_BLOCK + 1);
        tokens += (size_t)rows[i].q_len;
    }
    const size_t group = (size_t)(h->heads / h->kv_heads);
    const size_t most = (size_t)n + tokens * group / GPU_PAGED_SMALL;
    const size_t bytes = most * sizeof(gpu_paged_tile) + blocks * sizeof(int32_t);
    gpu_paged_tile *host = l->counting ? NULL : malloc(bytes);
    if (!host && !l->counting) return no_host_memory(l, bytes);
    tiling t = {0};
    if (host) tile_rows(h, rows, n, most, host, &t);
    /* Where segments are not split off, their number changes no launch. */
    if ((int64_t)t.smalls * h->kv_heads >= ENOUGH_BLOCKS) t.segments[0] = 0;
    if ((int64_t)t.larges * h->kv_heads >= ENOUGH_BLOCKS) t.segments[1] = 0;
    *out = (an_kept){.what = KEPT_TILES,
                     .host = rows,
                     .bytes = (size_t)n * sizeof *rows,
                     .mark = l->used,
                     .shape = {h->heads, h->kv_heads, tile_queries(h, h->large_too), (int64_t)most,
                               t.smalls, t.larges, t.segments[0], t.segments[1]}};
    /* Room for twice the blocks at most, so that what is allocated next lies where it lay in the
     * last tick: sequences grow by a block every few. */
    void *there = an_lane_scratch(l, room_for(most, blocks));
    if (host && there) GPU(upload)(l, there, host, bytes);
    out->there = there;
    free(host);
    return l->error.status;
}

static an_status tiles_of(an_lane *l, const head_shape *h, const an_kv_row *rows, int n,
                          tile_list *out)
{
    an_kept made;
    const an_kept *k = an_kept_find(l, KEPT_TILES, rows, (size_t)n * sizeof *rows);
    if (!k || k->shape[0] != h->heads || k->shape[1] != h->kv_heads ||
        k->shape[2] != tile_queries(h, h->large_too)) {
        an_status s = make_tiles(l, h, rows, n, &made);
        if (s) return s;
        k = &made;
    }
    out->tile = k->there;
    out->tables = k->there ? (const int32_t *)(const void *)(out->tile + k->shape[3]) : NULL;
    out->t = (tiling){.smalls = (int)k->shape[4],
                      .larges = (int)k->shape[5],
                      .segments = {(int)k->shape[6], (int)k->shape[7]}};
    return AN_OK;
}

an_status GPU(kv_keep)(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n, int heads,
                       an_dtype dtype)
{
    const head_shape h = heads_of(pool, heads, dtype);
    an_kept k = {
        .what = KEPT_PLACES, .host = rows, .bytes = (size_t)n * sizeof *rows, .mark = l->used};
    int places;
    if (!paged_fits(l, &h, rows, n)) return l->error.status;
    k.there = places_of(l, rows, n, &places);
    if (l->error.status) return l->error.status;
    an_kept_add(l, &k);
    an_status s = make_tiles(l, &h, rows, n, &k);
    if (!s) an_kept_add(l, &k);
    return s;
}

/* The most segments of a tile where a query sees `window` keys: by the tile's size, not by where it
 * lies, so that the launches of a layer depend on what is kept of the tick alone. */
static int windowed(const an_paged_args *a, const head_shape *h, bool large, int segments)
{
    if (!a->window || a->window >= INT32_MAX / 2) return segments;
    const int tokens = tile_queries(h, large) / (h->heads / h->kv_heads) + 2;
    const int most = ((int)a->window + tokens) / GPU_PAGED_SEGMENT + 2;
    return most < segments ? most : segments;
}

/* How many segments of each tile are blocks of their own; 0: none. */
static int width_of(int64_t blocks, int segments, int rows)
{
    if (segments < 2 || blocks >= ENOUGH_BLOCKS) return 0;
    const int64_t room = STATES * 16 / rows / blocks;
    const int wide = (int)(room < segments ? room : segments);
    return wide < 2 ? 0 : wide;
}

static an_status launch_tiles(an_lane *l, gpu_paged *g, const gpu_paged_tile *tile, int tiles,
                              bool small, int segments)
{
    if (!tiles) return AN_OK;
    const int rows = small ? GPU_PAGED_SMALL : GPU(paged_large)(g->pool.head_dim);
    g->tile = tile;
    g->tiles = tiles;
    g->small_tiles = small;
    g->wide = width_of((int64_t)tiles * g->pool.kv_heads, segments, rows);
    g->round = 0;
    do {
        an_status s = GPU(check)(l, GPU(paged)(g, GPU(stream)(l)), "attention_paged");
        if (s) return s;
    } while (g->wide && ++g->round * g->wide < segments);
    return AN_OK;
}

/* bf16 takes smaller steps where a block has less shared memory; f32 heads of more than 472 values
 * need more than the 99 KB of GPUs for desktops. */
static bool paged_has_room(an_lane *l, const an_paged_args *a)
{
    if (a->dtype == AN_BF16 && a->pool->dtype == AN_BF16) return true;
    const size_t need = GPU(paged_shared)(a->head_dim);
    const size_t have = GPU(device_of)(l->device)->shared_bytes;
    if (need <= have) return true;
    an_lane_fail(
        l, AN_INVALID,
        "attention_paged: heads of %d in F32 take %zu bytes of shared memory, this GPU has "
        "%zu; in BF16 (--dtype bf16) they have room",
        a->head_dim, need, have);
    return false;
}

an_status GPU(attention_paged_op)(an_lane *l, const an_paged_args *a)
{
    _Static_assert(GPU_KV_BLOCK == AN_KV_BLOCK, "kernels and pool agree on a block");
    const head_shape h = heads_of(a->pool, a->heads, a->dtype);
    if (!paged_fits(l, &h, a->rows, a->n) || !paged_has_room(l, a)) return l->error.status;
    const size_t state = 16 * (size_t)(a->head_dim + 2) * sizeof(float);
    float *states = an_lane_scratch(l, STATES * state);
    float *totals = an_lane_scratch(l, ENOUGH_BLOCKS * 4 * state);
    tile_list t;
    if (tiles_of(l, &h, a->rows, a->n, &t) || GPU(idle)(l)) return l->error.status;
    gpu_paged g = {.pool = pool_of(a->pool),
                   .tables = t.tables,
                   .q = a->q,
                   .q_stride = a->q_stride,
                   .y = a->y.data,
                   .heads = a->heads,
                   .group = a->heads / a->pool->kv_heads,
                   .dtype = (int)a->dtype,
                   .scale = a->scale,
                   .softcap = a->softcap,
                   .window = (int)(a->window < INT32_MAX / 2 ? a->window : INT32_MAX / 2),
                   .shared_bytes = GPU(device_of)(l->device)->shared_bytes,
                   .states = states,
                   .totals = totals};
    const int small = windowed(a, &h, false, t.t.segments[0]);
    const int large = windowed(a, &h, true, t.t.segments[1]);
    an_status s = launch_tiles(l, &g, t.tile, t.t.smalls, true, small);
    return s ? s : launch_tiles(l, &g, t.tile + t.t.smalls, t.t.larges, false, large);
}

/* Paged attention on a GPU: a tile's segments one after the other in a block, or in blocks of their
 * own in rounds of any width, in small tiles or in large ones: the same bytes. The launcher is
 * called directly, since the op chooses these by how much there is to do. */
#ifndef AN_GPU_PREFIX /* a build with CUDA makes a second program of this */
#define AN_GPU_PREFIX an_simt_
#define GPU_TESTED    "simt"
#endif
#include "harness.h"
#include "kernels/cuda/gpu_host.h"

typedef struct split_case {
    int heads, kv_heads, head_dim, window;
    int64_t pos, tokens;
    an_dtype dtype, pool;
} split_case;

enum { KEYS = 1100, BLOCKS = KEYS / AN_KV_BLOCK + 1, TILES = 64 };

static void *device_array(h_run *h, const void *from, size_t bytes)
{
    void *p;
    CHECK(an_device_alloc(h->d, bytes, &p, NULL) == AN_OK);
    an_upload(h->l, p, from, bytes);
    return p;
}

static void *device_values(h_run *h, an_dtype t, int64_t n, uint64_t seed)
{
    float *v = malloc((size_t)n * sizeof *v);
    void *b = malloc((size_t)n * sizeof *v);
    h_values(v, n, seed, 1, 0);
    an_convert(b, t, v, AN_F32, n);
    void *p = device_array(h, b, (size_t)n * an_dtype_size(t));
    free(v);
    free(b);
    return p;
}

/* y of the call as tiles of this size, `wide` segments at a time; free it. */
static char *outcome(h_run *h, gpu_paged *g, const split_case *c, bool small, int wide)
{
    const int group = c->heads / c->kv_heads, queries = (int)c->tokens * group;
    const int rows = small ? GPU_PAGED_SMALL : GPU(paged_large)(c->head_dim);
    const size_t bytes = (size_t)(c->tokens * c->heads * c->head_dim) * an_dtype_size(c->dtype);
    gpu_paged_tile tile[TILES];
    g->tiles = 0;
    for (int first = 0; first < queries; first += rows)
        tile[g->tiles++] = (gpu_paged_tile){0, (int32_t)c->pos, queries, first, 0};
    const size_t state = sizeof(float) * (size_t)(c->head_dim + 2), all = (size_t)(queries + rows);
    void *d_tile = device_array(h, tile, sizeof tile);
    void *nan = malloc(bytes), *y;
    memset(nan, 0xff, bytes);
    g->y = y = device_array(h, nan, bytes);
    g->tile = d_tile;
    g->small_tiles = small;
    g->wide = wide;
    CHECK(an_device_alloc(h->d, 8 * all * (size_t)c->kv_heads * state, (void **)&g->states, NULL) ==
          AN_OK);
    CHECK(an_device_alloc(h->d, all * (size_t)c->kv_heads * state, (void **)&g->totals, NULL) ==
          AN_OK);
    for (g->round = 0; g->round == 0 || (wide && g->round * wide < 6); g->round++)
        CHECK(GPU(paged)(g, GPU(stream)(h->l)) == 0);
    an_download(h->l, nan, y, bytes);
    an_error err = {0};
    CHECK_MSG(an_lane_status(h->l, &err) == AN_OK, "%s", err.message);
    an_device_free(h->d, y);
    an_device_free(h->d, d_tile);
    an_device_free(h->d, g->states);
    an_device_free(h->d, g->totals);
    return nan;
}

static void check_room(const split_case *c, size_t shared_bytes)
{
    h_run h = {.d = h_device(GPU_TESTED, "auto", 1)};
    REQUIRE(h.d && an_lane_open(h.d, 1 << 20, &h.l, NULL) == AN_OK);
    const int64_t pool = (int64_t)BLOCKS * c->kv_heads * AN_KV_BLOCK * c->head_dim;
    const int64_t width = (int64_t)c->heads * c->head_dim;
    int32_t blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) blocks[i] = (i * 7 + 3) % BLOCKS;
    void *at[4] = {device_values(&h, c->pool, pool, 1), device_values(&h, c->pool, pool, 2),
                   device_values(&h, c->dtype, c->tokens * width, 3),
                   device_array(&h, blocks, sizeof blocks)};
    gpu_paged g = {.pool = {at[0], at[1], c->pool == AN_BF16, c->kv_heads, c->head_dim},
                   .q = at[2],
                   .tables = at[3],
                   .q_stride = width,
                   .heads = c->heads,
                   .group = c->heads / c->kv_heads,
                   .dtype = c->dtype == AN_BF16,
                   .scale = 1 / sqrtf((float)c->head_dim),
                   .window = c->window,
                   .shared_bytes = shared_bytes};
    const size_t bytes = (size_t)(c->tokens * width) * an_dtype_size(c->dtype);
    const bool both = c->dtype == AN_BF16 && c->pool == AN_BF16;
    char *first = outcome(&h, &g, c, true, 0);
    for (int wide = 0; wide <= 6; wide += wide < 3 ? 1 : 3)
        for (int small = 0; small < 2; small++) {
            if (!small && !both) continue;
            char *y = outcome(&h, &g, c, small, wide);
            CHECK_MSG(memcmp(first, y, bytes) == 0, "head_dim %d, %s tiles, %d segments at a time",
                      c->head_dim, small ? "small" : "large", wide);
            free(y);
        }
    free(first);
    for (int i = 0; i < 4; i++) an_device_free(h.d, at[i]);
    an_lane_close(h.l);
    an_device_close(h.d);
}

static void check(const split_case *c)
{
    check_room(c, 227 << 10);
    if (c->head_dim > 128) check_room(c, 99 << 10);
}

TEST(splits)
{
    check(&(split_case){4, 2, 64, 0, 1000, 20, AN_BF16, AN_BF16});
    check(&(split_case){3, 1, 40, 600, 1023, 30, AN_BF16, AN_BF16});
    check(&(split_case){2, 1, 256, 0, 800, 20, AN_BF16, AN_BF16});
    check(&(split_case){1, 1, 512, 0, 520, 33, AN_BF16, AN_BF16});
    check(&(split_case){4, 2, 20, 0, 1000, 9, AN_F32, AN_BF16});
    check(&(split_case){1, 1, 33, 300, 1000, 20, AN_F32, AN_F32});
}

/* Heads wider than a block with 99 KB can hold at once: other tiles, the same values about. */
TEST(little_shared_memory)
{
    enum { Q = 35, KEYS_ = 70, MOST = 512 };
    static const int dims[] = {512, 300};
    h_run h = {.d = h_device(GPU_TESTED, "auto", 1)};
    REQUIRE(h.d && an_lane_open(h.d, 1 << 20, &h.l, NULL) == AN_OK);
    for (int i = 0; i < 2; i++) {
        const int d = dims[i];
        const size_t bytes = (size_t)(Q * d) * sizeof(uint16_t);
        void *at[3] = {device_values(&h, AN_BF16, Q * d, 1),
                       device_values(&h, AN_BF16, KEYS_ * d, 2),
                       device_values(&h, AN_BF16, KEYS_ * d, 3)};
        uint16_t y[2][Q * MOST];
        for (int little = 0; little < 2; little++) {
            const size_t mark = an_lane_mark(h.l);
            GPU(device_of)(h.d)->shared_bytes = (size_t)(little ? 99 : 227) << 10;
            an_tensor out = an_lane_tensor(h.l, AN_BF16, 1, Q, d);
            an_attention(h.l, &(an_attention_args){.rows = 1,
                                                   .heads = 1,
                                                   .head_dim = d,
                                                   .dtype = AN_BF16,
                                                   .q = at[0],
                                                   .k = at[1],
                                                   .v = at[2],
                                                   .q_stride = d,
                                                   .k_stride = d,
                                                   .v_stride = d,
                                                   .q_len = Q,
                                                   .kv_len = KEYS_,
                                                   .scale = 0.05f,
                                                   .y = out});
            an_download(h.l, y[little], out.data, bytes);
            an_lane_release(h.l, mark);
        }
        an_error err = {0};
        CHECK_MSG(an_lane_status(h.l, &err) == AN_OK, "%s", err.message);
        for (int j = 0; j < Q * d; j++)
            CHECK_NEAR((double)an_bf16_to_f32(y[0][j]), (double)an_bf16_to_f32(y[1][j]), 6e-3);
        for (int j = 0; j < 3; j++) an_device_free(h.d, at[j]);
    }
    an_lane_close(h.l);
    an_device_close(h.d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

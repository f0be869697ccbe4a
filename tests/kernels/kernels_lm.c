/* The small ops of language models: rows taken, scaling, soft caps, rotary embedding, experts.
 * Every case against the reference, on every instruction set here, with bytes that do not depend on
 * the batch (see harness.h); and what the checks refuse. */
#include "harness.h"

#include <math.h>

typedef struct lm_case {
    int64_t m, c; /* tokens of each row of the batch, channels */
    an_dtype dtype, y_dtype;
    float factor;
    /* rope: heads of c */
    int heads, rot_dim;
    bool interleaved;
    /* moe */
    int experts, top_k;
    int64_t hidden;
    bool softmax_first, normalize, residual;
    an_act act;
} lm_case;

static an_tensor tokens(h_run *h, const lm_case *c, an_dtype dtype, int64_t width, uint64_t seed,
                        float scale)
{
    an_tensor t = h_rows(h, dtype, 3, (int64_t[]){h->n, c->m, width}, seed, scale, 0);
    return an_tensor_2d(t.data, dtype, h->n * c->m, width);
}

/* ---------------------------------------------------------------- element by element */

static void run_take(h_run *h, const void *cfg)
{
    const lm_case *c = cfg;
    an_tensor x = tokens(h, c, c->dtype, c->c, 1, 1);
    an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->c);
    int32_t index[16];
    for (int i = 0; i < h->n; i++) index[i] = (int32_t)(i * c->m + h->id[i] % c->m);
    an_take_rows(h->l, x, index, y);
    h_output(h, y);
}

static void run_scale(h_run *h, const void *cfg)
{
    const lm_case *c = cfg;
    an_tensor x = tokens(h, c, c->dtype, c->c, 1, 1);
    an_scale(h->l, x, c->factor, x);
    h_output(h, x);
}

static void run_softcap(h_run *h, const void *cfg)
{
    const lm_case *c = cfg;
    an_tensor x = tokens(h, c, c->dtype, c->c, 1, 2 * c->factor);
    an_tensor y = an_lane_tensor(h->l, c->dtype, h->n * c->m, c->c);
    an_softcap(h->l, x, c->factor, y);
    h_output(h, y);
}

TEST(elements)
{
    static const int64_t cs[] = {1, 7, 16, 40, 576, 3001};
    for (int i = 0; i < 6; i++) {
        lm_case c = {.m = 1 + i * 5, .c = cs[i], .dtype = i % 2 ? AN_BF16 : AN_F32};
        c.factor = i % 3 ? 30.0f : 0.37f;
        h_all("take_rows", run_take, &c, 0);
        h_all("scale", run_scale, &c, 0);
        h_all("softcap", run_softcap, &c, 1e-6);
    }
}

/* Small values keep their digits, large ones end at the cap, and nothing hides a NaN. */
TEST(softcap_values)
{
    const float x[9] = {0, -0.0f, 1e-20f, 0.01f, -17, 30, 1e9f, -INFINITY, NAN};
    float y[9];
    for (int i = 0; i < 2; i++) {
        an_device *d = h_device(h_tested(), i ? "auto" : "generic", 1);
        an_lane *l;
        REQUIRE(d && an_lane_open(d, 4096, &l, NULL) == AN_OK);
        an_tensor ty = an_lane_tensor(l, AN_F32, 1, 9);
        an_softcap(l, h_there(l, an_tensor_2d((void *)(uintptr_t)x, AN_F32, 1, 9)), 30, ty);
        h_back(l, y, ty);
        for (int j = 0; j < 7; j++) {
            const double want = 30 * tanh((double)x[j] / 30);
            CHECK_MSG(fabs((double)y[j] - want) <= 3e-7 * fabs(want), "%g: %.9g, not %.9g",
                      (double)x[j], (double)y[j], want);
        }
        CHECK(signbit(y[1]) && y[6] == 30 && y[7] == -30 && isnan(y[8]));
        an_lane_close(l);
        an_device_close(d);
    }
}

/* ---------------------------------------------------------------- rotary embedding */

static void run_rope(h_run *h, const void *cfg)
{
    const lm_case *c = cfg;
    const int head_dim = (int)c->c;
    const int64_t stride = c->heads * c->c + 5; /* part of something wider */
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->m, stride}, 1, 1, 0);
    float inv_freq[256];
    int32_t pos[512];
    for (int i = 0; i < c->rot_dim / 2; i++)
        inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)c->rot_dim);
    for (int i = 0; i < h->n; i++)
        for (int64_t t = 0; t < c->m; t++)
            pos[i * c->m + t] = (int32_t)(h->id[i] * 1000 * h->id[i] + t);
    an_rope(h->l, &(an_rope_args){.x = x.data,
                                  .dtype = c->dtype,
                                  .tokens = h->n * c->m,
                                  .stride = stride,
                                  .heads = c->heads,
                                  .head_dim = head_dim,
                                  .rot_dim = c->rot_dim,
                                  .interleaved = c->interleaved,
                                  .pos = pos,
                                  .inv_freq = inv_freq,
                                  .mscale = c->factor});
    h_output(h, x);
}

TEST(rope)
{
    static const int dims[] = {16, 64, 80, 96, 128, 256, 6};
    for (int i = 0; i < 14; i++) {
        const int d = dims[i % 7];
        lm_case c = {.m = 1 + i * 2, .c = d, .heads = 1 + i % 4, .interleaved = i >= 7};
        c.dtype = i % 2 ? AN_BF16 : AN_F32;
        c.rot_dim = i % 3 == 2 ? d / 4 * 2 : d;
        c.factor = i % 4 == 3 ? 1.19f : 1;
        h_all("rope", run_rope, &c, 1e-6);
    }
}

/* ---------------------------------------------------------------- experts */

static void run_moe(h_run *h, const void *cfg)
{
    const lm_case *c = cfg;
    const an_weight *up[8], *down[8];
    an_tensor x = tokens(h, c, c->dtype, c->c, 1, 1), r = tokens(h, c, AN_F32, c->experts, 2, 1);
    an_tensor y = tokens(h, c, c->y_dtype, c->c, 3, 1);
    for (int e = 0; e < c->experts; e++) {
        up[e] = h_weight(h, c->dtype, 2 * c->hidden, c->c, 0, 0, false, 10 + 2 * (uint64_t)e);
        down[e] = h_weight(h, c->dtype, c->c, c->hidden, 0, 0, true, 11 + 2 * (uint64_t)e);
    }
    an_moe(h->l, &(an_moe_args){.x = x,
                                .router = r,
                                .top_k = c->top_k,
                                .softmax_first = c->softmax_first,
                                .normalize = c->normalize,
                                .experts = c->experts,
                                .gate_up = up,
                                .down = down,
                                .act = c->act,
                                .residual = c->residual ? &y : NULL,
                                .y = y});
    h_output(h, y);
}

TEST(moe)
{
    for (int i = 0; i < 8; i++) {
        lm_case c = {.m = 1 + i % 4 * 3, .c = 24 + i * 9, .hidden = 16 + i * 5, .experts = 1 + i};
        c.dtype = i % 3 == 1 ? AN_BF16 : AN_F32;
        c.y_dtype = i % 4 == 1 ? AN_F32 : c.dtype;
        c.top_k = 1 + i / 2;
        c.softmax_first = i % 2, c.normalize = i % 4 > 1, c.residual = i % 3 == 0;
        c.act = i % 2 ? AN_ACT_SWIGLU : AN_ACT_GEGLU_TANH;
        h_all("moe", run_moe, &c, c.dtype == AN_BF16 ? 4e-3 : 3e-5);
    }
}

/* Equal logits: the lower expert, whose weight is as large, comes first and the others not at all.
 */
TEST(moe_ties)
{
    enum { E = 4, C = 3 };
    for (int i = 0; i < 2; i++) {
        an_device *d = h_device(i ? "ref" : h_tested(), "auto", 2);
        an_lane *l;
        REQUIRE(d && an_lane_open(d, 8 << 20, &l, NULL) == AN_OK);
        float eye[C * C] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, gate[2 * C * C], y[C];
        float x[C] = {1, 2, 3}, logits[E] = {0, 5, 5, 5};
        const an_weight *up[E], *down[E];
        for (int e = 0; e < E; e++) {
            for (int j = 0; j < C * C; j++) {
                gate[j] = eye[j] * (float)(e + 1);
                gate[C * C + j] = eye[j];
            }
            an_tensor tg = an_tensor_2d(gate, AN_F32, 2 * C, C);
            an_tensor td = an_tensor_2d(eye, AN_F32, C, C);
            const an_tensor *pg = &tg, *pd = &td;
            an_weight *w[2];
            REQUIRE(an_weight_linear(d, AN_F32, 1, &pg, NULL, &w[0], NULL) == AN_OK);
            REQUIRE(an_weight_linear(d, AN_F32, 1, &pd, NULL, &w[1], NULL) == AN_OK);
            up[e] = w[0], down[e] = w[1];
        }
        an_tensor ty = an_lane_tensor(l, AN_F32, 1, C);
        an_moe(l, &(an_moe_args){.x = h_there(l, an_tensor_2d(x, AN_F32, 1, C)),
                                 .router = h_there(l, an_tensor_2d(logits, AN_F32, 1, E)),
                                 .top_k = 2,
                                 .experts = E,
                                 .gate_up = up,
                                 .down = down,
                                 .act = AN_ACT_SWIGLU,
                                 .y = ty});
        h_back(l, y, ty);
        an_error err = {0};
        CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
        for (int j = 0; j < C; j++) {
            double want = 0;
            for (int e = 1; e <= 2; e++) {
                const double g = (e + 1) * (double)x[j];
                want += 0.5 * g / (1 + exp(-g)) * (double)x[j];
            }
            CHECK_MSG(fabs((double)y[j] - want) < 1e-5, "%g, not %g", (double)y[j], want);
        }
        for (int e = 0; e < E; e++) {
            an_weight_free((an_weight *)(uintptr_t)up[e]);
            an_weight_free((an_weight *)(uintptr_t)down[e]);
        }
        an_lane_close(l);
        an_device_close(d);
    }
}

/* ---------------------------------------------------------------- refusals */

#define REFUSED(call, word)                                                                        \
    do {                                                                                           \
        an_error e_ = {0};                                                                         \
        call;                                                                                      \
        CHECK_MSG(an_lane_status(l, &e_) == AN_INTERNAL && strstr(e_.message, word),               \
                  "no '%s' in: %s", word, e_.message);                                             \
    } while (0)

TEST(wrong_arguments)
{
    an_device *d = h_device("cpu", "auto", 1);
    an_lane *l;
    REQUIRE(d && an_lane_open(d, 8 << 20, &l, NULL) == AN_OK);
    float a[64] = {0}, b[64] = {0};
    const an_tensor x = an_tensor_2d(a, AN_F32, 4, 8), y = an_tensor_2d(b, AN_F32, 2, 8);
    const int32_t far[2] = {0, 4}, pos[4] = {0};
    REFUSED(an_take_rows(l, x, far, y), "row 1 asks for token 4 of 4");
    REFUSED(an_take_rows(l, x, NULL, y), "take_rows");
    REFUSED(an_scale(l, x, 2, y), "alike");
    REFUSED(an_softcap(l, x, 0, x), "positive");
    an_rope_args r = {.x = a,
                      .dtype = AN_F32,
                      .tokens = 4,
                      .stride = 8,
                      .heads = 1,
                      .head_dim = 8,
                      .rot_dim = 3,
                      .pos = pos,
                      .inv_freq = b,
                      .mscale = 1};
    REFUSED(an_rope(l, &r), "even");
    r.rot_dim = 10;
    REFUSED(an_rope(l, &r), "rope");
    r.rot_dim = 8, r.heads = 2;
    REFUSED(an_rope(l, &r), "stride 8");
    an_moe_args m = {.x = x, .router = x, .top_k = 9, .experts = 8, .y = x};
    REFUSED(an_moe(l, &m), "9 of 8 experts");
    int32_t blocks[2] = {0, 3};
    an_kv_pool pool = {a, b, AN_F32, 2, 1, 2};
    an_kv_row row = {.q_start = 0, .q_len = 1, .pos = 16, .blocks = blocks};
    REFUSED(an_kv_write(l, &pool, &row, 1, a, 2, b, 2, AN_F32), "block 1 at 3, the pool has 2");
    row.pos = -1;
    REFUSED(an_kv_write(l, &pool, &row, 1, a, 2, b, 2, AN_F32), "position -1");
    row.pos = 0;
    REFUSED(an_kv_write(l, &pool, &row, 1, a, 1, b, 2, AN_F32), "strides");
    an_paged_args p = {.pool = &pool,
                       .rows = &row,
                       .n = 1,
                       .heads = 3,
                       .head_dim = 2,
                       .dtype = AN_F32,
                       .q = a,
                       .q_stride = 6,
                       .scale = 1,
                       .y = an_tensor_2d(b, AN_F32, 1, 6)};
    pool.kv_heads = 2;
    REFUSED(an_attention_paged(l, &p), "3 heads of 2 for a pool of 2 heads");
    pool.kv_heads = 1;
    row.q_len = 2;
    REFUSED(an_attention_paged(l, &p), "2 tokens from 0 on of 1");
    row.q_len = 1, row.pos = 17;
    REFUSED(an_attention_paged(l, &p), "block 1 at 3");
    /* what lies before the window is not looked at */
    blocks[0] = -1, blocks[1] = 1;
    REFUSED(an_attention_paged(l, &p), "block 0 at -1");
    p.window = 2;
    an_error err = {0};
    an_attention_paged(l, &p);
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    an_lane_close(l);
    an_device_close(d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

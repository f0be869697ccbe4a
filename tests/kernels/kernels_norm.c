/* Norms and element-wise ops of the CPU against the reference: odd shapes, both dtypes, every
 * instruction set, thread counts, batches. */
#include "kernels/harness.h"

typedef struct norm_case {
    an_dtype dtype;
    int64_t h, w, c;
    int groups;
    float eps, scale, offset;
    bool silu, beta, in_place;
} norm_case;

static const an_dtype dtypes[] = {AN_F32, AN_BF16};

static void run_group_norm(h_run *h, const void *cfg)
{
    const norm_case *c = cfg;
    an_tensor x =
        h_rows(h, c->dtype, 4, (int64_t[]){h->n, c->h, c->w, c->c}, 1, c->scale, c->offset);
    an_tensor gamma = h_param(h, AN_F32, 1, &c->c, 2, 0.5f, 1);
    an_tensor beta = h_param(h, AN_F32, 1, &c->c, 3, 0.5f, 0);
    an_tensor y = c->in_place ? x : an_lane_alloc(h->l, c->dtype, 4, x.dim);
    an_group_norm(h->l, x, &gamma, &beta, c->groups, c->eps, c->silu, y);
    h_output(h, y);
}

#define SHAPE(s) .h = (s).h, .w = (s).w, .c = (s).c, .groups = (s).groups

TEST(group_norm_shapes)
{
    static const struct {
        int64_t h, w, c;
        int groups;
    } shapes[] = {{1, 1, 4, 2},    {5, 7, 6, 3},     {3, 3, 32, 32}, {13, 11, 40, 4},
                  {9, 6, 320, 32}, {33, 65, 48, 16}, {4, 4, 1283, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int d = 0; d < 2; d++)
            for (int silu = 0; silu < 2; silu++) {
                norm_case c = {.dtype = dtypes[d],
                               SHAPE(shapes[i]),
                               .eps = 1e-5f,
                               .scale = 1.5f,
                               .offset = 0.3f,
                               .silu = silu,
                               .in_place = silu};
                h_all("group_norm", run_group_norm, &c, 2e-6);
            }
}

/* Groups of one block and larger ones (over 131072 elements or 1024 channels), every width of
 * access, a last unit of a thread missing; sums that need less shared memory than what follows
 * them, nearly 48 KB, and more. */
TEST(group_norm_around_the_limits)
{
    static const struct {
        int64_t h, w, c;
        int groups;
    } shapes[] = {{64, 64, 32, 1}, {64, 65, 32, 1},   {8, 8, 1024, 1},  {8, 8, 1025, 1},
                  {17, 31, 24, 3}, {17, 31, 12, 3},   {17, 31, 6, 3},   {17, 31, 3, 3},
                  {16, 16, 80, 8}, {32, 33, 320, 32}, {363, 363, 1, 1}, {3, 5, 5700, 4},
                  {2, 3, 6120, 4}, {3, 3, 6143, 1},   {2, 2, 8192, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        norm_case c = {.dtype = dtypes[i % 2],
                       SHAPE(shapes[i]),
                       .eps = 1e-5f,
                       .scale = 1.5f,
                       .offset = i % 3 ? 0.3f : 300.0f,
                       .silu = i % 2,
                       .in_place = i % 2};
        h_all("group_norm", run_group_norm, &c, 2e-6);
    }
}

/* More rows than a launch counts arrivals of: rows 0, 255, 256 and the last are what they are
 * alone. */
TEST(group_norm_of_many_rows)
{
    enum { ROWS = 259, C = 1025, ROW = 2 * C };
    an_device *d = h_device(h_tested(), "auto", 2);
    an_lane *l;
    REQUIRE(an_lane_open(d, (size_t)4 * ROWS * ROW * sizeof(float), &l, NULL) == AN_OK);
    float *v = malloc((size_t)ROWS * ROW * sizeof *v), *y = malloc((size_t)ROWS * ROW * sizeof *y);
    h_values(v, (int64_t)ROWS * ROW, 7, 1.5f, 0.3f);
    an_tensor g = an_lane_tensor(l, AN_F32, C), b = an_lane_tensor(l, AN_F32, C);
    an_tensor x = an_lane_tensor(l, AN_F32, ROWS, 2, C),
              out = an_lane_tensor(l, AN_F32, ROWS, 2, C);
    an_upload(l, g.data, v, C * sizeof *v);
    an_upload(l, b.data, v + C, C * sizeof *v);
    an_upload(l, x.data, v, an_tensor_bytes(&x));
    an_group_norm(l, x, &g, &b, 1, 1e-5f, false, out);
    an_download(l, y, out.data, an_tensor_bytes(&out));
    static const int rows[] = {0, 255, 256, ROWS - 1};
    for (int i = 0; i < 4; i++) {
        float alone[ROW];
        an_tensor one = an_tensor_3d(x.data, AN_F32, 1, 2, C);
        an_upload(l, x.data, v + (size_t)rows[i] * ROW, sizeof alone);
        an_group_norm(l, one, &g, &b, 1, 1e-5f, false, one);
        an_download(l, alone, one.data, sizeof alone);
        CHECK_MSG(memcmp(alone, y + (size_t)rows[i] * ROW, sizeof alone) == 0, "row %d", rows[i]);
    }
    CHECK(an_lane_status(l, NULL) == AN_OK);
    free(v);
    free(y);
    an_lane_close(l);
    an_device_close(d);
}

/* Both outputs of concat_group_norm, one after the other: c channels and `groups` more of b's. */
static void run_concat_norm(h_run *h, const void *cfg)
{
    const norm_case *c = cfg;
    const int64_t c1 = c->c, c2 = c->beta ? c1 : c->groups * 3 - c1 % c->groups, all = c1 + c2;
    an_tensor a = h_rows(h, c->dtype, 4, (int64_t[]){h->n, c->h, c->w, c1}, 1, c->scale, c->offset);
    an_tensor b = h_rows(h, c->dtype, 4, (int64_t[]){h->n, c->h, c->w, c2}, 4, c->scale, 0);
    an_tensor gamma = h_param(h, AN_F32, 1, &all, 2, 0.5f, 1);
    an_tensor beta = h_param(h, AN_F32, 1, &all, 3, 0.5f, 0);
    an_tensor cat = an_lane_tensor(h->l, c->dtype, h->n, c->h, c->w, all);
    an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->h, c->w, all);
    an_concat_group_norm(h->l, a, b, cat, &gamma, &beta, c->groups, c->eps, c->silu, y);
    h_output(h, c->in_place ? cat : y);
}

TEST(concat_group_norm)
{
    static const struct {
        int64_t h, w, c;
        int groups;
        bool equal; /* b is as wide */
    } shapes[] = {{1, 1, 5, 2, false},    {9, 7, 40, 16, true}, {5, 7, 37, 6, false},
                  {16, 12, 64, 32, true}, {11, 3, 8, 4, true},  {120, 115, 14, 2, false}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int d = 0; d < 2; d++)
            for (int cat = 0; cat < 2; cat++) {
                norm_case c = {.dtype = dtypes[d],
                               SHAPE(shapes[i]),
                               .eps = 1e-5f,
                               .scale = 1.5f,
                               .offset = 0.3f,
                               .silu = i % 2,
                               .beta = shapes[i].equal,
                               .in_place = cat};
                h_all("concat_group_norm", run_concat_norm, &c, cat ? 0 : 2e-6);
            }
}

/* Activations of a VAE lie far from zero: sums of squares would lose every digit here. */
TEST(group_norm_far_from_zero)
{
    norm_case c = {.dtype = AN_F32,
                   .h = 40,
                   .w = 37,
                   .c = 32,
                   .groups = 8,
                   .eps = 1e-6f,
                   .scale = 0.5f,
                   .offset = 4000};
    h_all("group_norm far", run_group_norm, &c, 2e-6);
}

static void run_layer_norm(h_run *h, const void *cfg)
{
    const norm_case *c = cfg;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->h, c->c}, 1, c->scale, c->offset);
    an_tensor gamma = h_param(h, AN_F32, 1, &c->c, 2, 0.5f, 1);
    an_tensor beta = h_param(h, AN_F32, 1, &c->c, 3, 0.5f, 0);
    an_tensor y = c->in_place ? x : an_lane_alloc(h->l, c->dtype, 3, x.dim);
    an_layer_norm(h->l, x, &gamma, c->beta ? &beta : NULL, c->eps, y);
    h_output(h, y);
}

static void run_rms_norm(h_run *h, const void *cfg)
{
    const norm_case *c = cfg;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->h, c->c}, 1, c->scale, c->offset);
    an_tensor gamma = h_param(h, AN_F32, 1, &c->c, 2, 0.5f, 1);
    an_tensor y = c->in_place ? x : an_lane_alloc(h->l, c->dtype, 3, x.dim);
    an_rms_norm(h->l, x, &gamma, c->eps, y);
    h_output(h, y);
}

TEST(layer_norm_and_rms_norm)
{
    static const struct {
        int64_t t, c;
    } shapes[] = {{1, 1}, {3, 7}, {77, 32}, {5, 768}, {41, 1283}, {2, 20000}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int d = 0; d < 2; d++)
            for (int far = 0; far < 2; far++) {
                norm_case c = {.dtype = dtypes[d],
                               .h = shapes[i].t,
                               .c = shapes[i].c,
                               .eps = 1e-5f,
                               .scale = 2,
                               .offset = far ? 50.0f : 0.1f,
                               .beta = !far,
                               .in_place = far};
                h_all("layer_norm", run_layer_norm, &c, 4e-6);
                h_all("rms_norm", run_rms_norm, &c, 2e-6);
            }
}

/* ---------------------------------------------------------------- element-wise */

typedef struct elem_case {
    an_dtype dtype, to;
    int64_t t, c;
    int what;
    bool in_place;
} elem_case;

static void run_activation(h_run *h, const void *cfg)
{
    const elem_case *c = cfg;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->t, c->c}, 1, 4, 0);
    an_tensor y = c->in_place ? x : an_lane_alloc(h->l, c->dtype, 3, x.dim);
    an_activation(h->l, x, (an_act)c->what, y);
    h_output(h, y);
}

TEST(activations)
{
    for (int act = AN_ACT_NONE; act <= AN_ACT_RELU; act++)
        for (int d = 0; d < 2; d++)
            for (int i = 0; i < 3; i++) {
                elem_case c = {.dtype = dtypes[d],
                               .t = i == 2 ? 67 : 1 + i,
                               .c = i == 2 ? 511 : 13,
                               .what = act,
                               .in_place = i == 1};
                h_all("activation", run_activation, &c, 3e-7);
            }
}

static void run_special(h_run *h, const void *cfg)
{
    const elem_case *c = cfg;
    static const float odd[] = {0.0f, -0.0f, INFINITY, NAN, 1e-40f, 100, 1e38f, -1e-20f, 88.8f};
    an_tensor x = an_lane_tensor(h->l, AN_F32, h->n, 9), y = an_lane_tensor(h->l, AN_F32, h->n, 9);
    for (int i = 0; i < h->n; i++) h_put(h, x, i * 9, odd, 9);
    an_activation(h->l, x, (an_act)c->what, y);
    h_output(h, y);
}

TEST(activations_of_odd_numbers)
{
    for (int act = AN_ACT_NONE; act <= AN_ACT_RELU; act++)
        h_all("odd numbers", run_special, &(elem_case){.what = act}, 3e-7);
}

static void run_two(h_run *h, const void *cfg)
{
    const elem_case *c = cfg;
    int64_t wide = c->what ? c->c + 5 : c->c;
    an_tensor a = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->t, c->c}, 1, 1, 0);
    an_tensor b = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->t, wide}, 2, 1, 0);
    if (c->what) {
        an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->t, c->c + wide);
        an_concat(h->l, a, b, y);
        h_output(h, y);
    } else {
        an_add(h->l, a, b, c->in_place ? b : a);
        h_output(h, c->in_place ? b : a);
    }
}

static void run_copy(h_run *h, const void *cfg)
{
    const elem_case *c = cfg;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->t, c->c}, 1, 1, 0);
    an_tensor y = an_lane_tensor(h->l, c->to, h->n, c->t * c->c);
    an_copy(h->l, x, y);
    h_output(h, y);
}

static void run_gather(h_run *h, const void *cfg)
{
    const elem_case *c = cfg;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->t, c->c}, 1, 1, 0);
    an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->c);
    int64_t index[16];
    for (int i = 0; i < h->n; i++) index[i] = h->id[i] % c->t;
    an_gather_rows(h->l, x, index, y);
    h_output(h, y);
}

TEST(add_concat_copy_gather)
{
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 3; i++) {
            elem_case c = {.dtype = dtypes[d], .t = i == 2 ? 71 : 1 + i, .c = i == 2 ? 653 : 3 + i};
            h_all("add", run_two, &c, 0);
            c.in_place = true;
            h_all("add in place", run_two, &c, 0);
            c.what = 1;
            h_all("concat", run_two, &c, 0);
            h_all("gather_rows", run_gather, &c, 0);
            for (int to = 0; to < 2; to++) {
                c.to = dtypes[to];
                h_all("copy", run_copy, &c, 0);
            }
        }
}

/* ---------------------------------------------------------------- embeddings */

static void run_embedding(h_run *h, const void *cfg)
{
    const elem_case *c = cfg;
    enum { VOCABULARY = 50 };
    an_tensor table = h_param(h, c->dtype, 2, (int64_t[]){VOCABULARY, c->c}, 1, 1, 0);
    an_tensor pos = h_param(h, c->dtype, 2, (int64_t[]){c->t + 2, c->c}, 2, 1, 0);
    an_tensor ids = an_lane_tensor(h->l, AN_I32, h->n, c->t);
    int32_t *id = calloc((size_t)(h->n * c->t), sizeof *id);
    for (int i = 0; i < h->n; i++)
        for (int64_t t = 0; t < c->t; t++)
            id[i * c->t + t] = (int32_t)((h->id[i] * 7 + t * 3) % VOCABULARY);
    an_upload(h->l, ids.data, id, (size_t)(h->n * c->t) * sizeof *id);
    free(id);
    an_tensor y = an_lane_tensor(h->l, c->to, h->n, c->t, c->c);
    an_embedding(h->l, &table, c->what ? &pos : NULL, ids, y);
    h_output(h, y);
}

static void run_timestep(h_run *h, const void *cfg)
{
    const elem_case *c = cfg;
    float t[16];
    for (int i = 0; i < h->n; i++) t[i] = (float)(h->id[i] * 131) + 0.5f;
    an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->c);
    an_timestep_embedding(h->l, t, c->what, c->what ? 0 : 1, 1, y);
    h_output(h, y);
}

TEST(embeddings)
{
    for (int d = 0; d < 2; d++)
        for (int to = 0; to < 2; to++)
            for (int what = 0; what < 2; what++) {
                elem_case c = {
                    .dtype = dtypes[d], .to = dtypes[to], .t = 77, .c = 37 + what, .what = what};
                h_all("embedding", run_embedding, &c, 1e-7);
                h_all("timestep_embedding", run_timestep, &c, 1e-7);
            }
}

/* Frequencies 10000^(-i/4), half cosines and half sines, in either order. */
TEST(timestep_embedding_values)
{
    an_device *d = h_device(h_on("cpu") ? "ref" : h_tested(), "auto", 1);
    an_lane *l;
    REQUIRE(an_lane_open(d, 4096, &l, NULL) == AN_OK);
    an_tensor y = an_lane_tensor(l, AN_F32, 1, 8);
    float t = 999;
    float v[8];
    an_timestep_embedding(l, &t, true, 0, 1, y);
    an_download(l, v, y.data, sizeof v);
    for (int i = 0; i < 4; i++) {
        double angle = 999 * pow(10000, -i / 4.0);
        CHECK_NEAR(v[i], cos(angle), 1e-4);
        CHECK_NEAR(v[4 + i], sin(angle), 1e-4);
    }
    an_timestep_embedding(l, &t, false, 0, 1, y);
    an_download(l, v, y.data, sizeof v);
    CHECK_NEAR(v[3], sin(0.999), 1e-6);
    CHECK_NEAR(v[7], cos(0.999), 1e-6);
    an_lane_close(l);
    an_device_close(d);
}

TEST(embedding_refuses_ids_out_of_range)
{
    for (int i = 0; i < 2; i++) {
        an_device *d = h_device(i ? h_tested() : "ref", "auto", 2);
        an_lane *l;
        an_error err = {0};
        REQUIRE(an_lane_open(d, 65536, &l, NULL) == AN_OK);
        an_tensor table = an_lane_tensor(l, AN_F32, 5, 4), ids = an_lane_tensor(l, AN_I32, 1, 3);
        an_tensor y = an_lane_tensor(l, AN_F32, 1, 3, 4);
        an_upload(l, table.data, (float[20]){0}, 80);
        for (int bad = 0; bad < 2; bad++) {
            an_upload(l, ids.data, (int32_t[]){0, bad ? -1 : 5, 6}, 12);
            an_lane_label(l, "text/embed");
            an_embedding(l, &table, NULL, ids, y);
            CHECK(an_lane_status(l, &err) == AN_INVALID);
            CHECK_MSG(strstr(err.message, bad ? "text/embed: embedding: token id -1 at 1"
                                              : "text/embed: embedding: token id 5 at 1"),
                      "%s", err.message);
            an_upload(l, ids.data, (int32_t[]){0, 4, 3}, 12);
            an_embedding(l, &table, NULL, ids, y);
            CHECK(an_lane_status(l, &err) == AN_OK);
        }
        an_lane_close(l);
        an_device_close(d);
    }
}

int main(int argc, char **argv)
{
#ifdef EMULATED_ISA
    h_emulated = EMULATED_ISA;
#endif
    return test_main(argc, argv);
}

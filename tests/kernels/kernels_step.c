/* Sampler steps and pictures: against the reference, against sums written out by hand, and the odd
 * cases (rescale, thresholds, NaN, terms that are not there). */
#include "kernels/harness.h"

/* ---------------------------------------------------------------- rows of every kind */

typedef struct step_case {
    int64_t count;
    bool rescale, threshold, clip, save, noise;
    int branches, history;
} step_case;

/* Every array of a row is a part of one buffer [n][arrays][count]; the whole of it is the output,
 * so that what must not be written is compared too. */
enum { X, SAVED, NOISE, P0, D0 = P0 + AN_MAX_BRANCHES, ARRAYS = D0 + AN_HISTORY };

static float *array_of(float *base, int64_t count, int row, int which)
{
    return base ? base + (row * ARRAYS + which) * count : NULL;
}

static an_step_row make_row(const step_case *c, float *base, int row, int id)
{
    an_step_row r = {.count = c->count, .branches = c->branches};
    an_step *s = &r.step;
    uint64_t seed = (uint64_t)id + 99;
    s->dx = h_random(&seed);
    s->dm = h_random(&seed);
    s->clip = c->clip ? 0.8f : 0;
    s->threshold = c->threshold ? 0.95f + 0.01f * (float)(id % 3) : 0;
    s->threshold_max = 1.7f;
    s->save = c->save && id % 2 == 0;
    s->noise = c->noise;
    for (int k = 0; k < AN_TERMS; k++) {
        if (k == AN_TERM_NOISE && !c->noise) continue;
        if (k >= AN_TERM_D0 + c->history) continue;
        s->out[k] = h_random(&seed);
        s->keep[k] = h_random(&seed);
    }
    r.rescale = c->rescale && id % 3 ? 0.7f : 0;
    for (int j = 0; j < c->branches; j++) {
        r.pred[j] = array_of(base, c->count, row, P0 + j);
        r.weight[j] = j ? 1 - 7.5f : 7.5f;
    }
    r.x = array_of(base, c->count, row, X);
    r.saved = array_of(base, c->count, row, SAVED);
    r.noise = c->noise ? array_of(base, c->count, row, NOISE) : NULL;
    for (int h = 0; h < c->history; h++) r.d[h] = array_of(base, c->count, row, D0 + h);
    return r;
}

static void run_step(h_run *h, const void *cfg)
{
    const step_case *c = cfg;
    an_tensor all = h_rows(h, AN_F32, 3, (int64_t[]){h->n, ARRAYS, c->count}, 1, 1, 0.2f);
    an_step_row rows[16];
    for (int i = 0; i < h->n; i++) rows[i] = make_row(c, all.data, i, h->id[i]);
    an_sampler_step(h->l, rows, h->n);
    h_output(h, all);
}

TEST(sampler_steps)
{
    static const int64_t counts[] = {2, 31, 512, 4 * 9 * 13, 20011};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int kind = 0; kind<16; kind += counts[i]> 1000 ? 5 : 1) {
            step_case c = {.count = counts[i],
                           .rescale = kind & 1,
                           .threshold = kind & 2,
                           .clip = kind & 4,
                           .save = kind & 8,
                           .noise = (kind & 3) != 1,
                           .branches = 1 + kind % AN_MAX_BRANCHES,
                           .history = kind % 6};
            h_all("sampler_step", run_step, &c, 1e-7);
        }
}

/* ---------------------------------------------------------------- by hand */

static an_device *one_of_both(int i)
{
    return h_device(i ? h_tested() : "ref", "auto", 2);
}

/* Arrays of a test on the host, and where they are on the device while a step is made. */
typedef struct mirror {
    an_lane *l;
    struct {
        float *host, *device;
        size_t bytes;
    } array[16];
    int n;
} mirror;

static float *there(mirror *m, float *host, size_t count)
{
    an_tensor t = an_lane_tensor(m->l, AN_F32, (int64_t)count);
    an_upload(m->l, t.data, host, count * sizeof *host);
    m->array[m->n].host = host;
    m->array[m->n].device = t.data;
    m->array[m->n++].bytes = count * sizeof *host;
    return t.data;
}

/* The step of a row whose pointers are the host's, n elements each. */
static void step_on(an_lane *l, const an_step_row *row)
{
    const size_t mark = an_lane_mark(l), n = (size_t)row->count;
    mirror m = {.l = l};
    an_step_row r = *row;
    r.x = there(&m, r.x, n);
    if (r.saved) r.saved = there(&m, r.saved, n);
    if (r.noise) r.noise = there(&m, (float *)(uintptr_t)r.noise, n);
    for (int j = 0; j < r.branches; j++) r.pred[j] = there(&m, (float *)(uintptr_t)r.pred[j], n);
    for (int h = 0; h < AN_HISTORY; h++)
        if (r.d[h]) r.d[h] = there(&m, r.d[h], n);
    an_sampler_step(l, &r, 1);
    for (int i = 0; i < m.n; i++)
        an_download(l, m.array[i].host, m.array[i].device, m.array[i].bytes);
    an_lane_release(l, mark);
}

TEST(one_step_written_out)
{
    for (int i = 0; i < 2; i++) {
        an_device *d = one_of_both(i);
        an_lane *l = NULL;
        REQUIRE(an_lane_open(d, 65536, &l, NULL) == AN_OK);
        float x[2] = {1, -2}, saved[2] = {5, 6}, cond[2] = {0.5f, 1}, uncond[2] = {0.25f, -1};
        float noise[2] = {3, 4}, d0[2] = {10, 20}, d1[2] = {-1, -3};
        an_step_row r = {.count = 2,
                         .branches = 2,
                         .pred = {cond, uncond},
                         .weight = {3, -2},
                         .x = x,
                         .saved = saved,
                         .noise = noise,
                         .d = {d0, d1}};
        r.step = (an_step){.dx = 2, .dm = -1, .save = true, .noise = true, .push = true};
        r.step.out[AN_TERM_X] = 0.5f;
        r.step.out[AN_TERM_M] = 1;
        r.step.out[AN_TERM_NOISE] = 0.1f;
        r.step.out[AN_TERM_D0] = 2;
        r.step.out[AN_TERM_D0 + 1] = 4;
        r.step.keep[AN_TERM_X] = 1;
        r.step.keep[AN_TERM_SAVED] = 10;
        step_on(l, &r);
        CHECK(an_lane_status(l, NULL) == AN_OK);
        /* m = 1, 5; d = 1, -9 */
        CHECK_NEAR(d0[0], 1, 0);
        CHECK_NEAR(d0[1], -9, 0);
        CHECK_NEAR(x[0], 0.5 + 1 + 0.3 + 2 - 4, 1e-6);
        CHECK_NEAR(x[1], -1 + 5 + 0.4 - 18 - 12, 2e-6);
        CHECK_NEAR(saved[0], 1 + 50, 0);
        CHECK_NEAR(saved[1], -2 + 60, 0);
        CHECK(d1[0] == -1 && noise[0] == 3);
        an_lane_close(l);
        an_device_close(d);
    }
}

/* torch.quantile of 1..101 at 0.995 is 100.5; the threshold is kept in 1..max. */
TEST(dynamic_threshold_written_out)
{
    for (int i = 0; i < 2; i++) {
        an_device *d = one_of_both(i);
        an_lane *l = NULL;
        REQUIRE(an_lane_open(d, 65536, &l, NULL) == AN_OK);
        for (int max = 0; max < 3; max++) {
            float x[101] = {0}, m[101];
            for (int k = 0; k < 101; k++) m[k] = (float)(k % 2 ? -(k + 1) : k + 1);
            if (max == 2)
                for (int k = 0; k < 101; k++) m[k] /= 200;
            an_step_row r = {.count = 101, .branches = 1, .pred = {m}, .weight = {1}, .x = x};
            r.step = (an_step){.dm = 1, .threshold = 0.995f, .threshold_max = max ? 50 : 1000};
            r.step.out[AN_TERM_D0] = 1;
            step_on(l, &r);
            CHECK(an_lane_status(l, NULL) == AN_OK);
            double top = max == 0 ? 100.5 : max == 1 ? 50 : 1;
            CHECK_NEAR(x[0], m[0] / top, 1e-6);
            CHECK_NEAR(x[49], m[49] / top, 1e-6);
            CHECK_NEAR(x[100], max == 2 ? m[100] : 1, 1e-6);
        }
        an_lane_close(l);
        an_device_close(d);
    }
}

/* A constant prediction has no spread to rescale to, and NaN stays in its own elements. */
TEST(steps_of_odd_numbers)
{
    for (int i = 0; i < 2; i++) {
        an_device *d = one_of_both(i);
        an_lane *l = NULL;
        REQUIRE(an_lane_open(d, 65536, &l, NULL) == AN_OK);
        float x[4] = {1, 2, NAN, 4}, m[4] = {2, 2, 2, 2}, u[4] = {1, 1, 1, 1};
        an_step_row r = {
            .count = 4, .branches = 2, .pred = {m, u}, .weight = {2, -1}, .x = x, .rescale = 0.7f};
        r.step.out[AN_TERM_X] = 1;
        r.step.out[AN_TERM_M] = 1;
        step_on(l, &r);
        CHECK(an_lane_status(l, NULL) == AN_OK);
        CHECK(x[0] == 4 && x[1] == 5 && x[2] != x[2] && x[3] == 7);
        r.step.threshold = 0.9f;
        r.step.threshold_max = 2;
        r.step.dx = 1;
        step_on(l, &r);
        CHECK(an_lane_status(l, NULL) == AN_OK);
        /* memory that no term asks for is not read */
        float nan[4] = {NAN, NAN, NAN, NAN}, fresh[4] = {1, 2, 3, 4};
        r = (an_step_row){.count = 4,
                          .branches = 1,
                          .pred = {nan},
                          .weight = {1},
                          .x = fresh,
                          .saved = nan,
                          .noise = nan,
                          .d = {NULL, nan}};
        r.step.out[AN_TERM_X] = 3;
        step_on(l, &r);
        CHECK(fresh[0] == 3 && fresh[3] == 12);
        an_lane_close(l);
        an_device_close(d);
    }
}

TEST(rows_that_cannot_be)
{
    an_device *d = h_device("cpu", "auto", 1);
    an_lane *l = NULL;
    an_error err = {0};
    REQUIRE(an_lane_open(d, 65536, &l, NULL) == AN_OK);
    float v[4] = {0};
    an_step_row good = {.count = 4, .branches = 1, .pred = {v}, .weight = {1}, .x = v}, r[2];
    static const char *const texts[] = {"no elements", "branches are out of range",
                                        "no sample",   "no prediction",
                                        "no memory",   "no memory",
                                        "no memory",   "but nowhere",
                                        "threshold"};
    for (int i = 0; i < 9; i++) {
        r[0] = r[1] = good;
        if (i == 0) r[1].count = 0;
        if (i == 1) r[1].branches = AN_MAX_BRANCHES + 1;
        if (i == 2) r[1].x = NULL;
        if (i == 3) r[1].branches = 2;
        if (i == 4) r[1].step.out[AN_TERM_SAVED] = 1;
        if (i == 5) r[1].step.out[AN_TERM_NOISE] = 1;
        if (i == 6) r[1].step.out[AN_TERM_D0 + 4] = NAN;
        if (i == 7) r[1].step.save = true;
        if (i == 8) r[1].step.threshold = NAN;
        an_sampler_step(l, r, 2);
        CHECK(an_lane_status(l, &err) == AN_INTERNAL);
        CHECK_MSG(strstr(err.message, texts[i]) && strstr(err.message, "row 1 of 2"), "%d: %s", i,
                  err.message);
    }
    an_sampler_step(l, r, 0);
    CHECK(an_lane_status(l, &err) == AN_OK);
    an_lane_close(l);
    an_device_close(d);
}

/* ---------------------------------------------------------------- latents and pictures */

typedef struct picture_case {
    an_dtype dtype;
    int64_t h, w;
} picture_case;

static void run_latent_in(h_run *h, const void *cfg)
{
    const picture_case *c = cfg;
    an_tensor x = h_rows(h, AN_F32, 4, (int64_t[]){h->n, c->h, c->w, 4}, 1, 1, 0);
    an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->h, c->w, 4);
    const float *rows[16];
    float scale[16];
    for (int i = 0; i < h->n; i++) {
        rows[i] = x.data ? (float *)x.data + i * c->h * c->w * 4 : NULL;
        scale[i] = 0.3f + (float)h->id[i];
    }
    an_latent_in(h->l, rows, scale, y);
    h_output(h, y);
}

static void run_image_out(h_run *h, const void *cfg)
{
    const picture_case *c = cfg;
    an_tensor x = h_rows(h, c->dtype, 4, (int64_t[]){h->n, c->h, c->w, 3}, 1, 0.7f, 0);
    an_tensor y = an_lane_tensor(h->l, AN_U8, h->n, c->h, c->w, 3);
    an_image_out(h->l, x, y, NULL);
    h_output(h, y);
}

static void run_image_in(h_run *h, const void *cfg)
{
    const picture_case *c = cfg;
    an_tensor x = an_lane_tensor(h->l, AN_U8, h->n, c->h, c->w, 3);
    an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->h, c->w, 3);
    int64_t row = c->h * c->w * 3;
    uint8_t *v = malloc((size_t)(h->n * row));
    for (int i = 0; i < h->n; i++)
        for (int64_t k = 0; k < row; k++) v[i * row + k] = (uint8_t)(k * 7 + h->id[i]);
    an_upload(h->l, x.data, v, (size_t)(h->n * row));
    free(v);
    an_image_in(h->l, x, y);
    h_output(h, y);
}

TEST(latents_and_pictures)
{
    for (int d = 0; d < 2; d++)
        for (int i = 0; i < 3; i++) {
            picture_case c = {d ? AN_BF16 : AN_F32, i == 2 ? 83 : 1 + i, i == 2 ? 91 : 3};
            h_all("latent_in", run_latent_in, &c, 0);
            h_all("image_out", run_image_out, &c, 0);
            h_all("image_in", run_image_in, &c, 0);
        }
}

TEST(picture_values)
{
    for (int i = 0; i < 2; i++) {
        an_device *d = one_of_both(i);
        an_lane *l = NULL;
        REQUIRE(an_lane_open(d, 1 << 20, &l, NULL) == AN_OK);
        an_tensor x = an_lane_tensor(l, AN_F32, 1, 100, 100, 3);
        an_tensor y = an_lane_tensor(l, AN_U8, 1, 100, 100, 3);
        static float v[30000];
        static uint8_t u[30000];
        for (int k = 0; k < 30000; k++) v[k] = NAN;
        /* 2/255 * n - 1 is n; halves go to even: 0.5 -> 0, 1.5 -> 2 */
        const float in[12] = {-1,        1,    0,        -5,      5,    INFINITY,
                              -INFINITY, 0.2f, 1.0f / 3, -0.999f, 0.5f, 0.25f};
        const int out[12] = {0, 255, 128, 0, 255, 255, 0, 153, 170, 0, 191, 159};
        memcpy(v, in, sizeof in);
        an_upload(l, x.data, v, sizeof v);
        int64_t nan = -1, none = -1;
        an_image_out(l, x, y, &nan);
        an_tensor few = an_tensor_4d(x.data, AN_F32, 1, 2, 2, 3), bytes = few;
        bytes.data = (char *)y.data + 512;
        bytes.dtype = AN_U8;
        an_image_out(l, few, bytes, &none);
        CHECK(an_lane_status(l, NULL) == AN_OK && nan == 30000 - 12 && none == 0);
        an_download(l, u, y.data, sizeof u);
        for (int k = 0; k < 12; k++) CHECK_MSG(u[k] == out[k], "%d: %d, not %d", k, u[k], out[k]);
        CHECK(u[29999] == 0 && memcmp(u, u + 512, 12) == 0);
        for (int k = 0; k < 256; k++) u[k] = (uint8_t)k;
        an_upload(l, y.data, u, sizeof u);
        an_image_in(l, y, x);
        an_image_out(l, x, y, NULL);
        an_download(l, u, y.data, sizeof u);
        int wrong = 0;
        for (int k = 0; k < 256; k++) wrong += u[k] != k;
        CHECK(wrong == 0);
        an_lane_close(l);
        an_device_close(d);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

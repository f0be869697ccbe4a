/* What lanes promise on any device: sources of uploads may be reused at once, downloads have the
 * data, counts and errors of kernels arrive when somebody waits, and nothing is lost on the way. */
#include "kernels/harness.h"
#include "kernels/simt/include/cuda_runtime_api.h"

#include <pthread.h>

static an_device *tested(void)
{
    return h_device(h_tested(), "auto", 1);
}

/* Thousands of small uploads out of one host array that changes right after each: more bytes than
 * any staging memory holds at a time. */
TEST(sources_may_be_reused)
{
    enum { N = 3000, W = 256 };
    an_device *d = tested();
    an_lane *l;
    REQUIRE(d && an_lane_open(d, 2 * N * W * sizeof(float), &l, NULL) == AN_OK);
    an_tensor all = an_lane_tensor(l, AN_F32, N, W), sum = an_lane_tensor(l, AN_F32, N, W);
    float v[W], *back = malloc(N * W * sizeof *back);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < W; k++) v[k] = (float)(i + k);
        an_upload(l, (float *)all.data + i * W, v, sizeof v);
    }
    memset(v, 0xff, sizeof v);
    an_add(l, all, all, sum);
    an_download(l, back, sum.data, N * W * sizeof *back);
    int wrong = 0;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < W; k++) wrong += back[i * W + k] != (float)(2 * (i + k));
    CHECK_MSG(wrong == 0, "%d of %d", wrong, N * W);

    /* one that is larger than the staging memory, not a multiple of anything */
    const size_t big = (size_t)N * W * sizeof(float) - 5;
    for (size_t i = 0; i < big; i++) ((uint8_t *)back)[i] = (uint8_t)(i * 31 >> 3);
    an_upload(l, all.data, back, big);
    memset(back, 0, big);
    an_download(l, back, all.data, big);
    wrong = 0;
    for (size_t i = 0; i < big; i++) wrong += ((uint8_t *)back)[i] != (uint8_t)(i * 31 >> 3);
    CHECK_MSG(wrong == 0, "%d of %zu", wrong, big);
    CHECK(an_lane_status(l, NULL) == AN_OK);
    free(back);
    an_lane_close(l);
    an_device_close(d);
}

/* The arrays an op is given on the host may be changed when it returns. */
TEST(host_arrays_of_ops_may_be_reused)
{
    enum { ROWS = 40, C = 6, TIMES = 200 };
    an_device *d = tested();
    an_lane *l;
    REQUIRE(d && an_lane_open(d, 1 << 20, &l, NULL) == AN_OK);
    float v[ROWS * C];
    for (int i = 0; i < ROWS * C; i++) v[i] = (float)i;
    an_tensor x = h_there(l, an_tensor_2d(v, AN_F32, ROWS, C));
    an_tensor out = an_lane_tensor(l, AN_F32, TIMES, 3, C);
    for (int t = 0; t < TIMES; t++) {
        int32_t index[3] = {t % ROWS, (t * 7) % ROWS, ROWS - 1};
        an_take_rows(l, x, index, an_tensor_2d((float *)out.data + t * 3 * C, AN_F32, 3, C));
        memset(index, 0x7f, sizeof index);
    }
    float got[TIMES][3][C];
    h_back(l, got, out);
    CHECK(an_lane_status(l, NULL) == AN_OK);
    for (int t = 0; t < TIMES; t++)
        CHECK(got[t][0][1] == v[t % ROWS * C + 1] && got[t][1][0] == v[t * 7 % ROWS * C] &&
              got[t][2][5] == v[ROWS * C - 1]);
    an_lane_close(l);
    an_device_close(d);
}

/* Memory of the host that a GPU reaches itself: where there is one, it is pinned. */
TEST(host_memory)
{
    enum { N = 1000 };
    an_device *d = tested();
    an_lane *l;
    float *host = NULL;
    void *other = NULL;
    an_error err = {0};
    REQUIRE(d && an_lane_open(d, 2 * N * sizeof *host, &l, NULL) == AN_OK);
    REQUIRE(an_host_alloc(d, N * sizeof *host, (void **)&host, &err) == AN_OK);
    CHECK(an_host_alloc(d, 0, &other, &err) == AN_OK && other);
    an_tensor x = an_lane_tensor(l, AN_F32, N);
    for (int i = 0; i < N; i++) host[i] = (float)i;
    an_upload(l, x.data, host, N * sizeof *host);
    an_scale(l, x, 2, x);
    an_download(l, host, x.data, N * sizeof *host);
    CHECK(an_lane_status(l, NULL) == AN_OK && host[0] == 0 && host[N - 1] == 2 * (N - 1));
    if (h_on("simt")) {
        CHECK(cudaFreeHost(host) == cudaSuccess); /* refused were it not pinned */
        host = NULL;
        void *much = &err;
        CHECK(an_host_alloc(d, SIZE_MAX / 4, &much, &err) == AN_NO_MEMORY && !much);
        CHECK_MSG(strstr(err.message, "pinned memory"), "%s", err.message);
    }
    an_host_free(d, host);
    an_host_free(d, other);
    an_host_free(d, NULL);
    an_lane_close(l);
    an_device_close(d);
}

/* What is kept is read until its scratch goes, and not brought again: an array that changes
 * although it must not tells where an op looked. */
TEST(kept_arrays)
{
    enum { ROWS = 9, C = 4 };
    an_device *d = tested();
    an_lane *l;
    REQUIRE(d && an_lane_open(d, 1 << 16, &l, NULL) == AN_OK);
    float v[ROWS * C], got[6][2][C];
    for (int i = 0; i < ROWS * C; i++) v[i] = (float)i;
    an_tensor x = h_there(l, an_tensor_2d(v, AN_F32, ROWS, C));
    an_tensor out = an_lane_tensor(l, AN_F32, 6, 2, C);
    int32_t index[2] = {3, 5}, many[AN_LANE_KEPT + 4][2];
    const size_t mark = an_lane_mark(l);
    for (int t = 0; t < 6; t++) {
        if (t == 1) an_lane_keep(l, index, sizeof index);
        if (t == 2) index[0] = 8;
        if (t == 4) an_lane_release(l, mark); /* from here on it is brought again */
        if (t == 5) index[0] = 7;
        an_take_rows(l, x, index, an_tensor_2d((float *)out.data + t * 2 * C, AN_F32, 2, C));
    }
    h_back(l, got, out);
    static const int on_gpu[6] = {3, 3, 3, 3, 8, 7}, on_cpu[6] = {3, 3, 8, 8, 8, 7};
    for (int t = 0; t < 6; t++) {
        const int want = d->backend->keep ? on_gpu[t] : on_cpu[t];
        CHECK_MSG(got[t][0][0] == v[want * C] && got[t][1][3] == v[5 * C + 3], "%d: %g", t,
                  (double)got[t][0][0]);
    }
    /* more than there are places for: the rest is as if nobody had asked */
    for (int i = 0; i < AN_LANE_KEPT + 4; i++) {
        many[i][0] = i % ROWS;
        many[i][1] = (i + 1) % ROWS;
        an_lane_keep(l, many[i], sizeof many[i]);
    }
    for (int i = 0; i < AN_LANE_KEPT + 4; i++) {
        an_take_rows(l, x, many[i], an_tensor_2d(out.data, AN_F32, 2, C));
        h_back(l, got, an_tensor_2d(out.data, AN_F32, 2, C));
        CHECK(got[0][0][0] == v[i % ROWS * C] && got[0][1][0] == v[(i + 1) % ROWS * C]);
    }
    an_error err = {0};
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    /* one that there is no scratch for */
    char *large = calloc(1, 1 << 17);
    an_lane_keep(l, large, 1 << 17);
    CHECK(an_lane_status(l, NULL) == (d->backend->keep ? AN_NO_MEMORY : AN_OK));
    free(large);
    an_lane_close(l);
    an_device_close(d);
}

/* More counts than a lane has places for, and each in its own. */
TEST(counts_of_nan)
{
    enum { CALLS = 150 };
    an_device *d = tested();
    an_lane *l;
    REQUIRE(d && an_lane_open(d, 1 << 20, &l, NULL) == AN_OK);
    an_tensor x = an_lane_tensor(l, AN_F32, CALLS, 2, 2, 3);
    an_tensor y = an_lane_tensor(l, AN_U8, CALLS, 2, 2, 3);
    static float v[CALLS][12];
    for (int i = 0; i < CALLS; i++)
        for (int k = 0; k < 12; k++) v[i][k] = k < i % 13 ? NAN : 0.5f;
    an_upload(l, x.data, v, sizeof v);
    int64_t nan[CALLS], again = -1;
    for (int i = 0; i < CALLS; i++) {
        an_tensor one = an_tensor_4d((float *)x.data + i * 12, AN_F32, 1, 2, 2, 3), u = one;
        u.data = (uint8_t *)y.data + i * 12;
        u.dtype = AN_U8;
        an_image_out(l, one, u, &nan[i]);
    }
    an_lane_sync(l);
    for (int i = 0; i < CALLS; i++) CHECK_MSG(nan[i] == i % 13, "%d: %lld", i, (long long)nan[i]);
    /* a count is its call's alone */
    an_image_out(l, an_tensor_4d((float *)x.data + 12, AN_F32, 1, 2, 2, 3),
                 an_tensor_4d(y.data, AN_U8, 1, 2, 2, 3), &again);
    CHECK(an_lane_status(l, NULL) == AN_OK && again == 1 && nan[1] == 1);
    an_lane_close(l);
    an_device_close(d);
}

/* An error that a kernel finds is that of the lane until somebody asked, and gone then. */
TEST(errors_of_kernels)
{
    an_device *d = tested();
    an_lane *l;
    an_error err = {0};
    REQUIRE(d && an_lane_open(d, 1 << 16, &l, NULL) == AN_OK);
    an_tensor table = h_there(l, an_tensor_2d((float[4]){1, 2, 3, 4}, AN_F32, 2, 2));
    an_tensor good = h_there(l, an_tensor_2d((int32_t[]){0, 1}, AN_I32, 1, 2));
    an_tensor bad = h_there(l, an_tensor_2d((int32_t[]){1, 2}, AN_I32, 1, 2));
    an_tensor y = an_lane_tensor(l, AN_F32, 1, 2, 2);
    float got[4];
    an_embedding(l, &table, NULL, good, y);
    h_back(l, got, y);
    CHECK(got[0] == 1 && got[3] == 4);
    an_embedding(l, &table, NULL, bad, y);
    an_lane_sync(l);
    an_lane_fail(l, AN_BUSY, "comes later");
    CHECK(an_lane_status(l, &err) == AN_INVALID);
    CHECK_MSG(strstr(err.message, "token id 2 at 1, the table has 2"), "%s", err.message);
    an_embedding(l, &table, NULL, good, y);
    CHECK(an_lane_status(l, &err) == AN_OK);
    an_embedding(l, &table, NULL, bad, y);
    an_lane_reset(l); /* forgets it */
    CHECK(an_lane_status(l, &err) == AN_OK);
    an_embedding(l, &table, NULL, bad, y);
    an_lane_close(l); /* with work under way */
    CHECK(an_device_bytes_live(d) == 0);
    an_device_close(d);
}

/* ---------------------------------------------------------------- several lanes */

typedef struct worker {
    an_device *d;
    int id;
    bool right;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    an_lane *l;
    if (an_lane_open(w->d, 1 << 16, &l, NULL)) return NULL;
    w->right = true;
    for (int round = 0; round < 20; round++) {
        float v[300], got[300];
        for (int i = 0; i < 300; i++) v[i] = (float)(w->id * 1000 + round + i);
        const size_t mark = an_lane_mark(l);
        an_tensor x = h_there(l, an_tensor_2d(v, AN_F32, 3, 100)),
                  y = an_lane_tensor(l, AN_F32, 3, 100);
        an_scale(l, x, 0.5f, y);
        an_add(l, x, y, y);
        h_back(l, got, y);
        for (int i = 0; i < 300; i++) w->right &= got[i] == 1.5f * v[i];
        an_lane_release(l, mark);
    }
    w->right &= an_lane_status(l, NULL) == AN_OK;
    an_lane_close(l);
    return NULL;
}

TEST(lanes_side_by_side)
{
    if (h_on("cpu")) return; /* its ops take all of its threads: one at a time */
    an_device *d = tested();
    REQUIRE(d);
    pthread_t t[2];
    worker w[2] = {{d, 1, false}, {d, 2, false}};
    for (int i = 0; i < 2; i++) REQUIRE(pthread_create(&t[i], NULL, work, &w[i]) == 0);
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    CHECK(w[0].right && w[1].right);
    an_device_close(d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

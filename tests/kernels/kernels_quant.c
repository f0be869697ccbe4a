/* Products with weights in GGUF's block formats: every format against the reference, ragged shapes,
 * stacked parts of several formats, all threads and instruction sets, and bytes that do not depend
 * on the batch (see harness.h); the kernels' tiles; what is not finite; tables of embeddings. */
#include "quant_cases.h"
#include "kernels/cpu/cpuid.h"
#include "kernels/cpu/quant.h"

typedef struct quant_case {
    int64_t m, k;
    int parts;
    an_dtype format[3];
    int64_t n[3];
    an_act act;
    an_dtype dtype, y_dtype;
    bool bias, residual;
} quant_case;

static an_weight *weight(h_run *h, const quant_case *c)
{
    an_tensor w[3], b[3];
    const an_tensor *pw[3], *pb[3];
    float bias[3][512];
    for (int i = 0; i < c->parts; i++) {
        w[i] = qc_matrix(c->format[i], c->n[i], c->k, 40 + (uint64_t)i);
        h_values(bias[i], c->n[i], 50 + (uint64_t)i, 0.5f, 0);
        b[i] = an_tensor_1d(bias[i], AN_F32, c->n[i]);
        pw[i] = &w[i];
        pb[i] = c->bias && i != 1 ? &b[i] : NULL;
    }
    an_error err = {0};
    an_weight *out = NULL;
    an_status s = an_weight_linear(h->d, c->dtype, c->parts, pw, pb, &out, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    for (int i = 0; i < c->parts; i++) free(w[i].data);
    if (out) h->weight[h->weights++] = out;
    return out;
}

static void run(h_run *h, const void *cfg)
{
    const quant_case *c = cfg;
    int64_t n = 0;
    for (int i = 0; i < c->parts; i++) n += c->n[i];
    const int64_t width = an_act_gated(c->act) ? n / 2 : n;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->m, c->k}, 1, 0.2f, 0);
    an_tensor y = h_rows(h, c->y_dtype, 3, (int64_t[]){h->n, c->m, width}, 2, 1, 0);
    an_gemm_args a = {.x = x, .w = weight(h, c), .act = c->act, .y = y};
    if (c->residual) a.residual = &y;
    if (a.w) an_gemm(h->l, &a);
    h_output(h, y);
}

static void check(const quant_case *c)
{
    char name[96];
    snprintf(name, sizeof name, "quant m %lld n %lld k %lld %s +%d act %d %s->%s", (long long)c->m,
             (long long)c->n[0], (long long)c->k, an_dtype_name(c->format[0]), c->parts - 1,
             (int)c->act, an_dtype_name(c->dtype), an_dtype_name(c->y_dtype));
    h_all(name, run, c, 3e-5);
}

TEST(formats_and_odd_shapes)
{
    static const int64_t ms[] = {1, 2, 3, 7, 19, 70}, ns[] = {1, 8, 37, 130}, ks[] = {32, 96, 544};
    int i = 0;
    for (int f = 0; f < QC_FORMATS; f++)
        for (int m = 0; m < 6; m++, i++) {
            quant_case c = {.m = ms[m], .parts = 1, .format = {qc_formats[f]}};
            c.n[0] = ns[i % 4];
            c.k = an_dtype_block(qc_formats[f]) == 256 ? 256 * (1 + i % 3) : ks[i % 3];
            c.dtype = i % 2 ? AN_F32 : AN_BF16;
            c.y_dtype = i % 3 ? c.dtype : AN_F32;
            c.bias = i % 4 < 2, c.residual = i % 5 == 0;
            check(&c);
        }
}

TEST(stacked_formats)
{
    /* q, k, v of three formats, ragged; a floating part among them; gates that meet another format
     */
    check(&(quant_case){3,
                        256,
                        3,
                        {AN_Q4_K, AN_Q6_K, AN_Q4_1},
                        {37, 8, 19},
                        AN_ACT_NONE,
                        AN_F32,
                        AN_F32,
                        true,
                        true});
    check(&(quant_case){5,
                        256,
                        3,
                        {AN_Q8_0, AN_F32, AN_Q5_K},
                        {9, 21, 10},
                        AN_ACT_SILU,
                        AN_BF16,
                        AN_BF16,
                        true,
                        false});
    check(&(quant_case){2,
                        64,
                        3,
                        {AN_BF16, AN_Q4_0, AN_F16},
                        {9, 21, 10},
                        AN_ACT_SWIGLU,
                        AN_F32,
                        AN_F32,
                        true,
                        false});
    check(&(quant_case){
        9, 256, 2, {AN_Q3_K, AN_Q6_K}, {44, 44}, AN_ACT_SWIGLU, AN_F32, AN_F32, false, false});
    check(&(quant_case){17,
                        512,
                        2,
                        {AN_Q4_1, AN_Q4_1},
                        {300, 300},
                        AN_ACT_GEGLU_TANH,
                        AN_BF16,
                        AN_BF16,
                        false,
                        true});
    check(&(quant_case){
        4, 96, 2, {AN_Q4_1, AN_Q5_1}, {13, 17}, AN_ACT_GEGLU, AN_F32, AN_F32, true, false});
}

/* More rows and outputs than a task has. */
TEST(many_rows)
{
    check(&(quant_case){70, 1024, 1, {AN_Q4_1}, {264}, AN_ACT_NONE, AN_F32, AN_F32, false, false});
    check(&(quant_case){
        300, 64, 2, {AN_Q8_0, AN_Q4_0}, {310, 310}, AN_ACT_SWIGLU, AN_F32, AN_F32, false, false});
}

/* Every row finds a tile that holds it, and tiles do not overlap. */
TEST(tiles)
{
    for (int64_t rows = 1; rows < 40; rows++)
        for (int64_t m = 0; m < rows;) {
            const an_quant_tile t = an_quant_tile_at(rows, m);
            REQUIRE(t.first == m && t.rows >= 1 && t.first + t.rows <= rows);
            for (int64_t i = m; i < m + t.rows; i++) CHECK(an_quant_tile_at(rows, i).first == m);
            m += t.rows;
        }
}

/* A kernel's panel against the plain one's, also with the largest numbers there are. */
TEST(kernels)
{
    static const an_isa isas[] = {AN_ISA_GENERIC, AN_ISA_AVX2};
    for (int i = 0; i < 2; i++) {
        an_device *d = h_device("cpu", an_isa_name(isas[i]), 1);
        if (d && d->isa == isas[i]) CHECK(an_quant_check_kernel(an_quant_kernel_of(isas[i])));
        an_device_close(d);
    }
    if (an_cpu_vnni() && an_quant_vnni.panel) qc_bits_of_avx2(&an_quant_vnni);
}

/* NaN and infinity stay in their row, and do not vanish; tiny values become zeros. */
TEST(not_finite)
{
    enum { M = 4, K = 64, N = 8 };
    an_device *d = h_device(h_tested(), "auto", 2), *r = h_device("ref", "auto", 1);
    an_tensor w = qc_matrix(AN_Q4_1, N, K, 3);
    const an_tensor *pw = &w;
    float x[M * K], y[2][M * N];
    h_values(x, M * K, 1, 1, 0);
    x[K + 40] = NAN;
    x[2 * K] = -INFINITY;
    for (int i = 0; i < K; i++) x[3 * K + i] = 1e-35f;
    for (int i = 0; i < 2; i++) {
        an_device *dev = i ? r : d;
        an_weight *aw;
        an_lane *l;
        REQUIRE(dev && an_weight_linear(dev, AN_F32, 1, &pw, NULL, &aw, NULL) == AN_OK);
        REQUIRE(an_lane_open(dev, 1 << 21, &l, NULL) == AN_OK);
        an_gemm_args a = {.x = h_there(l, an_tensor_2d(x, AN_F32, M, K)), .w = aw};
        a.y = an_lane_tensor(l, AN_F32, M, N);
        an_gemm(l, &a);
        h_back(l, y[i], a.y);
        an_error err;
        CHECK(an_lane_status(l, &err) == AN_OK);
        for (int j = 0; j < N; j++) {
            CHECK(isfinite(y[i][j]) && y[i][j] != 0);
            CHECK(isnan(y[i][N + j]));
            CHECK(isnan(y[i][2 * N + j]));
            CHECK(y[i][3 * N + j] == 0);
        }
        an_lane_close(l);
        an_weight_free(aw);
        an_device_close(dev);
    }
    free(w.data);
}

/* Values as ggml's file formats mean them, whoever takes them. */
TEST(embedding_in_blocks)
{
    for (int f = 0; f < QC_FORMATS; f++) {
        enum { V = 5, C = 512, T = 3 };
        an_tensor host = qc_matrix(qc_formats[f], V, C, 9), table;
        float all[V * C], y[T * C];
        CHECK(an_dequantize(qc_formats[f], host.data, V * C, all));
        int32_t ids[T] = {4, 0, 2};
        for (int i = 0; i < 2; i++) {
            an_device *d = h_device(i ? "ref" : h_tested(), "auto", 2);
            an_lane *l;
            REQUIRE(d && an_lane_open(d, 1 << 16, &l, NULL) == AN_OK);
            REQUIRE(an_device_upload(d, &host, qc_formats[f], &table, NULL) == AN_OK);
            CHECK(an_tensor_bytes(&table) == an_tensor_bytes(&host));
            an_tensor device_y = an_lane_tensor(l, AN_F32, 1, T, C);
            an_embedding(l, &table, NULL, h_there(l, an_tensor_2d(ids, AN_I32, 1, T)), device_y);
            h_back(l, y, device_y);
            an_error err = {0};
            CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
            for (int t = 0; t < T; t++)
                CHECK(memcmp(y + t * C, all + ids[t] * C, C * sizeof *y) == 0);
            ids[1] = V;
            an_embedding(l, &table, NULL, h_there(l, an_tensor_2d(ids, AN_I32, 1, T)), device_y);
            CHECK(an_lane_status(l, &err) == AN_INVALID);
            ids[1] = 0;
            an_lane_close(l);
            an_device_free(d, table.data);
            an_device_close(d);
        }
        free(host.data);
    }
}

/* Rows of a packed matrix are the table's, to the byte. */
static void check_rows(an_device *d, an_dtype format, an_dtype dtype, an_dtype y_dtype)
{
    enum { V = 43, T = 5 };
    const int64_t width = an_dtype_is_quant(format) ? 512 : 75;
    an_tensor host = qc_matrix(format, V, width, 9), table;
    const an_tensor *part = &host;
    an_weight *w = NULL;
    an_lane *l = NULL;
    an_error err = {0};
    int32_t ids[T] = {42, 0, 7, 40, 8};
    float y[2][T * 512] = {{0}};
    REQUIRE(an_weight_linear(d, dtype, 1, &part, NULL, &w, &err) == AN_OK && w->rows);
    REQUIRE(an_device_upload(d, &host, an_dtype_is_quant(format) ? format : dtype, &table, &err) ==
            AN_OK);
    REQUIRE(an_lane_open(d, 1 << 16, &l, NULL) == AN_OK);
    const an_tensor device_y[2] = {an_lane_tensor(l, y_dtype, 1, T, width),
                                   an_lane_tensor(l, y_dtype, T, width)};
    an_embedding(l, &table, NULL, h_there(l, an_tensor_2d(ids, AN_I32, 1, T)), device_y[0]);
    an_weight_rows(l, w, h_there(l, an_tensor_1d(ids, AN_I32, T)), device_y[1]);
    for (int i = 0; i < 2; i++) h_back(l, y[i], device_y[i]);
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    CHECK_MSG(memcmp(y[0], y[1], sizeof y[0]) == 0, "%s as %s", an_dtype_name(format),
              an_dtype_name(dtype));
    ids[3] = V;
    const an_tensor wrong = h_there(l, an_tensor_1d(ids, AN_I32, T));
    an_weight_rows(l, w, wrong, device_y[1]);
    CHECK(an_lane_status(l, &err) == AN_INVALID);
    an_weight_rows(l, w, wrong, an_lane_tensor(l, y_dtype, T, width - 1));
    CHECK(an_lane_status(l, &err) == AN_INTERNAL);
    an_lane_close(l);
    an_weight_free(w);
    an_device_free(d, table.data);
    free(host.data);
}

TEST(rows_of_packed)
{
    static const char *const isas[] = {"auto", "generic", "avx2"};
    static const an_dtype plain[] = {AN_F32, AN_BF16, AN_F16};
    for (int i = 0; i < (h_on("cpu") ? 3 : 1); i++) {
        an_device *d = h_device(h_tested(), isas[i], 2);
        REQUIRE(d);
        for (int k = 0; k < 4; k++) {
            const an_dtype dtype = k & 1 ? AN_BF16 : AN_F32, y = k & 2 ? AN_BF16 : AN_F32;
            for (int f = 0; f < QC_FORMATS; f++) check_rows(d, qc_formats[f], dtype, y);
            for (int f = 0; f < 3; f++) check_rows(d, plain[f], dtype, y);
        }
        an_device_close(d);
    }
}

/* Rows that are not whole blocks are refused. */
TEST(refused)
{
    an_device *d = h_device("cpu", "auto", 1);
    uint8_t data[1024] = {0};
    an_tensor t = an_tensor_2d(data, AN_Q4_K, 2, 128);
    const an_tensor *w = &t;
    an_weight *out;
    an_error err = {0};
    REQUIRE(d);
    CHECK(an_weight_linear(d, AN_F32, 1, &w, NULL, &out, &err) == AN_INVALID);
    CHECK(strstr(err.message, "whole blocks"));
    t = an_tensor_2d(data, AN_I8, 2, 128);
    CHECK(an_weight_linear(d, AN_F32, 1, &w, NULL, &out, &err) == AN_INVALID);
    an_device_close(d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

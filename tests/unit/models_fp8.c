/* Matrices in FP8: files that hold them with scales of every kind, and models whose matrices are
 * rounded at load. Both come to the same bytes where the numbers are the same; how far the results
 * are from the unrounded ones is printed and bounded. */
#include "models_fixture.h"
#include "models_lm_fixture.h"
#include "models/fp8.h"

#include <unistd.h>

/* ---------------------------------------------------------------- files */

typedef struct file {
    an_buf header, data;
} file;
#define NO_TENSORS                                                                                 \
    {                                                                                              \
        {.max = 1 << 24},                                                                          \
        {                                                                                          \
            .max = 1 << 24                                                                         \
        }                                                                                          \
    }

static void put(file *f, const char *name, const char *dtype, const char *shape, const void *bytes,
                size_t n)
{
    an_buf_printf(&f->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                  f->header.len ? "," : "{", name, dtype, shape, f->data.len, f->data.len + n);
    an_buf_add(&f->data, bytes, n);
}

static void save(file *f, const char *path)
{
    FILE *out = fopen(path, "wb");
    if (!out) abort();
    an_buf_add(&f->header, "}", 1);
    const uint64_t n = f->header.len;
    bool ok = fwrite(&n, 1, 8, out) == 8 && fwrite(f->header.data, 1, n, out) == n &&
              fwrite(f->data.data, 1, f->data.len, out) == f->data.len;
    if (fclose(out) || !ok) abort();
    an_buf_free(&f->header);
    an_buf_free(&f->data);
}

enum { BY_ROW, BY_TENSOR, CAST };

/* A matrix's codes and scales, by the plainest loops; k values a row. */
static void put_matrix(file *f, const char *name, const an_tensor *t, int kind)
{
    const int64_t n = t->dim[0], k = t->dim[1];
    float *v = malloc((size_t)(n * k) * sizeof *v), *s = malloc((size_t)n * sizeof *s), all = 0;
    uint8_t *code = malloc((size_t)(n * k));
    char shape[64], scale[160];
    if (an_tensor_to_f32(t, v, NULL)) abort();
    for (int64_t j = 0; j < n; j++) {
        s[j] = 0;
        for (int64_t i = 0; i < k; i++) s[j] = fmaxf(s[j], fabsf(v[j * k + i]));
        all = fmaxf(all, s[j] /= 448);
    }
    for (int64_t i = 0; i < n * k; i++)
        code[i] = an_f32_to_e4m3(kind == CAST ? v[i] : v[i] / (kind == BY_ROW ? s[i / k] : all));
    put(f, name, "F8_E4M3", an_shape_str(2, t->dim, shape, sizeof shape), code, (size_t)(n * k));
    snprintf(scale, sizeof scale, "%s_scale%s", name, kind == BY_TENSOR ? "_inv" : "");
    snprintf(shape, sizeof shape, "[%lld,1]", (long long)n);
    if (kind == BY_ROW) put(f, scale, "F32", shape, s, (size_t)n * sizeof *s);
    if (kind == BY_TENSOR) put(f, scale, "F32", "[]", &all, sizeof all);
    free(v), free(s), free(code);
}

/* What published folders of such files say in their config. */
static const char *const said[] = {
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\"}",
    "{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}", "null"};

/* The golden llama's config with a "quantization_config". */
static void put_config(const char *path, const char *quantization)
{
    static char text[1 << 16];
    FILE *in = fopen(AN_GOLDEN "/llm/llama/model/config.json", "rb"), *out = fopen(path, "wb");
    if (!in || !out) abort();
    const size_t n = fread(text, 1, sizeof text - 1, in);
    text[n] = 0;
    const char *rest = strchr(text, '{');
    if (!rest || fprintf(out, "{\"quantization_config\":%s,%s", quantization, rest + 1) < 0)
        abort();
    if (fclose(in) || fclose(out)) abort();
}

static char folder[64];

/* The golden llama with its layers' matrices in FP8; the folder's path. */
static const char *fp8_model(int kind)
{
    char path[128], shape[64];
    an_weights *w;
    an_error err;
    file f = NO_TENSORS;
    snprintf(folder, sizeof folder, "/tmp/anneal-fp8-XXXXXX");
    if (!mkdtemp(folder) ||
        an_weights_open(AN_GOLDEN "/llm/llama/model/model.safetensors", &w, &err))
        abort();
    for (int i = 0; i < an_weights_count(w); i++) {
        an_tensor t;
        const char *name = an_weights_name(w, i);
        if (!an_weights_find(w, name, &t)) abort();
        if (strstr(name, "_proj.weight"))
            put_matrix(&f, name, &t, kind);
        else
            put(&f, name, an_dtype_name(t.dtype), an_shape_str(t.ndim, t.dim, shape, sizeof shape),
                t.data, an_tensor_bytes(&t));
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    save(&f, path);
    an_weights_close(w);
    snprintf(path, sizeof path, "%s/config.json", folder);
    put_config(path, said[kind]);
    return folder;
}

static void remove_model(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    rmdir(folder);
}

/* ---------------------------------------------------------------- language models */

enum { TOKENS = 24, VOCAB = 512 };

/* Logits of a text; path NULL: the golden model. *bytes: of its weights on the device. */
static float *logits_of(const char *path, const char *device, an_dtype dtype, an_dtype weights,
                        size_t *bytes)
{
    static lm f;
    int32_t ids[TOKENS];
    float *out = calloc(TOKENS * VOCAB, sizeof *out);
    memset(&f, 0, sizeof f);
    for (int i = 0; i < TOKENS; i++) ids[i] = 3 + i * 37 % 500;
    snprintf(f.name, sizeof f.name, "%s on %s in %s", path ? path : "llama", device,
             an_dtype_name(dtype));
    opened_weights = weights;
    if (lm_open_path(&f, path ? path : AN_GOLDEN "/llm/llama/model", device, dtype, LM_BLOCKS,
                     16 << 20)) {
        CHECK(f.vocab == VOCAB);
        sequence s = sequence_of(&f, ids, TOKENS);
        lm_feed(&f, &s, TOKENS, TOKENS, out);
        if (bytes) *bytes = an_model_weight_bytes(f.model);
    }
    opened_weights = AN_DTYPE_COUNT;
    lm_close(&f);
    return out;
}

/* Root mean square of the difference, of that of b. */
static double distance(const float *a, const float *b, int64_t n)
{
    double d = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        d += pow((double)a[i] - (double)b[i], 2);
        all += pow((double)b[i], 2);
    }
    return sqrt(d / all);
}

static const struct {
    const char *device;
    an_dtype dtype;
} runs[] = {{"ref", AN_F32}, {"cpu", AN_F32}, {"cpu", AN_BF16}, {"simt", AN_BF16}};

/* Rounded by whoever wrote the file or at load: the same bytes, where e4m3 is kept as it is (simt)
 * and where it is not. And not far from the unrounded model, nor devices from each other. */
TEST(llama_rounded_at_load_or_before)
{
    const char *path = fp8_model(BY_ROW);
    float *plain = logits_of(NULL, "cpu", AN_F32, AN_DTYPE_COUNT, NULL);
    float *first = NULL;
    for (int r = 0; r < 4; r++) {
        float *load = logits_of(NULL, runs[r].device, runs[r].dtype, AN_F8_E4M3, NULL);
        float *read = logits_of(path, runs[r].device, runs[r].dtype, AN_DTYPE_COUNT, NULL);
        CHECK_MSG(!memcmp(load, read, TOKENS * VOCAB * sizeof *load), "%s differs from its file",
                  runs[r].device);
        const double far = distance(load, plain, TOKENS * VOCAB);
        const double apart = first ? distance(load, first, TOKENS * VOCAB) : 0;
        printf("  llama in FP8 on %s in %s: logits differ by %.2g of their size, from ref by "
               "%.2g\n",
               runs[r].device, an_dtype_name(runs[r].dtype), far, apart);
        CHECK_MSG(far > 1e-4 && far < 0.15, "%.3g", far);
        CHECK_MSG(apart <= (runs[r].dtype == AN_F32 ? 1e-5 : 0.03), "%.3g", apart);
        free(read);
        if (first)
            free(load);
        else
            first = load;
    }
    free(first), free(plain);
    remove_model();
}

/* One scale a tensor, and none at all: of numbers below 2^-6 less remains. */
TEST(llama_by_tensor_and_cast)
{
    float *plain = logits_of(NULL, "cpu", AN_F32, AN_DTYPE_COUNT, NULL);
    for (int kind = BY_TENSOR; kind <= CAST; kind++) {
        float *a = logits_of(fp8_model(kind), "cpu", AN_F32, AN_DTYPE_COUNT, NULL);
        const double far = distance(a, plain, TOKENS * VOCAB);
        printf("  %s: logits differ by %.2g of their size\n",
               kind == CAST ? "a plain cast" : "one scale a tensor", far);
        CHECK_MSG(far > 1e-4 && far < (kind == CAST ? 0.3 : 0.15), "%.3g", far);
        remove_model();
        free(a);
    }
    free(plain);
}

/* The matrices of the layers take half on a GPU: 3 x 36864 numbers here. Where e4m3 is not kept,
 * nothing is gained. */
TEST(what_llama_occupies)
{
    size_t bf16, fp8;
    free(logits_of(NULL, "simt", AN_BF16, AN_DTYPE_COUNT, &bf16));
    free(logits_of(NULL, "simt", AN_BF16, AN_F8_E4M3, &fp8));
    const size_t numbers = 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128);
    printf("  %zu bytes in BF16, %zu with FP8\n", bf16, fp8);
    CHECK(bf16 > fp8 && bf16 - fp8 > numbers * 9 / 10 && bf16 - fp8 < numbers * 11 / 10);
}

/* ---------------------------------------------------------------- scales */

/* What a loader makes of "a.weight" in a file of these tensors. */
typedef struct made {
    an_status status;
    an_error err;
    an_weights *set;
    an_bag bag;
    an_fp8 m;
} made;

static void make(made *y, file *f, const char *name, bool fp8)
{
    char path[] = "/tmp/anneal-fp8-XXXXXX";
    const int fd = mkstemp(path);
    if (fd < 0) abort();
    close(fd);
    *y = (made){.err = {.message = ""}};
    save(f, path);
    an_tensor t;
    if (an_device_open(&(an_device_options){.device = "cpu", .threads = 2}, &y->bag.device,
                       &y->err) ||
        an_weights_open(path, &y->set, &y->err) || !an_weights_find(y->set, name, &t))
        abort();
    an_loader ld = {.bag = &y->bag, .dtype = AN_F32, .fp8 = fp8, .set = y->set, .err = &y->err};
    an_fp8_make(&ld, name, t, false, &y->m);
    y->status = ld.status;
    unlink(path);
}

static void unmake(made *y)
{
    an_fp8_free(&y->m);
    an_weights_close(y->set);
    an_device_close(y->bag.device);
}

/* A scale a block of 128 x 128, ragged at both ends: exact in F32. */
TEST(scales_by_blocks)
{
    enum { N = 130, K = 200 };
    static uint8_t code[N * K];
    const float s[4] = {0.5f, 3, 0.01f, 7};
    for (int i = 0; i < N * K; i++) code[i] = (uint8_t)(i % 126);
    file f = NO_TENSORS;
    made y;
    put(&f, "a.weight", "F8_E4M3", "[130,200]", code, sizeof code);
    put(&f, "a.weight_scale_inv", "F32", "[2,2]", s, sizeof s);
    make(&y, &f, "a.weight", false);
    REQUIRE(y.status == AN_OK && y.m.w.dtype == AN_F32 && !y.m.scale);
    int wrong = 0;
    for (int j = 0; j < N; j++)
        for (int i = 0; i < K; i++)
            wrong += ((float *)y.m.w.data)[j * K + i] !=
                     an_e4m3_to_f32(code[j * K + i]) * s[j / 128 * 2 + i / 128];
    CHECK_MSG(!wrong, "%d of %d numbers", wrong, N * K);
    unmake(&y);
}

/* Rows of zeros, of tiny numbers, and with what is not finite. */
TEST(rounding_of_odd_rows)
{
    const float v[4][3] = {
        {0, 0, 0}, {1e-42f, -2e-42f, 0}, {1, INFINITY, 2}, {448 * 3.0f, -3, 4.5f}};
    file f = NO_TENSORS;
    made y;
    put(&f, "a.weight", "F32", "[4,3]", v, sizeof v);
    make(&y, &f, "a.weight", true);
    REQUIRE(y.status == AN_OK && y.m.w.dtype == AN_F8_E4M3 && y.m.scale);
    const uint8_t *code = y.m.w.data;
    CHECK(y.m.scale[0] == 1 && !code[0] && !code[1] && !code[2]);
    CHECK(y.m.scale[1] == 1 && an_e4m3_to_f32(code[4]) == 0);
    CHECK(y.m.scale[2] != y.m.scale[2]);
    CHECK(y.m.scale[3] == 3 && code[9] == 0x7e && an_e4m3_to_f32(code[10]) == -1);
    CHECK(an_e4m3_to_f32(code[11]) == 1.5f);
    unmake(&y);
}

TEST(scales_that_are_missing_or_wrong)
{
    const uint8_t code[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const float s[6] = {1, 2, 3, 4, 5, 6};
    const struct {
        const char *name, *shape, *message;
    } cases[] = {
        {"b.weight_scale", "[2,1]", "F8_E4M3 without a.weight_scale or a.weight_scale_inv"},
        {"a.weight_scale", "[3]", "shape [3], expected one number, [2,1] or [1,1]"},
        {"a.weight_scale_inv", "[2,3]", "shape [2,3], expected one number"},
    };
    for (int i = 0; i < 3; i++) {
        file f = NO_TENSORS;
        made y;
        put(&f, "a.weight", "F8_E4M3", "[2,4]", code, sizeof code);
        put(&f, cases[i].name, "F32", cases[i].shape, s, i == 2 ? 24 : i ? 12 : 8);
        make(&y, &f, "a.weight", false);
        CHECK_MSG(y.status == AN_INVALID && strstr(y.err.message, cases[i].message), "%s",
                  y.err.message);
        unmake(&y);
    }
}

/* ---------------------------------------------------------------- a UNet */

/* The demo's prediction of one row, [16 x 16 x c]. */
static float *prediction(const char *device, an_dtype dtype, an_dtype weights, int64_t *n,
                         size_t *bytes)
{
    static fixture f;
    opened_weights = weights;
    float *out = NULL;
    if (fixture_open(&f, "emoji", device, dtype, (size_t)64 << 20)) {
        an_row r = row_of(&f, AN_STAGE_DENOISE, 5, 16, 16, f.model->info.chunk_len);
        opened_ok(&f.open, an_model_step(f.model, f.lane, AN_STAGE_DENOISE, &r, 1, &f.err), "step");
        const an_tensor *y = an_row_out(&r, "prediction");
        *n = an_tensor_count(y);
        *bytes = an_model_weight_bytes(f.model);
        out = malloc((size_t)*n * sizeof *out);
        memcpy(out, y->data, (size_t)*n * sizeof *out);
    }
    opened_weights = AN_DTYPE_COUNT;
    fixture_close(&f);
    return out;
}

TEST(unet)
{
    int64_t n;
    size_t bytes;
    float *plain = prediction("cpu", AN_F32, AN_DTYPE_COUNT, &n, &bytes);
    float *fp8 = prediction("cpu", AN_F32, AN_F8_E4M3, &n, &bytes);
    REQUIRE(plain && fp8);
    float top = 0;
    for (int64_t i = 0; i < n; i++) top = fmaxf(top, fabsf(plain[i]));
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += pow((double)plain[i] - (double)fp8[i], 2);
    const double psnr = 10 * log10(4 * (double)top * (double)top / (square / (double)n));
    printf("  the demo's UNet in FP8: %.1f dB\n", psnr);
    CHECK_MSG(psnr > 35 && psnr < 80, "%.1f dB", psnr);
    free(plain), free(fp8);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

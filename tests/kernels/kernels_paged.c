/* Paged attention: sequences whose keys lie anywhere in a pool, taken in prompts of any cut, alone
 * or with others. Against the reference; and the same bytes for every cut, company, thread count
 * and order of blocks. */
#include "harness.h"

#include <math.h>

typedef struct paged_case {
    int heads, kv_heads, head_dim;
    int64_t length, window;
    float softcap;
    an_dtype dtype, pool;
} paged_case;

#define MAX_TOKENS 2304
#define OTHERS     3 /* sequences beside the one that is looked at */

/* How a sequence comes in: ticks of so many tokens, the last size again and again. */
typedef struct schedule {
    int64_t cut[4];
    int others;  /* sequences that share the ticks */
    int shuffle; /* of the blocks */
    bool keep;   /* what the ops must know of the rows */
} schedule;

typedef struct paged_run {
    const paged_case *c;
    an_device *d;
    int32_t blocks[OTHERS + 1][MAX_TOKENS / AN_KV_BLOCK + 1];
    an_kv_pool pool;
    bool keep;
    char *y; /* [length, heads * head_dim] */
} paged_run;

/* Token `pos` of sequence s: q, k, v, beside each other as a fused projection leaves them. */
static void token(const paged_case *c, int s, int64_t pos, float *to)
{
    const int64_t width = (int64_t)(c->heads + 2 * c->kv_heads) * c->head_dim;
    h_values(to, width, (uint64_t)(s * 100000 + pos), 1, 0);
}

static bool coprime(int64_t a, int64_t b)
{
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a == 1;
}

static void make_pool(paged_run *r, int shuffle)
{
    const paged_case *c = r->c;
    const int64_t each = (c->length + AN_KV_BLOCK - 1) / AN_KV_BLOCK;
    const int64_t step = shuffle ? (2 * shuffle + 1) * 37 : 1;
    int64_t n = each * (OTHERS + 1) + 7;
    while (!coprime(step, n)) n++;
    int32_t next = 0;
    for (int s = 0; s <= OTHERS; s++)
        for (int64_t b = 0; b < each; b++, next++)
            r->blocks[s][b] = (int32_t)((next * step + 3) % n);
    r->pool = (an_kv_pool){
        .dtype = c->pool, .blocks = n, .kv_heads = c->kv_heads, .head_dim = c->head_dim};
    const size_t bytes =
        (size_t)(n * AN_KV_BLOCK * c->kv_heads * c->head_dim) * an_dtype_size(c->pool);
    REQUIRE(an_device_alloc(r->d, bytes, &r->pool.k, NULL) == AN_OK);
    REQUIRE(an_device_alloc(r->d, bytes, &r->pool.v, NULL) == AN_OK);
    /* NaN: what is not written must not be seen */
    void *nan = malloc(bytes);
    memset(nan, 0xff, bytes);
    an_lane *l;
    REQUIRE(an_lane_open(r->d, 64, &l, NULL) == AN_OK);
    an_upload(l, r->pool.k, nan, bytes);
    an_upload(l, r->pool.v, nan, bytes);
    CHECK(an_lane_status(l, NULL) == AN_OK);
    an_lane_close(l);
    free(nan);
}

static void issue(an_lane *l, const paged_run *r, const an_kv_row *rows, int n, an_tensor qkv,
                  an_tensor y)
{
    const paged_case *c = r->c;
    const size_t size = an_dtype_size(c->dtype);
    const int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    const char *p = qkv.data;
    const int64_t stride = qkv.dim[1];
    if (r->keep) an_kv_keep(l, &r->pool, rows, n, c->heads, c->dtype);
    an_kv_write(l, &r->pool, rows, n, p ? p + (size_t)q * size : p, stride,
                p ? p + (size_t)(q + kv) * size : p, stride, c->dtype);
    an_attention_paged(l, &(an_paged_args){.pool = &r->pool,
                                           .rows = rows,
                                           .n = n,
                                           .heads = c->heads,
                                           .head_dim = c->head_dim,
                                           .dtype = c->dtype,
                                           .q = p,
                                           .q_stride = stride,
                                           .scale = 1 / sqrtf((float)c->head_dim),
                                           .softcap = c->softcap,
                                           .window = c->window,
                                           .y = y});
}

/* One tick of these rows, in a lane of exactly the size that was counted. */
static void tick(paged_run *r, const an_kv_row *rows, const int *seq, int n)
{
    const paged_case *c = r->c;
    const int64_t width = (int64_t)(c->heads + 2 * c->kv_heads) * c->head_dim;
    const int64_t out = (int64_t)c->heads * c->head_dim;
    const size_t size = an_dtype_size(c->dtype);
    int64_t tokens = 0;
    for (int i = 0; i < n; i++) tokens += rows[i].q_len;
    an_lane *l;
    an_error err = {0};
    REQUIRE(an_lane_open_counting(r->d, &l, NULL) == AN_OK);
    an_tensor qkv = an_lane_tensor(l, c->dtype, tokens, width);
    an_tensor y = an_lane_tensor(l, c->dtype, tokens, out);
    issue(l, r, rows, n, qkv, y);
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    const size_t peak = an_lane_peak(l);
    an_lane_close(l);

    REQUIRE(an_lane_open(r->d, peak, &l, NULL) == AN_OK);
    qkv = an_lane_tensor(l, c->dtype, tokens, width);
    y = an_lane_tensor(l, c->dtype, tokens, out);
    float *v = malloc((size_t)width * sizeof *v);
    char *host = malloc((size_t)(tokens * width) * size);
    for (int i = 0; i < n; i++)
        for (int64_t t = 0; t < rows[i].q_len; t++) {
            token(c, seq[i], rows[i].pos + t, v);
            an_convert(host + (size_t)((rows[i].q_start + t) * width) * size, c->dtype, v, AN_F32,
                       width);
        }
    an_upload(l, qkv.data, host, (size_t)(tokens * width) * size);
    issue(l, r, rows, n, qkv, y);
    an_download(l, host, y.data, (size_t)(tokens * out) * size);
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    CHECK(an_lane_peak(l) == peak);
    for (int i = 0; i < n; i++)
        if (seq[i] == 0)
            memcpy(r->y + (size_t)(rows[i].pos * out) * size,
                   host + (size_t)(rows[i].q_start * out) * size,
                   (size_t)(rows[i].q_len * out) * size);
    free(host);
    free(v);
    an_lane_close(l);
}

/* Blocks that no later query sees are given away, as a server with windows does. */
static void forget(paged_run *r, int s, int64_t pos)
{
    if (!r->c->window) return;
    for (int64_t b = 0; (b + 1) * AN_KV_BLOCK <= pos - r->c->window + 1; b++) r->blocks[s][b] = -1;
}

/* y of sequence 0 under a schedule; free it. */
static h_run sequence(an_device *d, const paged_case *c, const schedule *how)
{
    paged_run r = {.c = c, .d = d, .keep = how->keep};
    const int64_t out = (int64_t)c->heads * c->head_dim;
    r.y = calloc((size_t)(c->length * out), an_dtype_size(c->dtype));
    make_pool(&r, how->shuffle);
    int64_t pos[OTHERS + 1] = {0};
    for (int step = 0; pos[0] < c->length; step++) {
        an_kv_row rows[OTHERS + 1];
        int seq[OTHERS + 1], n = 0;
        int64_t tokens = 0;
        for (int i = 0; i <= how->others; i++) {
            const int s = (i + step) % (how->others + 1); /* who comes first changes */
            int64_t len = how->cut[step < 3 ? step : 3];
            if (s) len = 1 + (s * 7 + step * 5) % 40;
            if (len > c->length - pos[s]) len = c->length - pos[s];
            if (len < 1) continue;
            forget(&r, s, pos[s]);
            rows[n] = (an_kv_row){tokens, len, pos[s], r.blocks[s]};
            seq[n++] = s;
            tokens += len;
            pos[s] += len;
        }
        tick(&r, rows, seq, n);
    }
    an_device_free(d, r.pool.k);
    an_device_free(d, r.pool.v);
    return (h_run){.dtype = c->dtype, .count = c->length * out, .out = r.y};
}

static const schedule how[] = {{{4096, 4096, 4096, 4096}, 0, 0, false},
                               {{1, 2, 61, 13}, 0, 5, true},
                               {{100, 1, 1, 37}, 3, 0, true},
                               {{4096, 4096, 4096, 4096}, 2, 11, false},
                               {{900, 100, 23, 1}, 1, 2, true}};

/* The first outcome is compared with the reference, the others with the first, on bytes. */
static void compare(const char *name, const char *what, h_run *first, h_run *y, const h_run *ref,
                    double tol)
{
    if (!first->out) {
        h_compare(name, what, y, ref, tol);
        *first = *y;
        return;
    }
    CHECK_MSG(memcmp(first->out, y->out, (size_t)y->count * an_dtype_size(y->dtype)) == 0,
              "%s %s: other bytes", name, what);
    free(y->out);
}

static void check_cpu(const char *name, const paged_case *c, const h_run *ref)
{
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    for (int i = 0; i < 3; i++) {
        h_run first = {0};
        for (int threads = 1; threads <= 3; threads++) {
            an_device *d = h_device("cpu", isas[i], threads);
            REQUIRE(d);
            const bool have = (int)d->isa >= i;
            for (int s = 0; have && s < (threads == 1 ? 5 : 3); s++) {
                if (s == 4 && c->length < 1000) continue; /* its cut is for long ones */
                char what[64];
                snprintf(what, sizeof what, "%s x%d schedule %d", isas[i], threads, s);
                h_run y = sequence(d, c, &how[s]);
                compare(name, what, &first, &y, ref, 2e-5);
            }
            an_device_close(d);
        }
        free(first.out);
    }
}

/* Another device; an emulated one takes its threads in another order every time. */
static void check_tested(const char *name, const paged_case *c, const h_run *ref)
{
    static const char *const orders[] = {"order=seq", "order=rev", "order=rand,seed=1",
                                         "order=rand,seed=2"};
    const bool tensor_cores = c->dtype == AN_BF16 && c->pool == AN_BF16;
    an_device *d = h_device(h_tested(), "auto", 1);
    REQUIRE(d);
    h_run first = {0};
    for (int s = 0; s < 4; s++) {
        char what[64];
        snprintf(what, sizeof what, "%s schedule %d", h_tested(), s);
        if (h_on("simt")) CHECK(simt_configure(orders[s]));
        h_run y = sequence(d, c, &how[s]);
        compare(name, what, &first, &y, ref, tensor_cores ? 1e-2 : 2e-5);
    }
    if (h_on("simt")) CHECK(simt_configure("order=seq"));
    free(first.out);
    an_device_close(d);
}

static void check(const paged_case *c)
{
    char name[128];
    snprintf(name, sizeof name, "paged %d/%d heads of %d, %lld keys, window %lld, cap %g, %s in %s",
             c->heads, c->kv_heads, c->head_dim, (long long)c->length, (long long)c->window,
             (double)c->softcap, an_dtype_name(c->dtype), an_dtype_name(c->pool));
    const double length = (double)c->length;
    if (h_on("simt") && 2.0 * c->heads * c->head_dim * length * length > 2 * H_SIMT_FLOPS) {
        printf("  left to a GPU: %s\n", name);
        return;
    }
    an_device *d = h_device("ref", "auto", 1);
    REQUIRE(d);
    h_run ref = sequence(d, c, &how[0]);
    an_device_close(d);
    if (h_on("cpu"))
        check_cpu(name, c, &ref);
    else
        check_tested(name, c, &ref);
    free(ref.out);
}

TEST(heads_and_sizes)
{
    /* groups of 1, 3, 8 and odd ones; heads of 16 to 256, odd ones, wider than they are aligned */
    check(&(paged_case){4, 4, 16, 90, 0, 0, AN_F32, AN_F32});
    check(&(paged_case){9, 3, 64, 150, 0, 0, AN_F32, AN_F32});
    check(&(paged_case){8, 1, 128, 70, 0, 0, AN_BF16, AN_BF16});
    check(&(paged_case){2, 1, 256, 66, 0, 0, AN_F32, AN_BF16});
    check(&(paged_case){3, 1, 80, 129, 0, 0, AN_BF16, AN_F32});
    check(&(paged_case){6, 3, 20, 65, 0, 0, AN_F32, AN_F32});
    check(&(paged_case){1, 1, 5, 200, 0, 0, AN_F32, AN_F32});
    check(&(paged_case){5, 1, 96, 64, 0, 0, AN_BF16, AN_BF16});
}

TEST(windows_and_caps)
{
    check(&(paged_case){4, 2, 32, 200, 1, 0, AN_F32, AN_F32});
    check(&(paged_case){4, 2, 32, 300, 64, 0, AN_F32, AN_F32});
    check(&(paged_case){3, 1, 48, 250, 100, 0, AN_BF16, AN_BF16});
    check(&(paged_case){2, 2, 64, 130, 0, 5.0f, AN_F32, AN_F32});
    check(&(paged_case){4, 1, 40, 190, 37, 50.0f, AN_F32, AN_F32});
}

/* More keys than a segment: split between threads, or not. */
TEST(segments)
{
    check(&(paged_case){3, 1, 16, 2200, 0, 0, AN_F32, AN_F32});
    check(&(paged_case){2, 2, 24, 1300, 700, 0, AN_F32, AN_BF16});
    check(&(paged_case){1, 1, 16, 2100, 1030, 20.0f, AN_F32, AN_F32});
}

/* GPUs take segments of 256 keys, and tensor cores' tiles of some widths: 64, 96, 128, 256, 512. */
TEST(tensor_cores)
{
    if (h_on("cpu")) return;
    check(&(paged_case){4, 2, 32, 600, 0, 0, AN_BF16, AN_BF16});
    check(&(paged_case){3, 1, 64, 530, 0, 30.0f, AN_BF16, AN_BF16});
    check(&(paged_case){2, 1, 72, 550, 270, 0, AN_BF16, AN_BF16});
    check(&(paged_case){1, 1, 33, 300, 20, 0, AN_BF16, AN_BF16});
    check(&(paged_case){20, 1, 128, 70, 0, 0, AN_BF16, AN_BF16});
    check(&(paged_case){3, 1, 128, 270, 0, 0, AN_BF16, AN_BF16});
    check(&(paged_case){2, 2, 256, 150, 0, 0, AN_BF16, AN_BF16});
    check(&(paged_case){2, 1, 512, 100, 0, 0, AN_BF16, AN_BF16});
    check(&(paged_case){2, 1, 24, 600, 0, 0, AN_F32, AN_F32});
    check(&(paged_case){4, 2, 16, 550, 300, 0, AN_F32, AN_BF16});
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

/* Work that repeats: a list of calls gives the same bytes whether it is run, recorded or replayed;
 * what cannot be recorded is run; and nothing remembered outlives what it points to. On the
 * emulated GPU, unless another device is tested. */
#include "kernels/harness.h"
#include "kernels/simt/include/cuda_runtime_api.h"

enum { ROWS = 7, C = 5 };

static an_device *opened(const char *graphs)
{
    an_device *d = NULL;
    an_error err = {0};
    an_device_options o = {
        .device = h_on("cuda") ? "cuda" : "simt", .threads = 1, .graphs = graphs};
    CHECK_MSG(an_device_open(&o, &d, &err) == AN_OK, "%s", err.message);
    return d;
}

/* y = 2 (x[index] + x[index]) + a count that scratch went through; index is kept. */
typedef struct work {
    an_tensor x, y;
    const int32_t *index;
    int calls; /* of ops() */
    enum trouble { FINE, UPLOADS, DOWNLOADS, WAITS, STAGES, COUNTS } what;
    float plain[2 * C]; /* what UPLOADS brings */
    int64_t n_nan;
} work;

static void ops(an_lane *l, void *ctx)
{
    work *w = ctx;
    const int32_t own[2] = {w->index[0], w->index[1]};
    size_t mark = an_lane_mark(l);
    an_tensor t = an_lane_tensor(l, AN_F32, 2, C), u = an_lane_tensor(l, AN_F32, 2, C);
    w->calls++;
    an_take_rows(l, w->x, w->what == STAGES ? own : w->index, t);
    an_add(l, t, t, u);
    if (w->what == UPLOADS) an_upload(l, t.data, w->plain, sizeof w->plain);
    if (w->what == DOWNLOADS) an_download(l, w->plain, t.data, sizeof w->plain);
    if (w->what == WAITS) an_lane_sync(l);
    if (w->what == COUNTS) {
        an_tensor image = an_lane_tensor(l, AN_F32, 1, 1, 1, 3);
        an_tensor u8 = an_lane_tensor(l, AN_U8, 1, 1, 1, 3);
        an_copy(l, an_tensor_4d(t.data, AN_F32, 1, 1, 1, 3), image);
        an_image_out(l, image, u8, &w->n_nan);
    }
    an_scale(l, u, 2, w->y);
    an_lane_release(l, mark);
}

/* A device, a lane and x[i, :] = 100 i + column. */
typedef struct bench {
    an_device *d;
    an_lane *l;
    work w;
    int32_t index[2];
    uint64_t owner;
    void *x;
} bench;

static bool bench_open(bench *b, const char *graphs)
{
    float v[ROWS * C];
    memset(b, 0, sizeof *b);
    b->d = opened(graphs);
    if (!b->d || an_lane_open(b->d, 1 << 16, &b->l, NULL) ||
        an_device_alloc(b->d, sizeof v, &b->x, NULL))
        return false;
    for (int i = 0; i < ROWS * C; i++) v[i] = (float)(100 * (i / C) + i % C);
    an_upload(b->l, b->x, v, sizeof v);
    b->owner = an_repeat_owner();
    b->w.index = b->index;
    return true;
}

static void bench_close(bench *b)
{
    an_lane_close(b->l);
    an_device_free(b->d, b->x);
    an_device_close(b->d);
}

/* A tick: `shift` bytes of scratch before, indices that change. Whether y is right. */
static bool tick(bench *b, int64_t shape, size_t shift, int t, an_status *status)
{
    float got[2][C] = {{0}};
    an_lane_reset(b->l);
    b->index[0] = t % ROWS;
    b->index[1] = (3 * t + 1) % ROWS;
    if (shift) (void)an_lane_tensor(b->l, AN_U8, (int64_t)shift);
    b->w.x = an_tensor_2d(b->x, AN_F32, ROWS, C);
    b->w.y = an_lane_tensor(b->l, AN_F32, 2, C);
    an_lane_keep(b->l, b->index, sizeof b->index);
    const an_repeat key = {b->owner, {shape}};
    an_lane_repeat(b->l, &key, ops, &b->w);
    an_download(b->l, got, b->w.y.data, sizeof got);
    an_error err = {0};
    an_status s = an_lane_status(b->l, &err);
    if (status) *status = s;
    CHECK_MSG(status || !s, "%s", err.message);
    bool right = s == AN_OK;
    for (int r = 0; r < 2; r++)
        for (int c = 0; c < C; c++) right &= got[r][c] == (float)(4 * (100 * b->index[r] + c));
    return right;
}

static void expect(const bench *b, const char *what, uint64_t recorded, uint64_t replayed,
                   uint64_t failed)
{
    const an_repeats r = an_lane_repeats(b->l);
    CHECK_MSG(r.recorded == recorded && r.replayed == replayed && r.failed == failed,
              "%s: %d recorded, %d replayed, %d failed", what, (int)r.recorded, (int)r.replayed,
              (int)r.failed);
}

/* ---------------------------------------------------------------- tests */

/* Run, recorded and replayed, replayed again; what is kept changes every time. */
TEST(the_same_bytes)
{
    bench b;
    REQUIRE(bench_open(&b, "auto"));
    size_t peak = 0;
    for (int t = 0; t < 6; t++) {
        CHECK(tick(&b, 1, 0, t, NULL));
        if (t == 0) peak = an_lane_peak(b.l);
        CHECK(an_lane_peak(b.l) == peak);
    }
    expect(&b, "one key", 1, 5, 0);
    CHECK(b.w.calls == 2);
    /* another key, another place in the arena, another lane: work of its own */
    for (int t = 0; t < 3; t++) CHECK(tick(&b, 2, 0, t, NULL) && tick(&b, 1, 320, t, NULL));
    expect(&b, "three keys", 3, 9, 0);
    CHECK(b.w.calls == 6);
    CHECK(tick(&b, 1, 0, 3, NULL) && b.w.calls == 6);
    /* without an owner nothing is remembered */
    b.owner = 0;
    for (int t = 0; t < 3; t++) CHECK(tick(&b, 1, 0, t, NULL));
    CHECK(b.w.calls == 9);
    bench_close(&b);

    REQUIRE(bench_open(&b, "off"));
    for (int t = 0; t < 4; t++) CHECK(tick(&b, 1, 0, t, NULL));
    expect(&b, "off", 0, 0, 0);
    CHECK(b.w.calls == 4);
    bench_close(&b);
}

/* FLOPs are those of the calls; a counting lane and the CPU call the ops each time. */
TEST(the_same_count)
{
    const char *const device[] = {"cpu", "ref"};
    an_lane *l;
    for (int i = 0; i < 2; i++) {
        an_device *d;
        const an_device_options o = {.device = device[i], .threads = 1};
        REQUIRE(an_device_open(&o, &d, NULL) == AN_OK);
        REQUIRE(an_lane_open(d, 1 << 12, &l, NULL) == AN_OK);
        work w = {.index = (int32_t[]){0, 0}};
        w.x = an_lane_tensor(l, AN_F32, ROWS, C);
        w.y = an_lane_tensor(l, AN_F32, 2, C);
        for (int t = 0; t < 4; t++) an_lane_repeat(l, &(an_repeat){1, {0}}, ops, &w);
        CHECK(w.calls == 4 && an_lane_status(l, NULL) == AN_OK);
        an_device_forget(d, 1);
        an_lane_close(l);
        an_device_close(d);
    }
    bench b;
    REQUIRE(bench_open(&b, "auto"));
    REQUIRE(an_lane_open_counting(b.d, &l, NULL) == AN_OK);
    b.w.x = b.w.y = (an_tensor){NULL, AN_F32, 2, {2, C}};
    for (int t = 0; t < 4; t++) an_lane_repeat(l, &(an_repeat){b.owner, {0}}, ops, &b.w);
    CHECK(b.w.calls == 4 && an_lane_status(l, NULL) == AN_OK);
    an_lane_close(l);
    bench_close(&b);
}

/* What a recording cannot hold is run as ever, with the right result, for good. */
TEST(what_cannot_be_recorded)
{
    static const char *const name[] = {"", "uploads", "downloads", "waits", "stages", "counts"};
    for (int what = UPLOADS; what <= COUNTS; what++) {
        bench b;
        REQUIRE(bench_open(&b, "auto"));
        b.w.what = (enum trouble)what;
        for (int t = 0; t < 5; t++) CHECK_MSG(tick(&b, 1, 0, t, NULL), "%s", name[what]);
        expect(&b, name[what], 0, 0, 1);
        CHECK(b.w.calls == 6); /* one of them in vain */
        b.w.what = FINE;       /* the lane serves on */
        for (int t = 0; t < 3; t++) CHECK(tick(&b, 2, 0, t, NULL));
        expect(&b, name[what], 1, 2, 1);
        bench_close(&b);
    }
}

/* Whichever call the driver refuses to record: it is run. Too many of these, and no more is tried.
 */
TEST(captures_that_fail)
{
    if (h_on("cuda")) return;
    for (int n = 1; n <= 4; n++) {
        bench b;
        char option[32];
        snprintf(option, sizeof option, "capture=%d", n);
        REQUIRE(bench_open(&b, "auto"));
        CHECK(tick(&b, 1, 0, 0, NULL));
        CHECK(simt_configure(option));
        for (int t = 1; t < 4; t++) CHECK(tick(&b, 1, 0, t, NULL));
        CHECK(simt_configure("capture=0"));
        const bool refused = n <= 3; /* ops() makes three launches */
        expect(&b, option, !refused, refused ? 0 : 3, refused);
        bench_close(&b);
    }
    bench b;
    REQUIRE(bench_open(&b, "auto"));
    b.w.what = WAITS;
    for (int shape = 0; shape < 20; shape++)
        for (int t = 0; t < 3; t++) CHECK(tick(&b, shape, 0, t, NULL));
    CHECK(an_lane_repeats(b.l).failed == 8);
    b.w.what = FINE;
    for (int t = 0; t < 3; t++) CHECK(tick(&b, 99, 0, t, NULL));
    expect(&b, "given up", 0, 0, 8);
    bench_close(&b);
}

/* ---------------------------------------------------------------- paged attention */

enum { BLOCKS = 80, DIM = 16, HEADS = 2, POOL = BLOCKS * AN_KV_BLOCK * DIM };

typedef struct paged {
    an_kv_pool pool;
    an_kv_row row;
    int64_t window;
    an_tensor q, y; /* [1, HEADS * DIM] */
} paged;

static void attend(an_lane *l, void *ctx)
{
    const paged *p = ctx;
    an_attention_paged(l, &(an_paged_args){.pool = &p->pool,
                                           .rows = &p->row,
                                           .n = 1,
                                           .heads = HEADS,
                                           .head_dim = DIM,
                                           .dtype = AN_F32,
                                           .q = p->q.data,
                                           .q_stride = HEADS * DIM,
                                           .scale = 0.25f,
                                           .window = p->window,
                                           .y = p->y});
}

/* One sequence that grows over the ends of blocks and of segments: launches that its length decides
 * must not be those of a shorter one. out [positions][HEADS * DIM] */
static an_repeats grow(const char *graphs, int64_t window, const int64_t *from, int pieces,
                       float *out)
{
    bench b;
    float *v = malloc(POOL * sizeof *v), q[HEADS * DIM];
    int32_t blocks[BLOCKS];
    paged p = {.pool = {.dtype = AN_F32, .blocks = BLOCKS, .kv_heads = 1, .head_dim = DIM},
               .window = window};
    for (int i = 0; i < BLOCKS; i++) blocks[i] = i * 37 % BLOCKS;
    CHECK(bench_open(&b, graphs) && an_lane_resize(b.l, 4 << 20, NULL) == AN_OK &&
          an_device_alloc(b.d, POOL * sizeof *v, &p.pool.k, NULL) == AN_OK &&
          an_device_alloc(b.d, POOL * sizeof *v, &p.pool.v, NULL) == AN_OK);
    h_values(v, POOL, 1, 1, 0);
    an_upload(b.l, p.pool.k, v, POOL * sizeof *v);
    h_values(v, POOL, 2, 1, 0);
    an_upload(b.l, p.pool.v, v, POOL * sizeof *v);
    for (int i = 0; i < 6 * pieces; i++, out += HEADS * DIM) {
        an_lane_reset(b.l);
        p.row = (an_kv_row){0, 1, from[i / 6] + i % 6, blocks};
        p.q = an_lane_tensor(b.l, AN_F32, 1, HEADS * DIM);
        p.y = an_lane_tensor(b.l, AN_F32, 1, HEADS * DIM);
        h_values(q, HEADS * DIM, 3 + (uint64_t)i, 1, 0);
        an_upload(b.l, p.q.data, q, sizeof q);
        an_kv_keep(b.l, &p.pool, &p.row, 1, HEADS, AN_F32);
        an_lane_repeat(b.l, &(an_repeat){b.owner, {window}}, attend, &p);
        an_download(b.l, out, p.y.data, HEADS * DIM * sizeof *out);
        an_error err = {0};
        CHECK_MSG(an_lane_status(b.l, &err) == AN_OK, "%s", err.message);
    }
    const an_repeats r = an_lane_repeats(b.l);
    an_device_free(b.d, p.pool.k);
    an_device_free(b.d, p.pool.v);
    free(v);
    bench_close(&b);
    return r;
}

TEST(a_sequence_that_grows)
{
    static const int64_t from[] = {300, 509, 765, 1021}, window[] = {0, 300};
    enum { N = 4 * 6 * HEADS * DIM };
    static float with[N], without[N];
    for (int i = 0; i < 2; i++) {
        const an_repeats r = grow("auto", window[i], from, 4, with);
        grow("off", window[i], from, 4, without);
        CHECK(memcmp(with, without, sizeof with) == 0);
        CHECK_MSG(r.replayed >= 8 && r.failed == 0, "%d replayed", (int)r.replayed);
    }
}

/* More keys than are remembered: those not used for longest are forgotten, none is mixed up. */
TEST(many_keys)
{
    bench b;
    REQUIRE(bench_open(&b, "auto"));
    for (int round = 0; round < 3; round++)
        for (int shape = 0; shape < 40; shape++)
            for (int t = 0; t < 3; t++)
                CHECK(tick(&b, shape, (size_t)(64 * (shape % 5)), t + shape, NULL));
    expect(&b, "in turns", 120, 240, 0);
    for (int t = 0; t < 30; t++) CHECK(tick(&b, t % 20, (size_t)(64 * (t % 20 % 5)), t, NULL));
    CHECK(an_lane_repeats(b.l).replayed == 250); /* twenty keys fit: met anew, then recorded */
    bench_close(&b);
}

/* An arena that moved, and an owner that is gone: what was recorded of them is not replayed. */
TEST(forgotten)
{
    bench b, other;
    REQUIRE(bench_open(&b, "auto"));
    for (int t = 0; t < 3; t++) CHECK(tick(&b, 1, 0, t, NULL));
    void *between;
    REQUIRE(an_device_alloc(b.d, 4096, &between, NULL) == AN_OK);
    REQUIRE(an_lane_resize(b.l, 1 << 17, NULL) == AN_OK);
    for (int t = 0; t < 3; t++) CHECK(tick(&b, 1, 0, t, NULL));
    expect(&b, "moved", 2, 4, 0);
    REQUIRE(an_lane_resize(b.l, 1 << 17, NULL) == AN_OK); /* to the same place, perhaps */
    for (int t = 0; t < 3; t++) CHECK(tick(&b, 1, 0, t, NULL));
    expect(&b, "moved again", 3, 6, 0);
    an_device_free(b.d, between);

    /* of two owners on two lanes one goes; another takes its memory */
    other = b;
    other.w.index = other.index;
    other.owner = an_repeat_owner();
    REQUIRE(an_lane_open(b.d, 1 << 16, &other.l, NULL) == AN_OK);
    for (int t = 0; t < 3; t++) CHECK(tick(&other, 1, 0, t, NULL));
    const uint64_t left = other.owner;
    other.owner = b.owner;
    for (int t = 0; t < 3; t++) CHECK(tick(&other, 1, 0, t, NULL));
    an_device_forget(b.d, b.owner);
    expect(&other, "before", 2, 4, 0);
    CHECK(tick(&other, 1, 0, 1, NULL) &&
          tick(&b, 1, 0, 1, NULL)); /* met as if for the first time */
    expect(&other, "forgotten", 2, 4, 0);
    expect(&b, "forgotten", 3, 6, 0);
    other.owner = left;
    CHECK(tick(&other, 1, 0, 1, NULL));
    expect(&other, "kept", 2, 5, 0);
    an_lane_close(other.l);
    bench_close(&b);
}

/* A device that is lost in the middle of a replay, or of the launches, says so. */
TEST(lost)
{
    if (h_on("cuda")) return;
    for (int n = 1; n <= 9; n++) {
        bench b;
        char option[32];
        snprintf(option, sizeof option, "fail=%d", n);
        REQUIRE(bench_open(&b, "auto"));
        CHECK(simt_configure(option));
        bool lost = false;
        for (int t = 0; t < 4; t++) {
            an_status s = AN_OK;
            const bool right = tick(&b, 1, 0, t, &s);
            CHECK_MSG(right ? !lost : s == AN_DEVICE, "%d, tick %d: %s", n, t, an_status_name(s));
            lost |= s == AN_DEVICE;
        }
        CHECK(lost);
        bench_close(&b);
        CHECK(simt_configure("fail=0") && cudaDeviceReset() == cudaSuccess);
    }
}

int main(int argc, char **argv)
{
    return simt_configure("guard=1") ? test_main(argc, argv) : 1;
}

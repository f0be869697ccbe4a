/* Ticks that come again are recorded and replayed on a GPU: the same bytes as without that, for
 * rows that change between ticks, mixed sizes, an arena that moves, and models that take each
 * other's place in memory. On the emulated GPU. */
#include "models_fixture.h"
#include "models_lm_fixture.h"

/* What came out of all ticks, one after the other. */
typedef struct record {
    uint8_t *bytes;
    size_t n, cap;
    an_repeats repeats;
} record;

static uint8_t *more(record *r, size_t bytes)
{
    if (r->n + bytes > r->cap) {
        r->cap = 2 * (r->n + bytes);
        r->bytes = realloc(r->bytes, r->cap);
    }
    r->n += bytes;
    return r->bytes + r->n - bytes;
}

/* Bytes of both ways, and that one of them replayed. */
static void compare(const char *name, record *with, record *without, uint64_t least)
{
    CHECK_MSG(with->n == without->n && with->n > 0, "%s: %zu and %zu bytes", name, with->n,
              without->n);
    CHECK_MSG(with->n == without->n && memcmp(with->bytes, without->bytes, with->n) == 0,
              "%s: other bytes", name);
    CHECK_MSG(with->repeats.replayed >= least && with->repeats.failed == 0,
              "%s: %d recorded, %d replayed, %d failed", name, (int)with->repeats.recorded,
              (int)with->repeats.replayed, (int)with->repeats.failed);
    CHECK(without->repeats.recorded == 0 && without->repeats.replayed == 0);
    free(with->bytes);
    free(without->bytes);
}

/* ---------------------------------------------------------------- pictures */

/* A tick of n rows, each of its own seed, so of other numbers and at other addresses every time. */
static void denoise(fixture *f, record *out, int n, int64_t h, int64_t w, uint32_t seed)
{
    an_row rows[4];
    for (int i = 0; i < n; i++)
        rows[i] = row_of(f, AN_STAGE_DENOISE, seed * 10 + (uint32_t)i, h, w,
                         32 + 32 * ((i + (int)seed) % 2));
    an_lane_reset(f->lane);
    opened_ok(&f->open, an_model_step(f->model, f->lane, AN_STAGE_DENOISE, rows, n, &f->err),
              "denoise");
    an_lane_sync(f->lane);
    for (int i = 0; i < n; i++) {
        const an_tensor *y = &rows[i].out[0].t;
        an_download(f->lane, more(out, an_tensor_bytes(y)), y->data, an_tensor_bytes(y));
    }
}

static record paint(const char *name, an_dtype dtype, bool mixed, const char *graphs)
{
    record out = {0};
    fixture f;
    opened_graphs = graphs;
    if (fixture_open(&f, name, "simt", dtype, (size_t)16 << 20)) {
        for (uint32_t t = 0; t < 3; t++) denoise(&f, &out, 2, 2, 4, 2 * t);
        for (uint32_t t = 0; t < 3 && mixed; t++) {
            denoise(&f, &out, 1, 4, 2, 9 + 2 * t);
            denoise(&f, &out, 2, 2, 4, 8 + t); /* other lengths of text in turns */
        }
        if (mixed) {
            opened_ok(&f.open, an_lane_resize(f.lane, (size_t)24 << 20, &f.err), "resize");
            for (uint32_t t = 0; t < 3; t++) denoise(&f, &out, 2, 2, 4, 20 + 2 * t);
        }
        out.repeats = an_lane_repeats(f.lane);
    }
    fixture_close(&f);
    return out;
}

TEST(pictures)
{
    static const struct {
        const char *name;
        an_dtype dtype;
        bool mixed;
        uint64_t least;
    } models[] = {
        {"sd1", AN_BF16, true, 8}, {"sdxl", AN_F32, false, 2}, {"lcm", AN_BF16, false, 2}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        record with = paint(models[i].name, models[i].dtype, models[i].mixed, "auto");
        record without = paint(models[i].name, models[i].dtype, models[i].mixed, "off");
        compare(models[i].name, &with, &without, models[i].least);
    }
}

/* ---------------------------------------------------------------- text */

enum { SEQUENCES = 3 };

static void feed(lm *f, sequence *s, const int *n, record *out)
{
    an_lm_row rows[SEQUENCES];
    int count = 0;
    for (int i = 0; i < SEQUENCES; i++)
        if (n[i]) rows[count++] = sequence_row(f, &s[i], n[i], 1);
    lm_tick(f, rows, count);
    for (int i = 0; i < count; i++)
        lm_read(f, &rows[i], (float *)(void *)more(out, (size_t)f->vocab * sizeof(float)));
    while (f->n_logits) an_device_free(f->device, f->logits[--f->n_logits]);
}

/* Prompts, then a token each; one sequence pauses in between. */
static void decode(lm *f, int prompt, int ticks, record *out)
{
    static int32_t ids[SEQUENCES][LM_CONTEXT];
    sequence s[SEQUENCES];
    uint32_t seed = 7;
    for (int i = 0; i < SEQUENCES; i++) {
        for (int k = 0; k < LM_CONTEXT; k++)
            ids[i][k] = (int32_t)(lm_random(&seed) % (uint32_t)f->vocab);
        s[i] = sequence_of(f, ids[i], prompt + i + ticks);
    }
    feed(f, s, (int[]){prompt, prompt + 1, prompt + 2}, out);
    for (int t = 0; t < ticks; t++) feed(f, s, (int[]){1, t % 5 != 3, 1}, out);
}

static record tell(const char *name, an_dtype dtype, int prompt, int ticks, const char *graphs)
{
    record out = {0};
    lm f;
    opened_graphs = graphs;
    if (lm_open(&f, name, "simt", dtype)) {
        decode(&f, prompt, ticks, &out);
        out.repeats = an_lane_repeats(f.lane);
    }
    lm_close(&f);
    return out;
}

TEST(texts)
{
    static const struct {
        const char *name;
        an_dtype dtype;
        int prompt, ticks;
        uint64_t least;
    } runs[] = {
        {"llama", AN_F32, 250, 12, 4}, /* over the end of a segment of keys */
        {"gemma2", AN_BF16, 20, 8, 4}, /* windows */
        {"mixtral", AN_BF16, 5, 8, 4},  {"gpt2", AN_F32, 5, 8, 4},
        {"qwen2-moe", AN_F32, 3, 4, 0}, /* a gate that the host sees: never tried */
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        record with = tell(runs[i].name, runs[i].dtype, runs[i].prompt, runs[i].ticks, "auto");
        record without = tell(runs[i].name, runs[i].dtype, runs[i].prompt, runs[i].ticks, "off");
        if (!runs[i].least) CHECK(with.repeats.recorded == 0);
        compare(runs[i].name, &with, &without, runs[i].least);
    }
}

/* ---------------------------------------------------------------- one after another */

/* Models of the same sizes on one lane: each lies where the one before it lay. */
static record succession(const char *graphs)
{
    static const char *const names[] = {"llama", "llama3-rope", "llama"};
    record out = {0};
    lm f;
    opened_graphs = graphs;
    if (!lm_open(&f, names[0], "simt", AN_F32)) return out;
    for (int i = 0; i < 3; i++) {
        char path[512];
        if (i > 0) {
            an_kv_close(f.kv);
            an_model_free(f.model);
            an_checkpoint_close(f.checkpoint);
            f.kv = NULL;
            f.model = NULL;
            f.checkpoint = NULL;
            snprintf(path, sizeof path, "%s/llm/%s/model", AN_GOLDEN, names[i]);
            if (!opened_ok(&f.open, an_checkpoint_open(path, &f.checkpoint, &f.err), "open") ||
                !opened_ok(&f.open,
                           an_model_load(f.device, f.checkpoint, AN_F32, AN_F32, NULL, NULL,
                                         &f.model, &f.err),
                           "load") ||
                !opened_ok(&f.open, an_kv_open(f.model, LM_BLOCKS, &f.kv, &f.err), "kv"))
                break;
            f.vocab = an_model_describe(f.model)->vocab;
            f.next_block = 0;
        }
        decode(&f, 5, 5, &out);
    }
    out.repeats = an_lane_repeats(f.lane);
    lm_close(&f);
    return out;
}

TEST(models_that_follow_each_other)
{
    record with = succession("auto"), without = succession("off");
    compare("succession", &with, &without, 9);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

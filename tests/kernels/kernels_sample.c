/* Drawing tokens on the device: each row's token is the one that the host's sampler draws from the
 * same logits, alone and among others, whatever the logits are. */
#include "engine/sampling.h"
#include "kernels/harness.h"

#include <math.h>

#define VOCAB_MOST 9001
#define HISTORY    80
#define BIASES     6
#define ROWS       12 /* of a batch */

static const int vocabs[] = {1, 2, 31, 32, 33, 500, 1023, 1025, 2500, 4095, 4097, VOCAB_MOST};

typedef struct sample_case {
    int vocab;
    float l[VOCAB_MOST];
    uint8_t mask[VOCAB_MOST];
    uint32_t bits[(VOCAB_MOST + 31) / 32];
    int32_t ids[HISTORY], ban[4];
    struct an_token_bias bias[BIASES];
    an_logit_edit edit[2 * HISTORY + BIASES + 4];
    an_sampling s;
    an_draw d;
    an_sample_row row;
    int32_t want; /* of the host */
} sample_case;

static an_sampler_room room;

static uint64_t rnd_state = 88172645463325252u;
static uint64_t rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return rnd_state;
}
static int below(int n)
{
    return (int)(rnd() % (uint64_t)n);
}
static float unit(void)
{
    return (float)(rnd() >> 40) * 0x1p-24f;
}

/* ---------------------------------------------------------------- cases */

enum { SPREAD, PEAKED, TIES, FLAT, HUGE_ONES, SIGNED_ZEROS, HOLES, NOTHING, BROKEN, KINDS };

static float odd_logit(int kind, float spread)
{
    const float v = (unit() + unit() + unit() - 1.5f) * spread;
    switch (kind) {
    case TIES:
        return (float)(int)v;
    case FLAT:
        return 1.5f;
    case HUGE_ONES:
        return v * 1e37f;
    case SIGNED_ZEROS:
        return below(3) ? 0.0f : -0.0f;
    case HOLES:
        return below(3) ? v : -INFINITY;
    case NOTHING:
        return -INFINITY;
    default:
        return v;
    }
}

static void make_logits(sample_case *c)
{
    /* most of them ordinary: the odd ones end early */
    const int kind = below(3) ? below(FLAT + 1) : below(KINDS);
    const float spread = unit() * 12;
    for (int i = 0; i < c->vocab; i++) c->l[i] = odd_logit(kind, spread);
    if (kind == PEAKED) c->l[below(c->vocab)] = 20;
    if (kind == BROKEN) c->l[below(c->vocab)] = below(2) ? NAN : INFINITY;
}

static void make_sampling(an_sampling *s)
{
    an_text_request r = {.sampling = {.temperature = below(6) ? 0.05f + unit() * 3 : 0,
                                      .top_p = 1,
                                      .typical_p = 1,
                                      .repetition_penalty = 1}};
    *s = r.sampling;
    if (below(3) == 0) s->temperature = s->temperature > 0; /* 0 or 1 */
    if (below(2)) s->top_k = below(3) ? below(60) : below(6000);
    if (below(2)) s->top_p = below(8) ? unit() : 0;
    if (below(3) == 0) s->min_p = unit();
    if (below(3) == 0) s->typical_p = below(8) ? unit() : 0;
    if (below(3) == 0) s->repetition_penalty = 0.5f + unit();
    if (below(3) == 0) s->presence_penalty = unit() * 4 - 2;
    if (below(3) == 0) s->frequency_penalty = unit() * 2 - 1;
    s->repeat_last_n = below(50) - 1;
}

static void make_history(sample_case *c)
{
    an_draw *d = &c->d;
    d->n_ids = below(HISTORY);
    d->n_prompt = d->n_ids ? below(d->n_ids) : 0;
    for (int i = 0; i < d->n_ids; i++) c->ids[i] = below(below(2) ? c->vocab : (c->vocab + 9) / 10);
    c->s.n_bias = below(2) ? below(BIASES) : 0;
    for (int i = 0; i < c->s.n_bias; i++)
        c->bias[i] = (struct an_token_bias){below(c->vocab), below(4)   ? unit() * 6 - 3
                                                             : below(2) ? -INFINITY
                                                                        : 1e4f};
    d->n_ban = below(3) ? 0 : below(4);
    for (int i = 0; i < d->n_ban; i++) c->ban[i] = below(c->vocab);
    c->s.bias = c->bias;
    d->ids = c->ids;
    d->ban = c->ban;
}

static void make_mask(sample_case *c)
{
    if (below(3)) return;
    const int part = 1 + below(6);
    memset(c->bits, 0, sizeof c->bits);
    for (int i = 0; i < c->vocab; i++) {
        c->mask[i] = below(part) == 0;
        c->bits[i / 32] |= (uint32_t)c->mask[i] << i % 32;
    }
    c->d.mask = c->mask;
}

/* The host's answer, and the row for the device. */
static void make_case(sample_case *c, int vocab)
{
    c->vocab = vocab;
    make_logits(c);
    make_sampling(&c->s);
    c->d = (an_draw){.s = &c->s, .logits = c->l, .vocab = vocab, .logprobs = -1};
    make_history(c);
    make_mask(c);
    c->d.seed = rnd();
    c->d.index = rnd() % 1000;
    an_drawn out = {.id = -9};
    const an_status s = an_sample(&room, &c->d, &out, NULL);
    c->want = s == AN_INTERNAL    ? AN_SAMPLE_NO_NUMBER
              : s == AN_NOT_FOUND ? AN_SAMPLE_NO_TOKEN
              : s == AN_OK        ? out.id
                                  : -9;
    CHECK(an_sampling_row(&room, &c->d, &c->row, NULL) == AN_OK);
    CHECK((size_t)c->row.n_edit <= sizeof c->edit / sizeof *c->edit);
    if (c->row.n_edit) memcpy(c->edit, c->row.edit, (size_t)c->row.n_edit * sizeof *c->edit);
    c->row.edit = c->edit;
    c->row.mask = c->d.mask ? c->bits : NULL;
}

/* ---------------------------------------------------------------- running */

static an_tensor sample_on(an_lane *l, const sample_case *c, int n, int vocab)
{
    an_sample_row row[ROWS];
    an_tensor ids = an_lane_tensor(l, AN_I32, n);
    for (int i = 0; i < n; i++) {
        an_tensor logits = an_lane_tensor(l, AN_F32, vocab);
        an_upload(l, logits.data, c[i].l, (size_t)vocab * sizeof(float));
        row[i] = c[i].row;
        row[i].logits = logits.data;
    }
    an_sample_tokens(l, row, n, vocab, ids);
    return ids;
}

static void check_rows(an_device *d, const sample_case *c, int n, int vocab)
{
    an_lane *l = NULL;
    an_error err = {0};
    int32_t got[ROWS];
    REQUIRE(an_lane_open_counting(d, &l, &err) == AN_OK);
    sample_on(l, c, n, vocab);
    CHECK(an_lane_status(l, &err) == AN_OK);
    const size_t peak = an_lane_peak(l);
    an_lane_close(l);
    REQUIRE(an_lane_open(d, peak, &l, &err) == AN_OK);
    const an_tensor ids = sample_on(l, c, n, vocab);
    an_download(l, got, ids.data, (size_t)n * sizeof *got);
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    CHECK_MSG(an_lane_peak(l) == peak, "counted %zu, used %zu", peak, an_lane_peak(l));
    an_lane_close(l);
    for (int i = 0; i < n; i++) {
        const an_sampling *s = &c[i].s;
        CHECK_MSG(
            got[i] == c[i].want,
            "row %d of %d, %d tokens: %d, the host has %d (temperature %g k %d typical %g p %g "
            "min %g, %d edits%s)",
            i, n, vocab, got[i], c[i].want, (double)s->temperature, s->top_k, (double)s->typical_p,
            (double)s->top_p, (double)s->min_p, c[i].row.n_edit, c[i].row.mask ? ", mask" : "");
    }
}

static an_device *sampling_device(void)
{
    an_device *d = h_device(h_tested(), "auto", 1);
    if (d && an_device_samples(d)) return d;
    an_device_close(d);
    return NULL;
}

TEST(draws_as_the_host_does)
{
    an_device *d = sampling_device();
    if (!d) return;
    sample_case *c = calloc(ROWS, sizeof *c);
    REQUIRE(c);
    const int rounds = 6;
    int kinds[3] = {0};
    for (int round = 0; round < rounds; round++)
        for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
            char order[64];
            snprintf(order, sizeof order, "order=rand,seed=%d", 1 + round);
            if (h_on("simt")) CHECK(simt_configure(round % 3 ? order : "order=rev"));
            for (int i = 0; i < ROWS; i++) {
                make_case(&c[i], vocabs[v]);
                kinds[c[i].want < 0 ? -c[i].want : 0]++;
            }
            check_rows(d, c, ROWS, vocabs[v]);
            check_rows(d, &c[round % ROWS], 1, vocabs[v]);
        }
    CHECK(kinds[0] > 8 * (kinds[1] + kinds[2]) / 2 && kinds[1] > 1 && kinds[2] > 1);
    if (h_on("simt")) CHECK(simt_configure("order=seq"));
    free(c);
    an_device_close(d);
}

/* More equal logits than are compared with one another: the digits of the ids decide. */
TEST(many_equal_logits)
{
    an_device *d = sampling_device();
    if (!d) return;
    sample_case *c = calloc(ROWS, sizeof *c);
    REQUIRE(c);
    for (int i = 0; i < ROWS; i++) {
        do make_case(&c[i], VOCAB_MOST);
        while (c[i].want < 0);
        for (int k = 0; k < VOCAB_MOST; k++) c[i].l[k] = k % 50 == 7 ? 1.25f : 1;
        c[i].s = (an_sampling){.temperature = 1,
                               .top_k = i % 3 ? 0 : 5000 + i,
                               .typical_p = i % 4 ? 1 : 0.6f,
                               .top_p = i % 2 ? 0.7f : 1,
                               .repetition_penalty = 1};
        c[i].d.mask = NULL;
        an_drawn out;
        CHECK(an_sample(&room, &c[i].d, &out, NULL) == AN_OK);
        c[i].want = out.id;
        CHECK(an_sampling_row(&room, &c[i].d, &c[i].row, NULL) == AN_OK);
        if (c[i].row.n_edit)
            memcpy(c[i].edit, c[i].row.edit, (size_t)c[i].row.n_edit * sizeof *c[i].edit);
        c[i].row.edit = c[i].edit;
    }
    check_rows(d, c, ROWS, VOCAB_MOST);
    free(c);
    an_device_close(d);
}

TEST(what_is_wrong_is_refused)
{
    an_device *d = sampling_device();
    if (!d) return;
    an_lane *l = NULL;
    an_error err = {0};
    REQUIRE(an_lane_open(d, 1 << 16, &l, &err) == AN_OK);
    const an_logit_edit edit[2] = {{.id = 7}, {.id = 8}};
    for (int wrong = 0; wrong < 6; wrong++) {
        an_lane_reset(l);
        an_tensor ids = an_lane_tensor(l, wrong == 0 ? AN_F32 : AN_I32, wrong == 1 ? 2 : 1);
        an_tensor logits = an_lane_tensor(l, AN_F32, 8);
        const an_sample_row r = {.logits = wrong == 2 ? NULL : logits.data,
                                 .edit = edit,
                                 .n_edit = wrong == 3 ? 2 : 1,
                                 .repetition = wrong == 4 ? 0 : 1,
                                 .typical_p = 1,
                                 .top_p = wrong == 5 ? (double)NAN : 1,
                                 .min_p_log = (double)-INFINITY};
        an_sample_tokens(l, &r, 1, 8, ids);
        CHECK_MSG(an_lane_status(l, &err) == AN_INTERNAL, "case %d", wrong);
        CHECK(strstr(err.message, "sample_tokens"));
    }
    an_lane_close(l);
    an_device_close(d);
}

/* Where logits are the host's memory there is nothing to save. */
TEST(hosts_draw_themselves)
{
    const char *const names[] = {"cpu", "ref"};
    for (int i = 0; i < 2; i++) {
        an_device *d = h_device(names[i], "generic", 1);
        an_lane *l = NULL;
        an_error err = {0};
        REQUIRE(d && an_lane_open(d, 4096, &l, &err) == AN_OK);
        CHECK(!an_device_samples(d));
        const an_sample_row r = {.n_edit = 0};
        an_sample_tokens(l, &r, 1, 8, an_lane_tensor(l, AN_I32, 1));
        CHECK(an_lane_status(l, &err) == AN_INTERNAL);
        an_lane_close(l);
        an_device_close(d);
    }
}

int main(int argc, char **argv)
{
    int r = test_main(argc, argv);
    an_sampler_room_free(&room);
    return r;
}

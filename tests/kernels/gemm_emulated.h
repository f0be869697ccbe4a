/* gemm_emulated.h: the tiles of an instruction set that this machine may lack, built from plain C
 * into the test itself. The including file has included the kernel's source with its emulation
 * switched on, which defines the kernel's symbol before the library's is looked for, and says
 * EMULATED_ISA and EMULATED_DTYPE. */
#include "harness.h"

typedef struct emulated_case {
    int64_t h, w, c, n; /* a convolution of h x w pictures, or with filter 0 a GEMM of h x w rows */
    int filter, stride;
    int64_t up_h, up_w;
    an_act act;
    bool residual;
} emulated_case;

static void run(h_run *h, const void *cfg)
{
    const emulated_case *c = cfg;
    const an_dtype t = EMULATED_DTYPE;
    const int pad = c->filter / 2;
    an_tensor x = h_rows(h, t, 4, (int64_t[]){h->n, c->h, c->w, c->c}, 1, 1, 0);
    const an_weight *w = h_weight(h, t, c->n, c->c, c->filter, c->filter, true, 4);
    if (!c->filter) {
        bool gated = an_act_gated(c->act);
        int64_t width = gated ? c->n / 2 : c->n;
        an_tensor y = h_rows(h, t, 4, (int64_t[]){h->n, c->h, c->w, width}, 2, 1, 0);
        an_gemm_args a = {
            .x = x, .w = w, .act = c->act, .y = y, .residual = c->residual ? &y : NULL};
        an_gemm(h->l, &a);
        h_output(h, y);
        return;
    }
    int64_t oh = ((c->up_h ? c->up_h : c->h) + 2 * pad - c->filter) / c->stride + 1;
    int64_t ow = ((c->up_w ? c->up_w : c->w) + 2 * pad - c->filter) / c->stride + 1;
    an_tensor y = h_rows(h, t, 4, (int64_t[]){h->n, oh, ow, c->n}, 2, 1, 0);
    an_conv_args a = {.x = x,
                      .w = w,
                      .stride = c->stride,
                      .pad_top = pad,
                      .pad_left = pad,
                      .pad_bottom = pad,
                      .pad_right = pad,
                      .up_h = c->up_h,
                      .up_w = c->up_w,
                      .act = c->act,
                      .y = y,
                      .residual = c->residual ? &y : NULL};
    an_conv2d(h->l, &a);
    h_output(h, y);
}

static an_device *emulating(int threads)
{
    an_device *d = h_device("cpu", "generic", threads);
    if (d) d->isa = EMULATED_ISA;
    return d;
}

static void check(const emulated_case *c)
{
    char name[96];
    snprintf(name, sizeof name, "%lldx%lldx%lld->%lld filter %d act %d", (long long)c->h,
             (long long)c->w, (long long)c->c, (long long)c->n, c->filter, (int)c->act);
    an_device *ref = h_device("ref", "auto", 1), *one = emulating(1), *three = emulating(3);
    h_run want = h_do(ref, run, c, 3, h_batch0), got = h_do(one, run, c, 3, h_batch0),
          alone = h_do(three, run, c, 1, h_batch1), crowd = h_do(three, run, c, 7, h_batch3);
    h_compare(name, "emulated", &got, &want, 3e-5);
    h_same_row(name, "alone", &got, 2, 3, &alone, 0, 1);
    h_same_row(name, "crowd", &got, 2, 3, &crowd, 0, 7);
    h_same_row(name, "crowd", &got, 2, 3, &crowd, 6, 7);
    h_same_row(name, "crowd", &got, 1, 3, &crowd, 4, 7);
    h_free(&want), h_free(&got), h_free(&alone), h_free(&crowd);
    an_device_close(ref), an_device_close(one), an_device_close(three);
}

TEST(gemm)
{
    static const int64_t ms[] = {1, 13, 33, 70}, ns[] = {1, 31, 66}, ks[] = {1, 31, 64, 97};
    for (int m = 0; m < 4; m++)
        for (int n = 0; n < 3; n++)
            for (int k = 0; k < 4; k++)
                check(&(emulated_case){1, ms[m], ks[k], ns[n], 0, 1, 0, 0, AN_ACT_NONE,
                                       (m + n + k) % 2});
    check(&(emulated_case){1, 40, 1300, 40, 0, 1, 0, 0, AN_ACT_NONE, true}); /* several K blocks */
}

TEST(gated)
{
    for (int n = 2; n <= 200; n += 33)
        check(&(emulated_case){1, 20, 24, n / 2 * 2, 0, 1, 0, 0, AN_ACT_GEGLU, n % 2});
    check(&(emulated_case){1, 5, 8, 1200, 0, 1, 0, 0, AN_ACT_SWIGLU, true});
}

TEST(convolution)
{
    check(&(emulated_case){5, 6, 3, 40, 3, 1, 0, 0, AN_ACT_SILU, true});
    check(&(emulated_case){8, 7, 33, 20, 3, 2, 0, 0, AN_ACT_NONE, false});
    check(&(emulated_case){4, 4, 64, 36, 3, 1, 8, 8, AN_ACT_NONE, true});
    check(&(emulated_case){9, 9, 70, 8, 1, 1, 0, 0, AN_ACT_RELU, false});
    check(&(emulated_case){6, 6, 130, 34, 3, 1, 0, 0, AN_ACT_NONE, true});
}

TEST(self_test)
{
    CHECK(an_gemm_check_kernel(an_gemm_kernel_of(EMULATED_ISA, EMULATED_DTYPE)));
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

/* What ops.c, lane.c and device.c promise: wrong shapes are named and latched, lanes count what
 * they use, devices say what they chose. */
#include "kernels/harness.h"

/* ---------------------------------------------------------------- devices */

static void refused(an_device_options o, an_status want, const char *param, const char *text)
{
    an_device *d = NULL;
    an_error err = {0};
    an_status s = an_device_open(&o, &d, &err);
    CHECK_MSG(s == want && !d, "%s", an_status_name(s));
    CHECK_MSG(strstr(err.message, text), "%s", err.message);
    CHECK_STR(err.param, param);
    an_device_close(d);
}

TEST(devices)
{
    refused((an_device_options){.device = "gpu"}, AN_INVALID, "device", "auto, cpu, cuda");
    refused((an_device_options){.device = "simt:1"}, AN_DEVICE, "device",
            "there is 1 GPU, the last is simt:0");
#ifndef AN_CUDA
    refused((an_device_options){.device = "cuda"}, AN_DEVICE, "device", "no CUDA backend");
    refused((an_device_options){.device = "cuda:1"}, AN_DEVICE, "device", "no CUDA backend");
#endif
    refused((an_device_options){.isa = "mmx"}, AN_INVALID, "isa",
            "generic, avx2, avx512, avx512_bf16, amx");
    refused((an_device_options){.gemm = "blas"}, AN_INVALID, "gemm", "own");
    refused((an_device_options){.graphs = "on"}, AN_INVALID, "graphs", "auto, off");
    refused((an_device_options){.threads = -1}, AN_INVALID, "threads", "-1 threads");
    refused((an_device_options){.threads = 100000}, AN_INVALID, "threads", "100000 threads");

    an_device *d = NULL;
    an_error err = {0};
    REQUIRE(an_device_open(NULL, &d, &err) == AN_OK);
    printf("  %s\n", an_device_description(d));
    CHECK_STR(an_device_name(d), "cpu");
    CHECK(an_device_threads(d) >= 1);
    an_dtype best = an_device_best_dtype(d);
    CHECK(best == AN_F32 || best == AN_BF16);
    an_device_close(d);
    d = h_device("cpu", "generic", 2);
    REQUIRE(d);
    CHECK(d->isa == AN_ISA_GENERIC && an_device_threads(d) == 2);
    CHECK(an_device_best_dtype(d) == AN_F32);
    CHECK_MSG(strstr(an_device_description(d), "2 threads (as asked), generic"), "%s",
              an_device_description(d));
    an_device_close(d);
    d = h_device("ref", "auto", 8);
    REQUIRE(d);
    CHECK_STR(an_device_name(d), "ref");
    CHECK(an_device_threads(d) == 1);
    an_device_close(d);
}

TEST(device_memory)
{
    an_device *d = h_device(h_tested(), "auto", 1);
    REQUIRE(d);
    void *p = NULL, *q = NULL;
    an_error err = {0};
    CHECK(an_device_alloc(d, 1000, &p, &err) == AN_OK && (uintptr_t)p % 64 == 0);
    CHECK(an_device_alloc(d, 0, &q, &err) == AN_OK && q);
    CHECK(an_device_bytes_live(d) == 1000);
    an_device_free(d, p);
    an_device_free(d, q);
    an_device_free(d, NULL);
    CHECK(an_device_bytes_live(d) == 0);
    CHECK(an_device_alloc(d, SIZE_MAX, &p, &err) == AN_NO_MEMORY && !p);
    CHECK(an_device_alloc(d, SIZE_MAX / 2, &p, &err) == AN_NO_MEMORY && !p);

    double v[3] = {1.5, -2, 1e10};
    an_tensor src = an_tensor_1d(v, AN_F64, 3), out;
    CHECK(an_device_upload(d, &src, AN_BF16, &out, &err) == AN_OK);
    uint16_t h[3] = {0};
    an_lane *l = NULL;
    REQUIRE(an_lane_open(d, 0, &l, &err) == AN_OK);
    an_download(l, h, out.data, sizeof h);
    CHECK(out.dtype == AN_BF16 && an_bf16_to_f32(h[1]) == -2);
    CHECK(an_device_bytes_live(d) == 6);
    an_lane_close(l);
    an_device_free(d, out.data);
    CHECK(an_device_upload(d, &src, AN_I32, &out, &err) == AN_INVALID);
    const size_t own = an_device_memory_bytes(d);
    CHECK((own > 0) == !h_on("cpu"));
    if (own) { /* what was asked for, and what there is */
        CHECK(an_device_alloc(d, own + 1, &p, &err) == AN_NO_MEMORY && !p);
        CHECK_MSG(strstr(err.message, "MiB are free"), "%s", err.message);
        CHECK(an_device_alloc(d, own, &p, &err) == AN_NO_MEMORY || p);
        an_device_free(d, p);
    }
    CHECK(an_device_bytes_live(d) == 0);
    an_device_close(d);
}

TEST(weights_are_counted_and_checked)
{
    for (int i = 0; i < 2; i++) {
        an_device *d = h_device(i ? h_tested() : "ref", "auto", 1);
        REQUIRE(d);
        float v[24] = {0};
        an_tensor a = an_tensor_2d(v, AN_F32, 4, 3), b = an_tensor_2d(v, AN_F32, 2, 3);
        an_tensor odd = an_tensor_2d(v, AN_F32, 2, 4), bias = an_tensor_1d(v, AN_F32, 4);
        an_weight *w = NULL;
        an_error err = {0};
        const an_tensor *good[] = {&a, &b}, *bad[] = {&a, &odd}, *biases[] = {&bias, NULL};
        CHECK(an_weight_linear(d, AN_F32, 2, good, biases, &w, &err) == AN_OK);
        REQUIRE(w);
        CHECK(w->n == 6 && w->k == 3 && w->has_bias && w->bytes > 0);
        CHECK(an_device_bytes_live(d) == w->bytes);
        an_weight_free(w);
        CHECK(an_device_bytes_live(d) == 0);
        CHECK(an_weight_linear(d, AN_F32, 2, bad, NULL, &w, &err) == AN_INVALID && !w);
        CHECK_MSG(strstr(err.message, "matrix 2 of 2 has shape [2,4]"), "%s", err.message);
        const an_tensor *swapped[] = {NULL, &bias};
        CHECK(an_weight_linear(d, AN_F32, 2, good, swapped, &w, &err) == AN_INVALID && !w);
        CHECK(an_weight_linear(d, AN_F16, 2, good, NULL, &w, &err) == AN_INVALID && !w);
        CHECK(an_weight_conv(d, AN_F32, &a, NULL, &w, &err) == AN_INVALID && !w);
        an_weight_free(NULL);
        an_device_close(d);
    }
}

/* ---------------------------------------------------------------- lanes */

TEST(lanes_are_stacks_of_scratch)
{
    an_device *d = h_device(h_tested(), "auto", 1);
    an_lane *l = NULL;
    an_error err = {0};
    REQUIRE(an_lane_open(d, 1024, &l, &err) == AN_OK);
    an_tensor a = an_lane_tensor(l, AN_F32, 3, 5);
    CHECK(a.data && (uintptr_t)a.data % 64 == 0 && a.ndim == 2 && a.dim[1] == 5);
    size_t mark = an_lane_mark(l);
    CHECK(mark == 64);
    an_tensor b = an_lane_tensor(l, AN_U8, 65);
    CHECK((char *)b.data == (char *)a.data + 64 && an_lane_mark(l) == 192);
    an_lane_release(l, mark);
    CHECK(an_lane_mark(l) == 64 && an_lane_peak(l) == 192);
    an_tensor c = an_lane_tensor(l, AN_F32, 240);
    CHECK(c.data == b.data && an_lane_peak(l) == 1024);
    an_lane_label(l, "unet/mid");
    an_tensor full = an_lane_tensor(l, AN_U8, 1);
    CHECK(!full.data && full.dim[0] == 1);
    CHECK(an_lane_status(l, &err) == AN_NO_MEMORY);
    CHECK_MSG(strstr(err.message, "unet/mid: the scratch arena of 1024 bytes"), "%s", err.message);
    CHECK(an_lane_status(l, &err) == AN_OK);
    an_tensor wrong = an_lane_tensor(l, AN_F32, 1, -1);
    CHECK(!wrong.data && an_lane_status(l, NULL) == AN_INTERNAL);
    wrong = an_lane_tensor(l, AN_F32, INT64_MAX, INT64_MAX, 16);
    CHECK(!wrong.data && an_lane_status(l, NULL) == AN_INTERNAL);
    an_lane_reset(l);
    CHECK(an_lane_peak(l) == 0 && an_lane_mark(l) == 0);
    an_lane_close(l);
    an_lane_close(NULL);
    CHECK(an_device_bytes_live(d) == 0);
    an_device_close(d);
}

TEST(the_first_error_stays_and_stops_the_rest)
{
    an_device *d = h_device("cpu", "auto", 1);
    an_lane *l = NULL;
    an_error err = {0};
    REQUIRE(an_lane_open(d, 4096, &l, &err) == AN_OK);
    an_tensor x = an_lane_tensor(l, AN_F32, 2, 4), y = an_lane_tensor(l, AN_F32, 2, 4);
    an_tensor odd = an_lane_tensor(l, AN_F32, 2, 5);
    for (int i = 0; i < 8; i++) {
        ((float *)x.data)[i] = 1;
        ((float *)y.data)[i] = 7;
    }
    an_lane_label(l, "first");
    an_add(l, x, odd, y);
    an_lane_label(l, "second");
    an_lane_fail(l, AN_DEVICE, "too late");
    an_add(l, x, x, y);
    CHECK(((float *)y.data)[0] == 7);
    CHECK(!an_lane_tensor(l, AN_F32, 1).data);
    CHECK(an_lane_status(l, &err) == AN_INTERNAL);
    CHECK_STR(err.message, "first: add: a and b must be alike: F32 [2,4] and F32 [2,5]");
    an_add(l, x, x, y);
    CHECK(((float *)y.data)[0] == 2);
    CHECK(an_lane_status(l, NULL) == AN_OK);
    an_lane_label(l, NULL);
    an_lane_fail(l, AN_BUSY, "%d", 5);
    CHECK(an_lane_status(l, &err) == AN_BUSY);
    CHECK_STR(err.message, "5");
    an_lane_close(l);
    an_device_close(d);
}

/* ---------------------------------------------------------------- shapes */

static void expect(an_lane *l, const char *text)
{
    an_error err = {0};
    an_status s = an_lane_status(l, &err);
    CHECK_MSG(s == AN_INTERNAL, "%s: %s", text, an_status_name(s));
    CHECK_MSG(strstr(err.message, text), "wanted '%s', got '%s'", text, err.message);
}

TEST(wrong_shapes_of_products)
{
    an_device *d = h_device("cpu", "auto", 1);
    an_lane *l = NULL;
    REQUIRE(an_lane_open_counting(d, &l, NULL) == AN_OK);
    h_run h = {.d = d, .l = l, .n = 1, .id = h_batch1};
    an_weight *w = h_weight(&h, AN_F32, 6, 4, 0, 0, true, 1);
    an_weight *c = h_weight(&h, AN_F32, 6, 4, 3, 3, true, 2);
    REQUIRE(w && c);
    an_tensor x = an_lane_tensor(l, AN_F32, 2, 3, 4), y = an_lane_tensor(l, AN_F32, 2, 3, 6);
    an_tensor half = an_lane_tensor(l, AN_F32, 2, 3, 3), hy = an_lane_tensor(l, AN_BF16, 2, 3, 6);
    an_gemm(l, &(an_gemm_args){.x = x, .y = y});
    expect(l, "gemm: no weight");
    an_gemm(l, &(an_gemm_args){.x = y, .w = w, .y = y});
    expect(l, "gemm: x must be [..., k]");
    an_gemm(l, &(an_gemm_args){.x = x, .w = c, .y = y});
    expect(l, "gemm: x must be [..., k]");
    an_gemm(l, &(an_gemm_args){.x = x, .w = w, .y = half});
    expect(l, "gemm: y must be [..., n]");
    an_gemm(l, &(an_gemm_args){.x = x, .w = w, .act = AN_ACT_GEGLU, .y = y});
    expect(l, "gemm: y must be [..., n]");
    an_gemm(l, &(an_gemm_args){.x = x, .w = w, .y = hy});
    expect(l, "gemm: y must have x's dtype or F32");
    an_gemm(l, &(an_gemm_args){.x = x, .w = w, .residual = &hy, .y = y});
    expect(l, "gemm: residual and y must be alike");
    an_gemm(l, &(an_gemm_args){.x = x, .w = w, .act = (an_act)99, .y = y});
    expect(l, "gemm: activation 99");
    an_gemm(l, &(an_gemm_args){.x = x, .w = w, .act = AN_ACT_GEGLU, .y = half});
    CHECK(an_lane_status(l, NULL) == AN_OK);

    an_tensor p = an_lane_tensor(l, AN_F32, 1, 5, 5, 4), q = an_lane_tensor(l, AN_F32, 1, 5, 5, 6);
    an_conv_args a = {.x = p,
                      .w = c,
                      .stride = 1,
                      .pad_top = 1,
                      .pad_left = 1,
                      .pad_bottom = 1,
                      .pad_right = 1,
                      .y = q};
    an_lane_reset(l);
    an_conv2d(l, &a);
    CHECK(an_lane_status(l, NULL) == AN_OK && an_lane_flops(l) == 2.0 * 25 * 6 * 4 * 9);
    a.stride = 2;
    an_conv2d(l, &a);
    expect(l, "conv2d: y has not the shape due: F32 [1,5,5,6] and F32 [1,3,3,6]");
    a.stride = 3;
    an_conv2d(l, &a);
    expect(l, "conv2d: stride 3");
    a.stride = 1;
    a.up_h = 10;
    an_conv2d(l, &a);
    expect(l, "resize to 10x0");
    a.up_h = 0;
    a.row_bias = &p;
    an_conv2d(l, &a);
    expect(l, "conv2d: row_bias must be [n,out]");
    p = an_lane_tensor(l, AN_F32, 1, 6);
    a.row_bias_stride = 5;
    an_conv2d(l, &a);
    expect(l, "conv2d: row_bias must be [n,out]");
    a.row_bias_stride = 0;
    a.row_bias = NULL;
    a.act = AN_ACT_GEGLU;
    an_conv2d(l, &a);
    expect(l, "conv2d: activation");
    h.l = NULL;
    h_free(&h);
    an_lane_close(l);
    an_device_close(d);
}

TEST(wrong_shapes_of_the_rest)
{
    an_device *d = h_device("cpu", "auto", 1);
    an_lane *l = NULL;
    REQUIRE(an_lane_open_counting(d, &l, NULL) == AN_OK);
    an_tensor x = an_lane_tensor(l, AN_F32, 2, 9, 8), y = an_lane_tensor(l, AN_F32, 2, 9, 8);
    an_tensor g = an_lane_tensor(l, AN_F32, 8), bad = an_lane_tensor(l, AN_F32, 7);
    an_tensor half = an_lane_tensor(l, AN_BF16, 8), ids = an_lane_tensor(l, AN_I32, 2, 9);
    an_group_norm(l, x, &g, &g, 3, 1e-5f, false, y);
    expect(l, "group_norm: 3 groups do not divide");
    an_group_norm(l, x, &g, NULL, 2, 1e-5f, false, y);
    expect(l, "group_norm: beta must be F32");
    an_layer_norm(l, x, &bad, NULL, 1e-5f, y);
    expect(l, "layer_norm: gamma must be F32 with the channels of x: F32 [7] and F32 [2,9,8]");
    an_rms_norm(l, x, &half, 1e-5f, y);
    expect(l, "rms_norm: gamma must be F32");
    an_activation(l, ids, AN_ACT_SILU, ids);
    expect(l, "activation: x must be F32 or BF16: I32 [2,9]");
    an_activation(l, x, AN_ACT_GEGLU, y);
    expect(l, "activation: activation 6");
    an_concat(l, x, y, y);
    expect(l, "concat: y's last dim");
    an_copy(l, x, g);
    expect(l, "copy: x and y must have as many");
    an_embedding(l, &x, NULL, ids, y);
    expect(l, "embedding: table must be [v,c]");
    an_tensor table = an_lane_tensor(l, AN_F32, 5, 8);
    an_embedding(l, &table, &table, ids, y);
    expect(l, "embedding: pos must be");
    an_embedding(l, &table, NULL, x, y);
    expect(l, "embedding: ids must be I32");
    an_timestep_embedding(l, NULL, true, 0, 1, x);
    expect(l, "timestep_embedding: y must be");
    an_gather_rows(l, x, NULL, y);
    expect(l, "gather_rows: x must be [n,t,c], y [n,c]");
    an_latent_in(l, NULL, NULL, x);
    expect(l, "latent_in: y must be");
    an_image_out(l, x, y, NULL);
    expect(l, "image_out: x must be [n,h,w,3]");
    an_image_in(l, x, y);
    expect(l, "image_in: x must be U8");
    an_attention_args a = {.rows = 2,
                           .heads = 2,
                           .head_dim = 4,
                           .dtype = AN_F32,
                           .q_stride = 8,
                           .k_stride = 8,
                           .v_stride = 7,
                           .q_len = 9,
                           .kv_len = 9,
                           .scale = 1,
                           .y = y};
    an_attention(l, &a);
    expect(l, "attention: strides 8 8 7");
    a.v_stride = 8;
    a.kv_len = 0;
    an_attention(l, &a);
    expect(l, "attention: row 0 has 0 keys");
    a.kv_len = 5;
    a.causal = true;
    an_attention(l, &a);
    expect(l, "as many keys as queries");
    a.causal = false;
    a.head_dim = 513;
    an_attention(l, &a);
    expect(l, "at most 512 wide");
    a.head_dim = 4;
    an_lane_reset(l);
    an_attention(l, &a);
    CHECK(an_lane_status(l, NULL) == AN_OK && an_lane_flops(l) == 4.0 * 2 * 2 * 9 * 5 * 4);
    an_lane_close(l);

    /* what only a lane that computes can see: memory that is not there */
    REQUIRE(an_lane_open(d, 4096, &l, NULL) == AN_OK);
    x = an_lane_tensor(l, AN_F32, 2, 4);
    an_tensor none = an_tensor_2d(NULL, AN_F32, 2, 4);
    an_add(l, x, none, x);
    expect(l, "add: b has no memory");
    an_tensor t = an_lane_tensor(l, AN_F32, 2, 3, 4);
    memset(t.data, 0, 96);
    an_gather_rows(l, t, (int64_t[]){0, 3}, x);
    expect(l, "gather_rows: row 1 asks for token 3 of 3");
    an_upload(l, NULL, x.data, 4);
    expect(l, "copy of 4 bytes to NULL");
    an_lane_close(l);
    an_device_close(d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

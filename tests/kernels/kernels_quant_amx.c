/* The AMX kernel of quantised products on emulated tiles, with the VNNI kernel beside it: against
 * the plain kernel, and whole products whose rows are partly AMX's and partly VNNI's. */
#define AN_VNNI_EMULATE 1
#define AN_AMX_EMULATE  1
#include "kernels/cpu/quant_vnni.c"

#include "kernels/cpu/quant_amx.c"

#include "kernels/cpu/cpuid.h"
#include "quant_cases.h"

TEST(as_the_plain_kernel_and_as_vnni)
{
    CHECK(an_quant_check_kernel(&an_quant_amx));
}

/* Many tiles that are not the same to the bit are noticed. */
static void wrong_tiles(an_dtype format, int n, const void *panel, int64_t stride, int64_t blocks,
                        const void *x, float *out)
{
    an_quant_amx.tiles(format, n, panel, stride, blocks, x, out);
    if (format == AN_Q3_K && n == 3) out[300] = nextafterf(out[300], 1e30f);
}
TEST(a_wrong_kernel)
{
    an_quant_kernel wrong = an_quant_amx;
    wrong.tiles = wrong_tiles;
    CHECK(!an_quant_check_kernel(&wrong));
}

enum { K = 512, N = 40, M = 75 };

/* A product of the first m rows, as an op of a device whose weights have this kernel. */
static void product(an_device *d, const an_quant_kernel *kernel, an_tensor w, float *x, int64_t m,
                    float *y)
{
    const an_tensor *pw = &w;
    an_weight *aw;
    an_lane *l;
    an_error err = {0};
    REQUIRE(an_weight_linear(d, AN_F32, 1, &pw, NULL, &aw, NULL) == AN_OK);
    ((an_gemm_weight *)aw->impl)->quant->kernel = kernel;
    REQUIRE(an_lane_open(d, 1 << 22, &l, NULL) == AN_OK);
    an_gemm(l, &(an_gemm_args){.x = an_tensor_2d(x, AN_F32, m, K),
                               .w = aw,
                               .y = an_tensor_2d(y, AN_F32, m, N)});
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    an_lane_close(l);
    an_weight_free(aw);
}

/* Bytes of a row: the same in a prompt (AMX), among few (VNNI), alone, whoever computes it. */
TEST(bytes_of_rows)
{
    float x[M * K], many[M * N], vnni[M * N], few[M * N];
    h_values(x, M * K, 5, 1, 0);
    for (int threads = 1; threads <= 3; threads += 2)
        for (int f = 0; f < QC_FORMATS; f++) {
            an_device *d = h_device("cpu", "generic", threads);
            REQUIRE(d);
            an_tensor w = qc_matrix(qc_formats[f], N, K, 11);
            product(d, &an_quant_amx, w, x, M, many);
            product(d, &an_quant_vnni, w, x, M, vnni);
            CHECK_MSG(!memcmp(many, vnni, sizeof many), "%s", an_dtype_name(qc_formats[f]));
            static const int64_t at[] = {0, 7, 33, 74}, rows[] = {1, 13, 17, 1};
            for (int i = 0; i < 4; i++) {
                product(d, &an_quant_amx, w, x + at[i] * K, rows[i], few);
                CHECK_MSG(!memcmp(few, many + at[i] * N, (size_t)(rows[i] * N) * sizeof *few),
                          "%s, %lld rows", an_dtype_name(qc_formats[f]), (long long)rows[i]);
            }
            free(w.data);
            an_device_close(d);
        }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

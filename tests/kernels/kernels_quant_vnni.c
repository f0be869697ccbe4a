/* The AVX-512 VNNI kernel of quantised products on vectors of plain C: against the plain kernel,
 * and the very bits of the AVX2 one where this machine has it. */
#define AN_VNNI_EMULATE 1
#include "kernels/cpu/quant_vnni.c"

#include "kernels/cpu/cpuid.h"
#include "quant_cases.h"

TEST(as_the_plain_kernel)
{
    CHECK(an_quant_check_kernel(&an_quant_vnni));
}

/* A kernel that computes something else is noticed. */
static void wrong_panel(an_dtype format, int rows, const void *panel, int64_t stride,
                        int64_t blocks, const void *tile, float *out)
{
    an_quant_vnni.panel(format, rows, panel, stride, blocks, tile, out);
    if (format == AN_Q5_K && rows == 4) out[50] *= 1.01f;
}
TEST(a_wrong_kernel)
{
    an_quant_kernel wrong = an_quant_vnni;
    wrong.panel = wrong_panel;
    CHECK(!an_quant_check_kernel(&wrong));
}

TEST(bits_of_avx2)
{
    if (an_cpu_detect() < AN_ISA_AVX2) return;
    enum { K = 512, N = 16 };
    for (int f = 0; f < QC_FORMATS; f++) {
        an_tensor t = qc_matrix(qc_formats[f], N, K, 7);
        const an_tensor *pt = &t;
        an_gemm_weight *w;
        const an_gemm_kernel *plain = an_gemm_kernel_of(AN_ISA_GENERIC, AN_F32);
        REQUIRE(an_quant_pack(plain, &an_quant_vnni, NULL, 1, &pt, NULL, &w, NULL) == AN_OK);
        const an_quant_part *p = &w->quant->part[0];
        float x[K];
        char tile[AN_QUANT_X * 8 * (K / 32)];
        for (int rows = 1; rows <= 8; rows *= 2) {
            float got[8 * N], want[8 * N];
            for (int r = 0; r < rows; r++) {
                h_values(x, K, (uint64_t)r, 1, 0);
                an_quant_vnni.round(x, AN_F32, K, rows, r, tile);
            }
            an_quant_vnni.panel(p->format, rows, p->data, p->stride, K / 32, tile, got);
            an_quant_avx2.panel(p->format, rows, p->data, p->stride, K / 32, tile, want);
            for (int i = 0; i < rows * N; i++)
                CHECK_MSG(got[i] == want[i], "%s %d: %.9g, not %.9g", an_dtype_name(p->format), i,
                          (double)got[i], (double)want[i]);
        }
        an_gemm_weight_free(w);
        free(t.data);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

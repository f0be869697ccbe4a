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
    if (an_cpu_detect() >= AN_ISA_AVX2) qc_bits_of_avx2(&an_quant_vnni);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

/* Attention's kernel for 64-byte vectors and 32 registers, built from what narrower instructions
 * there are: its logic is tested on machines without AVX-512. */
#include "attention_cases.h"

#define KERNEL      emulated_avx512
#define KERNEL_NAME "emulated avx512"
#define AN_VW       64
#define MR          8
#define PAIRS       0
#include "kernels/cpu/attention_impl.h"

TEST(emulated_avx512)
{
    case_check_all(&emulated_avx512, false, 4e-6);
    case_check_all(&emulated_avx512, true, 4e-6);
    CHECK(an_attention_kernel_works(&emulated_avx512, AN_F32));
    CHECK(an_attention_kernel_works(&emulated_avx512, AN_BF16));
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

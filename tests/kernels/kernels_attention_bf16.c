/* Attention's kernel for pairs of bf16, built from what narrower instructions there are: its logic
 * is tested on machines without AVX512_BF16. */
#include "attention_cases.h"

#define KERNEL      emulated_bf16
#define KERNEL_NAME "emulated bf16"
#define AN_VW       64
#define MR          8
#define PAIRS       1
#include "kernels/cpu/attention_impl.h"

TEST(emulated_bf16)
{
    case_check_all(&emulated_bf16, true, 1e-2);
    CHECK(an_attention_kernel_works(&emulated_bf16, AN_BF16));
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

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

/* The scale comes after the product here: its sign may as well be in q, and nothing of q is left at
 * zero. */
TEST(scales)
{
    enum { T = 50, K = 131, D = 33 };
    static uint16_t q[2][T * D], k[K * D], v[K * D], y[2][T * D];
    uint64_t s = 5;
    for (int i = 0; i < T * D; i++) {
        q[0][i] = an_f32_to_bf16(h_random(&s));
        q[1][i] = q[0][i] ^ 0x8000;
    }
    for (int i = 0; i < K * D; i++) {
        k[i] = an_f32_to_bf16(h_random(&s));
        v[i] = an_f32_to_bf16(i / D == 130 ? 132.0f : 1.0f); /* their mean is 2 */
    }
    void *scratch = aligned_alloc(64, (emulated_bf16.scratch(D, T) + 63) & ~(size_t)63);
    REQUIRE(scratch);
    an_attention_task t = {.k = (char *)k,
                           .v = (char *)v,
                           .queries = T,
                           .keys = K,
                           .head_dim = D,
                           .q_stride = D,
                           .k_stride = D,
                           .v_stride = D,
                           .y_stride = D,
                           .bf16 = true};
    for (int causal = 0; causal < 2; causal++) {
        for (int i = 0; i < 2; i++) {
            t.q = (char *)q[i], t.y = (char *)y[i];
            t.scale = i ? -0.3f : 0.3f;
            t.causal = causal;
            t.first = causal ? K - T : 0;
            emulated_bf16.run(&t, scratch);
        }
        CHECK(memcmp(y[0], y[1], sizeof y[0]) == 0);
    }
    t.scale = 0;
    t.causal = false;
    emulated_bf16.run(&t, scratch);
    for (int i = 0; i < T * D; i++) CHECK(y[1][i] == an_f32_to_bf16(2));
    free(scratch);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

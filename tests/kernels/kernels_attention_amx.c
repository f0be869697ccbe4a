/* Attention's AMX kernel on emulated tiles: its logic is tested on machines without AMX. The
 * library's own an_attention_amx is not linked, this one takes its place. */
#define AN_AMX_EMULATE
#include "attention_cases.h"
#include "kernels/cpu/attention_amx.c"

TEST(emulated_amx)
{
    case_check_all(&an_attention_amx, true, 1e-2);
    CHECK(an_attention_kernel_works(&an_attention_amx, AN_BF16));
}

/* A query's bytes are its own: alone, in a group at any place, and beside any number of others. */
TEST(emulated_amx_bytes)
{
    enum { T = 70, K = 300, D = 40 };
    static uint16_t q[T * D], k[K * D], v[K * D], whole[T * D], part[T * D];
    uint16_t *const in[3] = {q, k, v};
    for (int j = 0; j < 3; j++) {
        uint64_t s = (uint64_t)j + 1;
        for (int i = 0; i < (j ? K : T) * D; i++) in[j][i] = an_f32_to_bf16(h_random(&s));
    }
    an_attention_task t = {.q = (char *)q,
                           .k = (char *)k,
                           .v = (char *)v,
                           .y = (char *)whole,
                           .q_stride = D,
                           .k_stride = D,
                           .v_stride = D,
                           .y_stride = D,
                           .queries = T,
                           .keys = K,
                           .head_dim = D,
                           .scale = -0.3f,
                           .bf16 = true};
    void *scratch = aligned_alloc(64, an_attention_amx.scratch(D, T));
    an_attention_amx.run(&t, scratch);
    for (int first = 0; first < T; first += 13) {
        for (int n = 1; first + n <= T; n += 20) {
            t.q = (char *)(q + first * D);
            t.y = (char *)part;
            t.queries = n;
            an_attention_amx.run(&t, scratch);
            CHECK_MSG(memcmp(part, whole + first * D, (size_t)(n * D) * 2) == 0,
                      "queries %d..%d differ", first, first + n);
        }
    }
    free(scratch);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

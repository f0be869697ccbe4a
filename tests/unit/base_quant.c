/* Block formats against the values that the gguf package computes for the same bytes, bit by bit.
 */
#include "anneal/base.h"
#include "anneal/tensor.h"
#include "test.h"
#include <jansson.h>

static const an_dtype formats[] = {AN_Q4_0, AN_Q4_1, AN_Q5_0, AN_Q5_1, AN_Q8_0,   AN_Q2_K,
                                   AN_Q3_K, AN_Q4_K, AN_Q5_K, AN_Q6_K, AN_IQ4_NL, AN_IQ4_XS};
#define FORMATS (sizeof formats / sizeof formats[0])

/* Where tensor `format.part` lies in the file, and its bytes; NULL if it is not there. */
static const char *tensor_of(const char *file, const json_t *header, const char *format,
                             const char *part, size_t data_at, size_t *bytes)
{
    char name[32];
    snprintf(name, sizeof name, "%s.%s", format, part);
    const json_t *span = json_object_get(json_object_get(header, name), "data_offsets");
    size_t from = (size_t)json_integer_value(json_array_get(span, 0));
    *bytes = (size_t)json_integer_value(json_array_get(span, 1)) - from;
    return span ? file + data_at + from : NULL;
}

TEST(golden_bits)
{
    char *file;
    size_t len;
    an_error err = {0};
    REQUIRE(an_read_file(AN_GOLDEN "/quant_blocks.safetensors", 1 << 20, &file, &len, &err) ==
            AN_OK);
    uint64_t head;
    memcpy(&head, file, 8);
    json_t *header = NULL;
    REQUIRE(an_json_parse(file + 8, (size_t)head, &header, &err) == AN_OK);
    for (size_t i = 0; i < FORMATS; i++) {
        const char *name = an_dtype_name(formats[i]);
        size_t blocks_len, values_len;
        const char *blocks = tensor_of(file, header, name, "bytes", 8 + head, &blocks_len);
        const char *values = tensor_of(file, header, name, "values", 8 + head, &values_len);
        REQUIRE(blocks && values);
        int64_t count = (int64_t)(values_len / sizeof(float));
        CHECK(blocks_len == (size_t)count / (size_t)an_dtype_block(formats[i]) *
                                an_dtype_block_bytes(formats[i]));
        float *got = malloc(values_len);
        REQUIRE(got && an_dequantize(formats[i], blocks, count, got));
        for (int64_t k = 0; k < count; k++) {
            float want;
            memcpy(&want, values + (size_t)k * sizeof want, sizeof want);
            CHECK_MSG(memcmp(&want, &got[k], sizeof want) == 0, "%s [%lld]: %.9g, expected %.9g",
                      name, (long long)k, (double)got[k], (double)want);
            if (test_failures) break;
        }
        free(got);
    }
    json_decref(header);
    free(file);
}

TEST(plain_types_are_refused)
{
    float out[32] = {7};
    CHECK(!an_dequantize(AN_F32, out, 32, out));
    CHECK(!an_dequantize(AN_DTYPE_COUNT, out, 32, out));
    CHECK(out[0] == 7.0f);
}

TEST(only_whole_blocks_are_written)
{
    unsigned char block[34] = {0, 0x3c, 5}; /* scale 1, first number 5 */
    float out[64] = {0};
    out[32] = 3;
    CHECK(an_dequantize(AN_Q8_0, block, 32, out));
    CHECK(out[0] == 5.0f && out[1] == 0.0f && out[32] == 3.0f);
    CHECK(an_dequantize(AN_Q8_0, block, 63, out) && out[32] == 3.0f);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

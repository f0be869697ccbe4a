/* GGUF files that lie: each is refused with a message that says what is wrong, and nothing is read
 * past its end or allocated on its word. And the odd ones that must be read. */
#include "gguf.h"
#include "gguf_build.h"
#include "test.h"
#include "weights_files.h"

#include <sys/mman.h>

/* A file in memory: some filesystems take milliseconds to replace one. One at a time. */
static const char *memory_file(const void *data, size_t n)
{
    static char path[64];
    static int fd = -1;
    if (fd >= 0) close(fd);
    fd = memfd_create("gguf", 0);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}

static const char *file_of(const gguf_build *g)
{
    gb_bytes b = gb_file(g);
    const char *path = memory_file(b.p, b.n);
    free(b.p);
    return path;
}

/* Reads the file; the message of its error, "" if it was read. */
static const char *verdict(const gguf_build *g)
{
    static an_error err;
    an_weights *w;
    json_t *meta;
    const char *path = file_of(g);
    memset(&err, 0, sizeof err);
    if (an_gguf_read(path, &w, &meta, &err) != AN_OK) return err.message;
    an_weights_close(w);
    json_decref(meta);
    return "";
}

/* The same of a file with one key, its value written by hand. */
static const char *verdict_kv(uint32_t type, const gb_bytes *value)
{
    gguf_build g;
    gb_begin(&g);
    gb_key(&g, "k", type);
    gb_put(&g.kv, value->p, value->n);
    const char *said = verdict(&g);
    gb_free(&g);
    return said;
}

#define SAYS(said, text)                                                                           \
    do {                                                                                           \
        const char *said_ = (said);                                                                \
        CHECK_MSG(*said_ &&strstr(said_, text), "said '%s', expected '%s'", said_, text);          \
    } while (0)

TEST(what_is_there)
{
    gguf_build g;
    float values[6] = {1, 2, 3, 4, 5, 6};
    an_tensor t = an_tensor_2d(values, AN_F32, 2, 3), empty = an_tensor_1d(NULL, AN_F32, 1);
    an_weights *w;
    json_t *meta;
    an_error err = {0};
    gb_begin(&g);
    g.version = 2;
    gb_metadata(&g, "{\"a.b\":7,\"x\":0.5,\"yes\":true,\"s\":\"\\u00e9\",\"l\":[1,2],"
                    "\"t\":[\"a\",\"\"]}");
    gb_tensor(&g, "one", &empty);
    gb_tensor(&g, "two", &t);
    const char *path = file_of(&g);
    gb_free(&g);
    REQUIRE(an_gguf_read(path, &w, &meta, &err) == AN_OK);
    CHECK(json_integer_value(json_object_get(meta, "a.b")) == 7);
    CHECK(json_real_value(json_object_get(meta, "x")) == 0.5);
    CHECK(json_is_true(json_object_get(meta, "yes")));
    CHECK_STR(json_string_value(json_object_get(meta, "s")), "\xc3\xa9");
    CHECK(json_array_size(json_object_get(meta, "l")) == 2);
    CHECK_STR(json_string_value(json_array_get(json_object_get(meta, "t"), 1)), "");
    CHECK(an_weights_count(w) == 2 && an_weights_bytes(w) == 28);
    int64_t dim[2] = {2, 3};
    REQUIRE(an_weights_get(w, "two", 2, dim, &t, &err) == AN_OK);
    CHECK(((const float *)t.data)[5] == 6.0f);
    an_weights_close(w);
    json_decref(meta);
}

TEST(every_type_of_value)
{
    static const struct {
        uint32_t type;
        const char *bytes;
        size_t n;
        const char *json;
    } cases[] = {{0, "\xff", 1, "[255]"},
                 {1, "\xff", 1, "[-1]"},
                 {2, "\xfe\xff", 2, "[65534]"},
                 {3, "\xfe\xff", 2, "[-2]"},
                 {4, "\xff\xff\xff\xff", 4, "[4294967295]"},
                 {5, "\xff\xff\xff\xff", 4, "[-1]"},
                 {6, "\0\0\x80\x3f", 4, "[1.0]"},
                 {6, "\0\0\xc0\x7f", 4, "[null]"},
                 {6, "\0\0\x80\xff", 4, "[-1.7976931348623157e308]"},
                 {7, "\0", 1, "[false]"},
                 {7, "\2", 1, "[true]"},
                 {8, "\2\0\0\0\0\0\0\0ab", 10, "[\"ab\"]"},
                 {10, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8, "[9223372036854775807]"},
                 {10, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "[1.8446744073709552e19]"},
                 {11, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "[-1]"},
                 {12, "\0\0\0\0\0\0\xf8\x3f", 8, "[1.5]"},
                 {12, "\0\0\0\0\0\0\xf0\x7f", 8, "[1.7976931348623157e308]"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_build g;
        an_weights *w;
        json_t *meta, *want = json_loads(cases[i].json, 0, NULL);
        gb_begin(&g);
        gb_key(&g, "k", cases[i].type);
        gb_put(&g.kv, cases[i].bytes, cases[i].n);
        const char *path = file_of(&g);
        gb_free(&g);
        REQUIRE(an_gguf_read(path, &w, &meta, NULL) == AN_OK && want);
        CHECK_MSG(json_equal(json_object_get(meta, "k"), json_array_get(want, 0)), "%s",
                  cases[i].json);
        an_weights_close(w);
        json_decref(meta);
        json_decref(want);
    }
}

/* ---------------------------------------------------------------- the header */

TEST(header)
{
    gguf_build g;
    gb_begin(&g);
    CHECK_STR(verdict(&g), "");
    static const struct {
        uint32_t version;
        const char *says;
    } versions[] = {{0, "version 0"}, {1, "version 1"}, {4, "version 4"}, {3u << 24, "big-endian"}};
    for (int i = 0; i < 4; i++) {
        g.version = versions[i].version;
        SAYS(verdict(&g), versions[i].says);
    }
    static const uint64_t counts[] = {
        1, 1000, AN_GGUF_MAX_TENSORS + 1, 1ull << 32, 1ull << 61, 1ull << 63, UINT64_MAX};
    g.version = 3;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        g.tensors = counts[i];
        SAYS(verdict(&g), "cannot be in a file of 24 bytes");
        g.tensors = 0;
        g.keys = counts[i];
        SAYS(verdict(&g), "cannot be in a file of 24 bytes");
        g.keys = 0;
    }
    gb_free(&g);
    an_error err = {0};
    an_weights *w;
    json_t *meta;
    CHECK(an_gguf_read(files_write("no.gguf", "GGML....", 8), &w, &meta, &err) == AN_INVALID);
    SAYS(err.message, "not a GGUF file");
    CHECK(an_gguf_read(files_write("no.gguf", "", 0), &w, &meta, &err) == AN_INVALID);
    CHECK(an_gguf_read(files_path("nowhere.gguf"), &w, &meta, &err) == AN_NOT_FOUND);
    CHECK(an_gguf_read("/dev/null", &w, &meta, &err) == AN_INVALID);
}

/* A file with everything in it, cut at every byte. */
TEST(truncated_anywhere)
{
    gguf_build g;
    an_tensor t = an_tensor_2d(NULL, AN_Q8_0, 2, 64);
    gb_begin(&g);
    gb_metadata(&g,
                "{\"general.architecture\":\"llama\",\"n\":1,\"l\":[\"a\",\"bc\"],\"f\":[0.5]}");
    gb_tensor(&g, "blk.0.attn_q.weight", &t);
    gb_tensor(&g, "blk.0.attn_k.weight", &t);
    gb_bytes b = gb_file(&g);
    for (size_t n = 0; n <= b.n; n++) {
        an_weights *w = NULL;
        json_t *meta = NULL;
        an_error err = {0};
        an_status s = an_gguf_read(memory_file(b.p, n), &w, &meta, &err);
        CHECK_MSG((s == AN_OK) == (n == b.n), "%zu of %zu bytes: %s", n, b.n, err.message);
        CHECK((s == AN_OK) == (w && meta) && (s == AN_OK || *err.message));
        an_weights_close(w);
        json_decref(meta);
    }
    free(b.p);
    gb_free(&g);
}

/* The same with every byte changed: an answer, whatever it is, and every tensor within the file. */
TEST(every_byte_changed)
{
    gguf_build g;
    an_tensor t = an_tensor_1d(NULL, AN_F32, 8);
    gb_begin(&g);
    gb_metadata(&g, "{\"general.alignment\":32,\"l\":[\"a\",\"bc\"],\"f\":[0.5]}");
    gb_tensor(&g, "a", &t);
    gb_tensor(&g, "b", &t);
    gb_bytes b = gb_file(&g);
    static const unsigned char other[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    unsigned sum = 0;
    for (size_t at = 0; at < b.n; at++) {
        const unsigned char was = b.p[at];
        for (size_t k = 0; k < sizeof other; k++) {
            an_weights *w = NULL;
            json_t *meta = NULL;
            b.p[at] = other[k];
            if (an_gguf_read(memory_file(b.p, b.n), &w, &meta, NULL) != AN_OK) continue;
            for (int i = 0; i < an_weights_count(w); i++) {
                CHECK(an_weights_find(w, an_weights_name(w, i), &t));
                for (size_t j = 0; j < an_tensor_bytes(&t); j++)
                    sum += ((const unsigned char *)t.data)[j];
            }
            an_weights_close(w);
            json_decref(meta);
        }
        b.p[at] = was;
    }
    CHECK(sum > 0); /* the data's own bytes were among those changed */
    free(b.p);
    gb_free(&g);
}

/* ---------------------------------------------------------------- metadata */

TEST(strings)
{
    static const uint64_t lengths[] = {
        1, 24, 1ull << 31, 1ull << 32, 1ull << 62, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        gb_bytes b = {0};
        gb_u64(&b, lengths[i]);
        SAYS(verdict_kv(8, &b), "truncated");
        gb_bytes list = {0}; /* the same within a list */
        gb_u32(&list, 8);
        gb_u64(&list, 1);
        gb_put(&list, b.p, b.n);
        SAYS(verdict_kv(9, &list), "truncated");
        free(list.p);
        free(b.p);
        gguf_build g; /* and as a key */
        gb_begin(&g);
        g.keys = 1;
        gb_u64(&g.kv, lengths[i]);
        gb_put(&g.kv, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 14);
        if (lengths[i] > 14) SAYS(verdict(&g), "truncated");
        gb_free(&g);
    }
    gb_bytes b = {0};
    gb_text(&b, "a\xff", 2);
    SAYS(verdict_kv(8, &b), "not UTF-8");
    b.n = 0;
    gb_text(&b, "a\0b", 3);
    SAYS(verdict_kv(8, &b), "holds a NUL");
    b.n = 0;
    gb_u32(&b, 8);
    gb_u64(&b, 1);
    gb_text(&b, "a\0b", 3);
    CHECK_STR(verdict_kv(9, &b), ""); /* a token */
    b.n = 0;
    size_t big = AN_GGUF_MAX_STRING + 1;
    char *text = malloc(big);
    REQUIRE(text);
    memset(text, 'x', big);
    gb_text(&b, text, big);
    SAYS(verdict_kv(8, &b), "at most");
    free(text);
    free(b.p);
}

TEST(arrays)
{
    static const uint64_t counts[] = {2,          1ull << 31, 1ull << 32, 1ull << 61,
                                      1ull << 62, 1ull << 63, UINT64_MAX};
    for (uint32_t type = 0; type < 13; type++) {
        for (size_t i = 0; i < sizeof counts / sizeof counts[0] && type != 9; i++) {
            gb_bytes b = {0};
            gb_u32(&b, type);
            gb_u64(&b, counts[i]);
            gb_put(&b, "", 1);
            SAYS(verdict_kv(9, &b), "cannot be in the 1 bytes left");
            free(b.p);
        }
    }
    gb_bytes b = {0};
    gb_u32(&b, 9); /* a list of lists, and that without an end */
    gb_u64(&b, 1);
    for (int i = 0; i < 1000; i++) {
        gb_u32(&b, 9);
        gb_u64(&b, 1);
    }
    SAYS(verdict_kv(9, &b), "an array of arrays");
    b.n = 0;
    gb_u32(&b, 13);
    gb_u64(&b, 0);
    SAYS(verdict_kv(9, &b), "value type 13");
    b.n = 0;
    gb_u32(&b, 8);
    gb_u64(&b, 0);
    CHECK_STR(verdict_kv(9, &b), "");
    b.n = 0;
    gb_u32(&b, 0); /* more values than are read: one byte each */
    gb_u64(&b, AN_GGUF_MAX_VALUES);
    char *bytes = calloc(1, AN_GGUF_MAX_VALUES);
    REQUIRE(bytes);
    gb_put(&b, bytes, AN_GGUF_MAX_VALUES);
    SAYS(verdict_kv(9, &b), "at most 4000000 are read");
    free(bytes);
    free(b.p);
}

TEST(keys)
{
    static const struct {
        const char *json, *says;
    } cases[] = {{"{\"\":1}", "a key is empty"},
                 {"{\"a\\nb\":1}", "not plain"},
                 {"{\"a\\u007f\":1}", "not plain"},
                 {"{\"general.alignment\":0}", "power of two"},
                 {"{\"general.alignment\":3}", "power of two"},
                 {"{\"general.alignment\":48}", "power of two"},
                 {"{\"general.alignment\":131072}", "power of two"},
                 {"{\"general.alignment\":4294967295}", "power of two"},
                 {"{\"general.alignment\":2147483648}", "power of two"},
                 {"{\"general.alignment\":\"32\"}", "power of two"},
                 {"{\"general.alignment\":[32]}", "power of two"},
                 {"{\"general.alignment\":32.0}", "power of two"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_build g;
        gb_begin(&g);
        gb_metadata(&g, cases[i].json);
        SAYS(verdict(&g), cases[i].says);
        gb_free(&g);
    }
    gguf_build g;
    gb_begin(&g);
    gb_metadata(&g, "{\"a\":1,\"b\":2}");
    gb_metadata(&g, "{\"a\":3}");
    SAYS(verdict(&g), "the key a is there twice");
    gb_free(&g);
    static const uint32_t types[] = {13, 100, 1u << 31, UINT32_MAX};
    for (int i = 0; i < 4; i++) {
        gb_bytes b = {0};
        gb_u64(&b, 0);
        SAYS(verdict_kv(types[i], &b), "value type");
        free(b.p);
    }
    char name[AN_GGUF_MAX_KEY + 2];
    memset(name, 'k', sizeof name);
    for (int more = 0; more < 2; more++) {
        gb_begin(&g);
        name[AN_GGUF_MAX_KEY + more] = '\0';
        gb_key(&g, name, 0);
        gb_put(&g.kv, "", 1);
        if (more)
            SAYS(verdict(&g), "a key of 1025 bytes");
        else
            CHECK_STR(verdict(&g), "");
        gb_free(&g);
        name[AN_GGUF_MAX_KEY] = 'k';
    }
}

/* ---------------------------------------------------------------- tensors */

static const char *verdict_tensor(const char *name, uint32_t type, uint32_t dims,
                                  const uint64_t *size, uint64_t offset)
{
    static const char data[64];
    gguf_build g;
    gb_begin(&g);
    gb_tensor_info(&g, name, type, dims, size, offset);
    gb_put(&g.data, data, sizeof data);
    const char *said = verdict(&g);
    gb_free(&g);
    return said;
}

TEST(tensors)
{
    static const struct {
        uint32_t type, dims;
        uint64_t size[6], offset;
        const char *says; /* "" : is read */
    } cases[] = {
        {0, 1, {16}, 0, ""},
        {0, 4, {2, 2, 2, 2}, 0, ""},
        {0, 1, {8}, 32, ""},
        {8, 2, {32, 1}, 0, ""},
        /* shapes */
        {0, 0, {0}, 0, "0 dimensions"},
        {0, 5, {1, 1, 1, 1, 1}, 0, "5 dimensions"},
        {0, 6, {1, 1, 1, 1, 1, 1}, 0, "6 dimensions"},
        {0, 1, {0}, 0, "a dimension of size 0"},
        {0, 2, {1ull << 63, 2}, 0, "a dimension of size"},
        {0, 1, {UINT64_MAX}, 0, "a dimension of size"},
        {0, 2, {1ull << 32, 1ull << 32}, 0, "needs more than"},
        {0, 4, {1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16}, 0, "needs more than"},
        {0, 3, {1ull << 62, 1ull << 62, 16}, 0, "needs more than"},
        {0, 1, {1ull << 62}, 0, "needs more than"},
        {0, 1, {INT64_MAX}, 0, "needs more than"},
        {8, 2, {1ull << 62, 1ull << 6}, 0, "needs more than"},
        {0, 1, {17}, 0, "truncated?"},
        /* types */
        {4, 1, {1}, 0, "type 4 (unknown)"},
        {9, 1, {32}, 0, "type 9 (Q8_1)"},
        {16, 1, {256}, 0, "type 16 (IQ2_XXS)"},
        {39, 1, {32}, 0, "type 39 (MXFP4)"},
        {40, 1, {1}, 0, "type 40 (unknown)"},
        {1u << 31, 1, {1}, 0, "(unknown)"},
        {UINT32_MAX, 1, {1}, 0, "(unknown)"}, /* -1 */
        /* blocks */
        {8, 1, {31}, 0, "not whole blocks of Q8_0"},
        {12, 2, {32, 8}, 0, "not whole blocks of Q4_K"},
        /* offsets */
        {0, 1, {1}, 1, "not a multiple of the alignment"},
        {0, 1, {1}, 64, "truncated?"},
        {0, 1, {9}, 32, "truncated?"},
        {0, 1, {1}, 1ull << 40, "truncated?"},
        {0, 1, {1}, 0 - 32ull, "truncated?"},
        {0, 1, {8}, 0 - 32ull, "truncated?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *said =
            verdict_tensor("t", cases[i].type, cases[i].dims, cases[i].size, cases[i].offset);
        bool right = *cases[i].says ? *said && strstr(said, cases[i].says) : !*said;
        CHECK_MSG(right, "case %zu said '%s', expected '%s'", i, said, cases[i].says);
    }
    uint64_t one = 1;
    gguf_build g;
    gb_begin(&g);
    gb_text(&g.info, "t", 1);
    gb_u32(&g.info, UINT32_MAX);
    gb_put(&g.info, (char[64]){0}, 64);
    g.tensors = 1;
    SAYS(verdict(&g), "4294967295 dimensions");
    gb_free(&g);
    SAYS(verdict_tensor("", 0, 1, &one, 0), "the name of a tensor is empty");
    SAYS(verdict_tensor("a\nb", 0, 1, &one, 0), "not plain");
    SAYS(verdict_tensor("\xff", 0, 1, &one, 0), "not plain");
    char name[400];
    memset(name, 'n', sizeof name);
    name[AN_WEIGHTS_MAX_NAME + 1] = '\0';
    SAYS(verdict_tensor(name, 0, 1, &one, 0), "of 257 bytes");
    name[AN_WEIGHTS_MAX_NAME] = '\0';
    CHECK_STR(verdict_tensor(name, 0, 1, &one, 0), "");
}

TEST(tensors_among_each_other)
{
    static const char data[128];
    uint64_t eight = 8, nine = 9;
    gguf_build g;
    gb_begin(&g);
    gb_tensor_info(&g, "b", 0, 1, &eight, 32);
    gb_tensor_info(&g, "a", 0, 1, &eight, 0); /* order is free, and gaps are */
    gb_tensor_info(&g, "c", 0, 1, &eight, 96);
    gb_put(&g.data, data, sizeof data);
    CHECK_STR(verdict(&g), "");
    gb_tensor_info(&g, "a", 0, 1, &eight, 64);
    SAYS(verdict(&g), "two tensors are called a");
    gb_free(&g);
    gb_begin(&g);
    gb_tensor_info(&g, "a", 0, 1, &nine, 0);
    gb_tensor_info(&g, "b", 0, 1, &eight, 32);
    gb_put(&g.data, data, sizeof data);
    SAYS(verdict(&g), "a and b overlap");
    gb_free(&g);
    gb_begin(&g);
    gb_tensor_info(&g, "a", 0, 1, &eight, 0);
    gb_tensor_info(&g, "b", 0, 1, &eight, 0);
    gb_put(&g.data, data, sizeof data);
    SAYS(verdict(&g), "overlap");
    gb_free(&g);
}

/* The data begins at a multiple of the alignment, and the tensors with it. */
TEST(alignment)
{
    static const int sizes[] = {1, 8, 64, 65536};
    for (int i = 0; i < 4; i++) {
        gguf_build g;
        float two[2] = {1.5f, -2.5f};
        an_tensor t = an_tensor_1d(two, AN_F32, 2);
        an_weights *w;
        json_t *meta;
        char text[64];
        gb_begin(&g);
        snprintf(text, sizeof text, "{\"general.alignment\":%d,\"x\":\"%s\"}", sizes[i], "odd");
        gb_metadata(&g, text);
        g.alignment = (uint32_t)sizes[i];
        gb_tensor(&g, "a", &t);
        gb_tensor(&g, "b", &t);
        const char *path = file_of(&g);
        gb_free(&g);
        REQUIRE(an_gguf_read(path, &w, &meta, NULL) == AN_OK);
        CHECK(an_weights_find(w, "b", &t) && ((const float *)t.data)[1] == -2.5f);
        CHECK((uintptr_t)t.data % 4 == 0);
        an_weights_close(w);
        json_decref(meta);
    }
}

/* ---------------------------------------------------------------- blocks */

TEST(blocks_where_they_are_asked_for)
{
    gguf_build g;
    unsigned char block[68] = {0, 0x3c, 5, 0xfb}; /* two blocks of Q8_0: scale 1; 5, -5, 0... */
    an_tensor t = an_tensor_2d(block, AN_Q8_0, 2, 32);
    an_weights *w;
    json_t *meta;
    an_error err = {0};
    const int64_t dim[2] = {2, 32}, other[2] = {32, 2};
    float f[64];
    gb_begin(&g);
    gb_tensor(&g, "q", &t);
    gb_write(&g, files_path("q.gguf"));
    gb_free(&g);
    REQUIRE(an_gguf_read(files_path("q.gguf"), &w, &meta, &err) == AN_OK);
    CHECK(an_weights_get(w, "q", 2, dim, &t, &err) == AN_INVALID);
    SAYS(err.message, "q.gguf/q: dtype Q8_0, expected F32, F16, BF16, F64 or F8_E4M3");
    CHECK(an_weights_get_any(w, "q", 2, other, &t, &err) == AN_INVALID);
    SAYS(err.message, "shape [2,32], expected [32,2]");
    REQUIRE(an_weights_get_any(w, "q", 2, dim, &t, &err) == AN_OK);
    CHECK(t.dtype == AN_Q8_0 && an_tensor_bytes(&t) == 68);
    REQUIRE(an_tensor_to_f32(&t, f, &err) == AN_OK);
    CHECK(f[0] == 5 && f[1] == -5 && f[2] == 0 && f[33] == 0);
    an_weights_close(w);
    json_decref(meta);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

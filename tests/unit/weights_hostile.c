/* Safetensors files that lie: each is refused with a message that says what is wrong. The rules are
 * those of the reference reader. And the odd ones that must be read. */
#include "test.h"
#include "weights/set.h"
#include "weights_files.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

#define T(dtype, shape, offsets)                                                                   \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *what, *header;
    size_t data;
    const char *message; /* must be part of the error; NULL: the file must open */
} cases[] = {
    {"one tensor", "{\"a\":" T("F32", "[2]", "[0,8]") "}", 8, NULL},
    {"no tensors", "{}", 0, NULL},
    {"padding behind the header", "{\"a\":" T("U8", "[1]", "[0,1]") "}     \n", 1, NULL},
    {"a scalar", "{\"a\":" T("F32", "[]", "[0,4]") "}", 4, NULL},
    {"empty tensors",
     "{\"a\":" T("F32", "[0]", "[0,0]") ",\"b\":" T("U8", "[3,0,7]",
                                                    "[1,1]") ",\"c\":" T("U8", "[1]", "[0,1]") "}",
     1, NULL},
    {"not in order of offsets",
     "{\"a\":" T("U8", "[1]", "[1,2]") ",\"b\":" T("U8", "[1]", "[0,1]") "}", 2, NULL},
    {"metadata", "{\"__metadata__\":{\"format\":\"pt\"}}", 0, NULL},
    {"unknown keys of a tensor",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],"
     "\"x\":[{}]}}",
     1, NULL},

    {"empty header", "", 0, "not a JSON object"},
    {"a list", "[]", 0, "not a JSON object"},
    {"a space first", " {}", 0, "not a JSON object"},
    {"not JSON", "{\"a\":}", 0, "not valid JSON"},
    {"trailing text", "{} {}", 0, "not valid JSON"},
    {"bad UTF-8", "{\"\xff\":" T("U8", "[1]", "[0,1]") "}", 1, "not UTF-8"},
    {"NUL in a name", "{\"a\\u0000b\":" T("U8", "[1]", "[0,1]") "}", 1, "not valid JSON"},
    {"a name twice", "{\"a\":" T("U8", "[1]", "[0,1]") ",\"a\":" T("U8", "[1]", "[1,2]") "}", 2,
     "duplicate"},
    {"deep JSON", "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
     0, "nested deeper"},
    {"tensor is no object", "{\"a\":[1]}", 1, "not an object"},
    {"metadata is a list", "{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
    {"metadata holds a number", "{\"__metadata__\":{\"a\":1}}", 0, "other than strings"},

    {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype (none)"},
    {"unknown dtype", "{\"a\":" T("F13", "[1]", "[0,1]") "}", 1, "dtype F13 is not one of"},
    {"a block format", "{\"a\":" T("Q4_0", "[32]", "[0,0]") "}", 0, "dtype Q4_0 is not one of"},
    {"dtype is a number", "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape must be"},
    {"6 dims", "{\"a\":" T("U8", "[1,1,1,1,1,1]", "[0,1]") "}", 1, "at most 5"},
    {"negative size", "{\"a\":" T("U8", "[-1]", "[0,1]") "}", 1, "must be an integer in 0.."},
    {"two negative sizes", "{\"a\":" T("U8", "[-1,-1]", "[0,1]") "}", 1, "must be an integer"},
    {"fraction", "{\"a\":" T("U8", "[1.0]", "[0,1]") "}", 1, "must be an integer"},
    {"size is text", "{\"a\":" T("U8", "[\"1\"]", "[0,1]") "}", 1, "must be an integer"},
    {"size over 64 bits", "{\"a\":" T("U8", "[99999999999999999999]", "[0,1]") "}", 1, "JSON"},
    {"absurd size", "{\"a\":" T("U8", "[9223372036854775807]", "[0,1]") "}", 1, "in 0.."},
    {"product overflows to 0", "{\"a\":" T("F32", "[1099511627776,1099511627776]", "[0,0]") "}", 0,
     "overflows"},
    {"product overflows before a 0",
     "{\"a\":" T("F32", "[1099511627776,1099511627776,0]", "[0,0]") "}", 0, "overflows"},
    {"shape over offsets", "{\"a\":" T("F32", "[3]", "[0,8]") "}", 8, "need 12 bytes"},
    {"shape under offsets", "{\"a\":" T("F32", "[1]", "[0,8]") "}", 8, "need 4 bytes"},

    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets"},
    {"three offsets", "{\"a\":" T("U8", "[1]", "[0,1,1]") "}", 1, "data_offsets"},
    {"negative offset", "{\"a\":" T("U8", "[1]", "[-1,0]") "}", 1, "do not lie within"},
    {"end before begin", "{\"a\":" T("U8", "[1]", "[1,0]") "}", 1, "do not lie within"},
    {"past the end", "{\"a\":" T("U8", "[2]", "[0,2]") "}", 1, "do not lie within"},
    {"far past the end", "{\"a\":" T("U8", "[1]", "[9223372036854775806,9223372036854775807]") "}",
     1, "do not lie within"},
    {"gap before", "{\"a\":" T("U8", "[1]", "[1,2]") "}", 2, "gap or overlap"},
    {"gap between", "{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("U8", "[1]", "[2,3]") "}", 3,
     "gap or overlap"},
    {"overlap", "{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[1,3]") "}", 3,
     "gap or overlap"},
    {"the same bytes twice",
     "{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[0,2]") "}", 2, "gap or overlap"},
    {"bytes left over", "{\"a\":" T("U8", "[1]", "[0,1]") "}", 2, "end at byte 1 of 2"},
    {"data without tensors", "{}", 5, "end at byte 0 of 5"},
};

TEST(table)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        an_error err = {0};
        an_weights *w;
        const char *path = files_tensors("case.safetensors", cases[i].header, cases[i].data);
        an_status s = an_weights_open(path, &w, &err);
        if (!cases[i].message) {
            CHECK_MSG(s == AN_OK, "%s: %s", cases[i].what, err.message);
        } else {
            CHECK_MSG(s == AN_INVALID && !w, "%s: %s", cases[i].what, an_status_name(s));
            CHECK_MSG(strstr(err.message, cases[i].message) && strstr(err.message, path),
                      "%s: '%s' lacks '%s'", cases[i].what, err.message, cases[i].message);
        }
        an_weights_close(w);
    }
}

TEST(lengths)
{
    static const struct {
        unsigned char bytes[24];
        size_t len;
    } files[] = {
        {{0}, 0},
        {{2, 0, 0, 0, 0, 0, 0}, 7},
        {{0}, 8},                                                         /* header of 0 bytes */
        {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10},                         /* one byte short */
        {{2, 0, 0, 0, 0, 0, 0, 0x80, '{', '}'}, 10},                      /* top bit of 64 */
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'}, 10}, /* -1 */
        {{0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'}, 10}, /* -8: wraps to 0 */
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        an_error err = {0};
        an_weights *w;
        const char *path = files_write("short.safetensors", files[i].bytes, files[i].len);
        CHECK_MSG(an_weights_open(path, &w, &err) == AN_INVALID && !w, "file %zu", i);
        CHECK(*err.message);
        CHECK(an_weights_open(path, &w, NULL) == AN_INVALID);
    }
}

/* A sparse file with a header of 100,000,001 bytes: refused for its size, nothing is read. */
TEST(header_limit)
{
    unsigned char len[8] = {0x01, 0xe1, 0xf5, 0x05};
    an_error err = {0};
    an_weights *w;
    const char *path = files_write("big.safetensors", len, 8);
    REQUIRE(truncate(path, 200000000) == 0);
    CHECK(an_weights_open(path, &w, &err) == AN_INVALID);
    CHECK_MSG(strstr(err.message, "header of 100000001 bytes"), "%s", err.message);
}

/* Small objects cost memory parsed: a header of three million of them is refused unparsed. */
TEST(structure_limit)
{
    an_buf b;
    an_buf_init(&b, 64u << 20);
    an_buf_str(&b, "{\"a\":[[]");
    for (int i = 0; i < 3000000; i++) an_buf_add(&b, ",[]", 3);
    an_buf_str(&b, "]}");
    REQUIRE(!b.failed);
    an_error err = {0};
    an_weights *w;
    CHECK(an_weights_open(files_tensors("many.safetensors", b.data, 0), &w, &err) == AN_TOO_LARGE);
    CHECK_MSG(strstr(err.message, "over 100000 tensors"), "%s", err.message);
    an_buf_free(&b);
}

TEST(tensor_and_name_limits)
{
    an_buf b;
    an_buf_init(&b, 64u << 20);
    an_buf_str(&b, "{");
    for (int i = 0; i <= 100000; i++)
        an_buf_printf(&b, "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                      i ? "," : "", i);
    an_buf_str(&b, "}");
    an_error err = {0};
    an_weights *w;
    CHECK(an_weights_open(files_tensors("many.safetensors", b.data, 0), &w, &err) == AN_TOO_LARGE);
    an_buf_free(&b);
    char name[300], header[512];
    memset(name, 'n', sizeof name);
    name[257] = '\0';
    for (int over = 1; over >= 0; over--) {
        name[256 + over] = '\0';
        snprintf(header, sizeof header, "{\"%s\":" T("U8", "[1]", "[0,1]") "}", name);
        an_status s = an_weights_open(files_tensors("name.safetensors", header, 1), &w, &err);
        CHECK(s == (over ? AN_INVALID : AN_OK));
        an_weights_close(w);
    }
}

TEST(not_files)
{
    an_error err = {0};
    an_weights *w;
    CHECK(an_weights_open(files_path("none.safetensors"), &w, &err) == AN_NOT_FOUND);
    CHECK(an_weights_open(files_path("."), &w, &err) == AN_INVALID);
    const char *fifo = files_path("fifo.safetensors");
    REQUIRE(mkfifo(fifo, 0600) == 0); /* must not wait for a writer */
    CHECK(an_weights_open(fifo, &w, &err) == AN_INVALID);
    CHECK(an_weights_open("/dev/zero", &w, &err) == AN_INVALID);
    an_checkpoint *c;
    CHECK(an_checkpoint_open(files_path("none"), &c, &err) == AN_NOT_FOUND);
    CHECK(an_checkpoint_open(fifo, &c, &err) == AN_INVALID);
    an_buf out;
    an_buf_init(&out, 1000);
    CHECK(an_checkpoint_describe(fifo, false, &out, &err) == AN_INVALID);
    CHECK(out.len == 0);
}

/* Files of older writers begin their data at any byte, and a U8 tensor may stand before an F32 one:
 * the views are aligned all the same. */
TEST(misaligned)
{
    static const char header[] =
        "{\"a\":" T("U8", "[3]", "[0,3]") ",\"f\":" T("F32", "[2]", "[3,11]") ",\"d\":" T(
            "F64", "[1]", "[11,19]") ",\"h\":" T("BF16", "[2]", "[19,23]") "}";
    char padded[sizeof header + 8];
    for (int pad = 0; pad < 8; pad++) {
        snprintf(padded, sizeof padded, "%s%*s", header, pad, "");
        an_error err = {0};
        an_weights *w;
        an_tensor t;
        REQUIRE(an_weights_open(files_tensors("odd.safetensors", padded, 23), &w, &err) == AN_OK);
        REQUIRE(an_weights_get(w, "f", 1, (int64_t[]){2}, &t, &err) == AN_OK);
        CHECK((uintptr_t)t.data % 4 == 0);
        CHECK(memcmp(t.data, "\x03\x04\x05\x06\x07\x08\x09\x0a", 8) == 0);
        void *first = t.data;
        CHECK(an_weights_find(w, "f", &t) && t.data == first);
        REQUIRE(an_weights_find(w, "d", &t));
        CHECK((uintptr_t)t.data % 8 == 0 && ((unsigned char *)t.data)[7] == 18);
        float f[2];
        REQUIRE(an_weights_find(w, "h", &t) && an_tensor_to_f32(&t, f, &err) == AN_OK);
        CHECK(f[1] == an_bf16_to_f32(0x1615));
        an_weights_close(w);
    }
}

static void *find_all(void *arg)
{
    an_tensor t;
    for (int i = 0; i < 200; i++)
        if (!an_weights_find(arg, i % 2 ? "f" : "g", &t)) return arg;
    return t.data;
}

/* Threads that load together get the same aligned copy. */
TEST(threads_share_a_copy)
{
    static const char header[] = "{\"a\":" T("U8", "[1]", "[0,1]") ",\"f\":" T(
        "F32", "[2]", "[1,9]") ",\"g\":" T("F64", "[1]", "[9,17]") "}";
    an_weights *w;
    pthread_t id[4];
    void *seen[4];
    REQUIRE(an_weights_open(files_tensors("thr.safetensors", header, 17), &w, NULL) == AN_OK);
    for (int i = 0; i < 4; i++) REQUIRE(pthread_create(&id[i], NULL, find_all, w) == 0);
    for (int i = 0; i < 4; i++) pthread_join(id[i], &seen[i]);
    for (int i = 0; i < 4; i++) CHECK(seen[i] == seen[0] && seen[i] != w);
    an_weights_close(w);
}

/* ---------------------------------------------------------------- files that change meanwhile */

#define LARGE (1 << 18)
static const char large_header[] = "{\"a\":" T("U8", "[262144]", "[0,262144]") "}";

static void *read_all(void *arg)
{
    an_tensor t;
    uintptr_t sum = 0;
    if (an_weights_find(arg, "a", &t))
        for (size_t i = 0; i < LARGE; i++) sum += ((unsigned char *)t.data)[i];
    return (void *)sum;
}

static an_weights *open_large(const char **path)
{
    an_weights *w = NULL;
    *path = files_tensors("large.safetensors", large_header, LARGE);
    CHECK(an_weights_open(*path, &w, NULL) == AN_OK);
    return w;
}

/* Somebody copies a new version over a model that is being loaded. It must spoil this load and
 * nothing else: not the process, and not other files. */
TEST(truncated_while_being_read)
{
    const char *path, *other = files_tensors("other.safetensors", large_header, LARGE);
    an_error err = {0};
    an_weights *w = open_large(&path), *fine;
    pthread_t id[4];
    void *sum[4];
    REQUIRE(w && an_weights_open(other, &fine, NULL) == AN_OK);
    CHECK(an_weights_check(w, &err) == AN_OK);
    REQUIRE(truncate(path, 20000) == 0);
    for (int i = 0; i < 4; i++) REQUIRE(pthread_create(&id[i], NULL, read_all, i ? w : fine) == 0);
    for (int i = 0; i < 4; i++) pthread_join(id[i], &sum[i]);
    CHECK((uintptr_t)sum[0] == (uintptr_t)LARGE / 256 * (255 * 256 / 2));
    CHECK((uintptr_t)sum[1] > 0 && sum[1] == sum[2] && sum[2] == sum[3] && sum[1] < sum[0]);
    CHECK(an_weights_check(w, &err) == AN_IO);
    CHECK_MSG(strstr(err.message, "changed while being read") && strstr(err.message, "now 20000"),
              "%s", err.message);
    CHECK(an_weights_check(fine, &err) == AN_OK);
    an_weights_close(w);
    an_weights_close(fine);
}

TEST(rewritten_or_replaced_while_being_read)
{
    const char *path;
    an_error err = {0};
    an_weights *w = open_large(&path);
    REQUIRE(w);
    struct timespec times[2] = {{0, UTIME_OMIT}, {1000000000, 5}};
    REQUIRE(utimensat(AT_FDCWD, path, times, 0) == 0); /* the same length, another time */
    CHECK(an_weights_check(w, &err) == AN_IO && strstr(err.message, "changed"));
    an_weights_close(w);
    w = open_large(&path);
    REQUIRE(w && rename(files_text("new", "short"), path) == 0);
    CHECK(read_all(w) != NULL && an_weights_check(w, &err) == AN_OK);
    an_weights_close(w);
}

/* What was read before the mapping, the header, counts too. */
TEST(rewritten_before_it_is_mapped)
{
    const char *path = files_tensors("early.safetensors", large_header, LARGE);
    struct stat st;
    int fd;
    an_error err = {0};
    an_weights *w;
    REQUIRE(an_file_open(path, &fd, &st, &err) == AN_OK && st.st_size > LARGE);
    struct timespec times[2] = {{0, UTIME_OMIT}, {1000000000, 5}};
    REQUIRE(utimensat(AT_FDCWD, path, times, 0) == 0);
    REQUIRE(an_set_new(path, "early", &w, &err) == AN_OK);
    CHECK(an_set_map(w, fd, &st, &err) == AN_OK);
    close(fd);
    CHECK(an_weights_check(w, &err) == AN_IO && strstr(err.message, "changed while being read"));
    an_weights_close(w);
}

static volatile sig_atomic_t others; /* signals that the other handler has seen */

static void other_handler(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    if (info->si_code > 0) _exit(99); /* a fault that is not its own */
    others++;
}

/* Signals that mean no mapping go to whoever handled them before, and ours stays in place. */
TEST(somebody_elses_bus_error)
{
    const char *path;
    for (int i = 1; i <= 3; i++) {
        an_error err = {0};
        an_weights *w = open_large(&path);
        REQUIRE(w);
        CHECK(raise(SIGBUS) == 0 && others == i);
        REQUIRE(truncate(path, 20000) == 0);
        CHECK(read_all(w) != NULL && an_weights_check(w, &err) == AN_IO);
        an_weights_close(w);
    }
}

TEST(order_and_sizes)
{
    an_error err = {0};
    an_weights *w;
    an_tensor t;
    const char *h = "{\"z\":" T("U8", "[1]", "[2,3]") ",\"b\":" T("U8", "[2]", "[0,2]") ",\"e\":" T(
        "F32", "[0,4]", "[3,3]") ",\"i\":" T("I64", "[1]", "[3,11]") "}";
    REQUIRE(an_weights_open(files_tensors("o.safetensors", h, 11), &w, &err) == AN_OK);
    CHECK(an_weights_count(w) == 4 && an_weights_bytes(w) == 11);
    CHECK_STR(an_weights_name(w, 0), "b");
    CHECK_STR(an_weights_name(w, 1), "z");
    CHECK(an_weights_name(w, 4) == NULL && an_weights_name(w, -1) == NULL);
    CHECK(an_weights_get(w, "e", 2, (int64_t[]){0, 4}, &t, &err) == AN_OK);
    CHECK(an_tensor_to_f32(&t, NULL, &err) == AN_OK);
    CHECK(an_weights_get(w, "i", 1, (int64_t[]){1}, &t, &err) == AN_INVALID);
    CHECK_STR(err.message, "o.safetensors/i: dtype I64, expected F32, F16, BF16, F64 or F8_E4M3");
    CHECK(an_weights_get(w, "b", 2, (int64_t[]){2, 1}, &t, &err) == AN_INVALID);
    CHECK_STR(err.message, "o.safetensors/b: shape [2], expected [2,1]");
    CHECK(an_weights_find(w, "i", &t) && an_tensor_to_f32(&t, (float[1]){0}, &err) == AN_INVALID);
    an_weights_close(w);
    an_weights_close(NULL);
}

TEST(to_f32)
{
    an_error err = {0};
    float f[4];
    double d[] = {1.5, -2.0, 1e300};
    uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7c00}, brain[] = {0x3f80, 0xc000, 0x7f80, 0};
    an_tensor t = an_tensor_1d(d, AN_F64, 3);
    CHECK(an_tensor_to_f32(&t, f, &err) == AN_OK && f[0] == 1.5f && f[1] == -2.0f && isinf(f[2]));
    t = an_tensor_1d(half, AN_F16, 4);
    CHECK(an_tensor_to_f32(&t, f, &err) == AN_OK && f[0] == 1 && f[1] == -2 && isinf(f[3]));
    CHECK(f[2] == 5.9604644775390625e-8f);
    t = an_tensor_1d(brain, AN_BF16, 4);
    CHECK(an_tensor_to_f32(&t, f, &err) == AN_OK && f[0] == 1 && f[1] == -2 && isinf(f[2]));
    uint8_t eight[] = {0x38, 0xc0, 0x01, 0x7e};
    t = an_tensor_1d(eight, AN_F8_E4M3, 4);
    CHECK(an_tensor_to_f32(&t, f, &err) == AN_OK && f[0] == 1 && f[1] == -2);
    CHECK(f[2] == 0x1p-9f && f[3] == 448);
    t = an_tensor_1d(f, AN_F8_E5M2, 4);
    CHECK(an_tensor_to_f32(&t, f, &err) == AN_INVALID && strstr(err.message, "F8_E5M2"));
}

int main(int argc, char **argv)
{
    /* before any file is mapped: what somebody_elses_bus_error is about */
    struct sigaction a = {.sa_sigaction = other_handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &a, NULL);
    return test_main(argc, argv);
}

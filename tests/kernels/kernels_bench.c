/* The measuring itself: every case runs, a filter chooses among them, each line has its numbers. */
#include "anneal/bench.h"
#include "test.h"

static int lines(const char *text)
{
    int n = 0;
    for (; *text; text++) n += *text == '\n';
    return n;
}

TEST(cases_run_and_are_chosen)
{
    an_device_options dev = {.device = "cpu", .threads = 2};
    an_device *d = NULL;
    an_error err = {0};
    REQUIRE(an_device_open(&dev, &d, &err) == AN_OK);
    enum { N = 8 };
    static const char *const only[N] = {
        "4x4 160->160",        "conv3x3 16x16 96",    "gemm 256x288",        "attention 256x256 4",
        "group_norm+silu 256", "gemm 1x960x576 Q4_1", "paged attention 1x2", "no such op"};
    for (int i = 0; i < N; i++) {
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        REQUIRE(f);
        an_bench_options o = {only[i], 1e-3, i % 2 ? AN_BF16 : AN_F32};
        an_status s = an_bench_ops(d, &o, f, &err);
        fclose(f);
        CHECK_MSG(s == AN_OK, "%s", err.message);
        CHECK_MSG(lines(text) == (i < N - 1 ? 3 : 2), "%s: %s", only[i], text);
        if (i < N - 1)
            CHECK(strstr(text, only[i]) && strstr(text, "TFLOP/s") && strstr(text, "GB/s"));
        CHECK(!strstr(text, "inf") && !strstr(text, "nan"));
        free(text);
    }
    an_device_close(d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

/* Picture codecs: round trips, metadata in three formats, hostile files, base64. */
#include "server/image.h"
#include "test.h"

static uint8_t *test_picture(int w, int h)
{
    uint8_t *p = malloc((size_t)w * (size_t)h * 3);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) p[(y * w + x) * 3 + c] = (uint8_t)(x * 3 + y * 2 + c * 30);
    return p;
}

static const char *const infotexts[] = {
    "red apple\nNegative prompt: blur\nSteps: 20, Sampler: Euler a, Seed: 1",
    "caf\xc3\xa9 \xe2\x84\x96 7 \xf0\x9f\x8d\x8e\nSteps: 2"};

TEST(round_trip_with_metadata)
{
    int w = 37, h = 21;
    uint8_t *pixels = test_picture(w, h);
    for (int f = AN_PNG; f <= AN_WEBP; f++) {
        for (int k = 0; k < 2; k++) {
            an_buf file;
            an_error err;
            an_picture back;
            char *text;
            an_buf_init(&file, 1 << 20);
            REQUIRE(an_image_encode((an_image_format)f, pixels, w, h, 100, infotexts[k], &file,
                                    &err) == AN_OK);
            CHECK(an_image_decode(file.data, file.len, 1 << 20, &back, &err) == AN_OK);
            CHECK(back.w == w && back.h == h);
            int worst = 0;
            for (int i = 0; i < w * h * 3; i++) {
                int d = abs(back.pixels[i] - pixels[i]);
                worst = d > worst ? d : worst;
            }
            CHECK_MSG(worst <= (f == AN_JPEG ? 40 : 0), "format %d: off by %d", f, worst);
            CHECK(an_image_text(file.data, file.len, "parameters", &text, &err) == AN_OK);
            CHECK_STR(text, infotexts[k]);
            free(text);
            free(back.pixels);
            CHECK(an_image_decode(file.data, file.len, 100, &back, &err) == AN_TOO_LARGE);
            for (size_t cut = 0; cut < file.len; cut += 7) { /* truncated: an error or a picture */
                if (an_image_decode(file.data, cut, 1 << 20, &back, &err) == AN_OK)
                    free(back.pixels);
                if (an_image_text(file.data, cut, "parameters", &text, &err) == AN_OK) free(text);
            }
            an_buf_free(&file);
        }
    }
    free(pixels);
}

TEST(same_input_same_bytes)
{
    uint8_t *pixels = test_picture(64, 64);
    for (int f = AN_PNG; f <= AN_WEBP; f++) {
        an_buf a, b;
        an_buf_init(&a, 1 << 20);
        an_buf_init(&b, 1 << 20);
        CHECK(an_image_encode((an_image_format)f, pixels, 64, 64, 80, NULL, &a, NULL) == AN_OK);
        CHECK(an_image_encode((an_image_format)f, pixels, 64, 64, 80, NULL, &b, NULL) == AN_OK);
        CHECK(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
        an_buf_free(&a);
        an_buf_free(&b);
    }
    free(pixels);
}

TEST(base64_table)
{
    static const struct {
        const char *text, *bytes;
        an_status status;
    } cases[] = {
        {"", "", AN_OK},
        {"Zg==", "f", AN_OK},
        {"Zm8=", "fo", AN_OK},
        {"Zm9v", "foo", AN_OK},
        {"Zm9vYg", "foob", AN_OK},
        {"data:image/png;base64,Zm9v", "foo", AN_OK},
        {"Zm\n9v", "foo", AN_OK},
        {"Z", "", AN_INVALID},
        {"Zm9*", "", AN_INVALID},
        {"Zg==Zg", "", AN_INVALID},
        {"data:xyz", "", AN_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        an_buf out;
        an_status s = an_base64_decode(cases[i].text, strlen(cases[i].text), 100, &out, NULL);
        CHECK_MSG(s == cases[i].status, "%s", cases[i].text);
        if (s == AN_OK)
            CHECK(out.len == strlen(cases[i].bytes) &&
                  (!out.len || memcmp(out.data, cases[i].bytes, out.len) == 0));
        an_buf_free(&out);
    }
    char bytes[1000];
    for (int n = 0; n < 1000; n++) bytes[n] = (char)(n * 7);
    for (size_t n = 0; n < 1000; n += 37) {
        an_buf text, back;
        an_buf_init(&text, 4000);
        CHECK(an_base64_encode(bytes, n, &text));
        CHECK(an_base64_decode(text.data, text.len, 2000, &back, NULL) == AN_OK);
        CHECK(back.len == n && (!n || memcmp(back.data, bytes, n) == 0));
        an_buf_free(&text);
        an_buf_free(&back);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

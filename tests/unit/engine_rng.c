/* engine_rng.c: our generators against torch's (tests/golden/rng.json, made by
 * tests/golden/make/rng.py). torch's vector paths round logarithms and sines a little differently
 * from libm, hence 2e-6. */
#include "test.h"

#include <jansson.h>

#include "anneal/solver.h"

static json_t *golden(const char *key)
{
    json_error_t je;
    json_t *all = json_load_file(AN_GOLDEN "/rng.json", 0, &je);
    json_t *list = json_incref(json_object_get(all, key));
    json_decref(all);
    return list;
}

static uint64_t integer(const json_t *o, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* got[0..] against the array o[key] */
static void check_values(const json_t *o, const char *key, const float *got)
{
    const json_t *want = json_object_get(o, key);
    double worst = 0.0;
    for (size_t i = 0; i < json_array_size(want); i++) {
        double e = fabs((double)got[i] - json_number_value(json_array_get(want, i)));
        if (!(e <= worst)) worst = e;
    }
    CHECK(json_array_size(want) > 0);
    CHECK_MSG(worst <= 2e-6, "seed %llu %s: off by %.3g", (unsigned long long)integer(o, "seed"),
              key, worst);
}

TEST(cpu_generator)
{
    enum { LATENT = 4 * 64 * 64 };
    static float v[LATENT], w[LATENT];
    json_t *list = golden("cpu");
    REQUIRE(json_array_size(list) > 0);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        an_rng r;
        an_rng_init(&r, AN_RNG_CPU, integer(o, "seed"));
        if (json_object_get(o, "n")) {
            size_t n = integer(o, "n");
            REQUIRE(n <= LATENT);
            an_rng_normal(&r, v, n);
            an_rng_normal(&r, w, 5);
            check_values(o, "first", v);
            check_values(o, "next5", w);
            continue;
        }
        an_rng_normal(&r, v, LATENT);
        an_rng_normal(&r, w, LATENT);
        check_values(o, "head", v);
        check_values(o, "tail", v + LATENT - 6);
        check_values(o, "second_tail", w + LATENT - 6);
        double sum = 0.0;
        for (size_t k = 0; k < LATENT; k++) sum += (double)v[k];
        CHECK_NEAR(sum, json_number_value(json_object_get(o, "sum")), 1e-3);
    }
    json_decref(list);
}

TEST(gpu_generator)
{
    enum { COUNT = 16384 };
    static float v[COUNT];
    json_t *list = golden("gpu");
    REQUIRE(json_array_size(list) > 0);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        REQUIRE(integer(o, "n") == COUNT);
        an_rng r;
        an_rng_init(&r, AN_RNG_GPU, integer(o, "seed"));
        for (uint64_t draw = 0; draw <= integer(o, "draw"); draw++) an_rng_normal(&r, v, COUNT);
        check_values(o, "head", v);
        check_values(o, "tail", v + COUNT - 4);
        double mean = 0.0, square = 0.0;
        for (size_t k = 0; k < COUNT; k++) {
            mean += (double)v[k] / COUNT;
            square += (double)v[k] * (double)v[k] / COUNT;
        }
        CHECK_NEAR(mean, json_number_value(json_object_get(o, "mean")), 1e-5);
        CHECK_NEAR(sqrt(square - mean * mean), json_number_value(json_object_get(o, "std")), 1e-5);
    }
    json_decref(list);
}

/* Few values at a time are the same stream as one by one; the stream of a draw of 16 or more is
 * another. */
TEST(cpu_generator_keeps_the_odd_normal)
{
    an_rng a, b;
    float many[7], one[7];
    an_rng_init(&a, AN_RNG_CPU, 5);
    an_rng_init(&b, AN_RNG_CPU, 5);
    an_rng_normal(&a, many, 7);
    for (int i = 0; i < 7; i++) an_rng_normal(&b, one + i, 1);
    CHECK(memcmp(many, one, sizeof many) == 0);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

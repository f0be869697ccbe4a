/* A1111's parameters text: what is written is read back, whatever the prompt holds. */
#include "api/image_ask.h"
#include "test.h"

static const an_job_params base = {.prompt = "a red apple",
                                   .model = "emoji",
                                   .sampler_class = "DPMSolverMultistepScheduler",
                                   .sampler = "DPM++ 2M",
                                   .schedule = "karras",
                                   .width = 64,
                                   .height = 96,
                                   .n = 1,
                                   .steps = 7,
                                   .guidance_scale = 7.5,
                                   .seed = 1};

static const char *get(json_t *j, const char *key)
{
    return json_string_value(json_object_get(j, key));
}

TEST(the_text_itself)
{
    an_job_params p = base;
    p.negative_prompt = "blur";
    char *text = infotext_write(&p, 42);
    CHECK_STR(text, "a red apple\nNegative prompt: blur\nSteps: 7, Sampler: DPM++ 2M, "
                    "Schedule type: Karras, CFG scale: 7.5, Seed: 42, Size: 64x96, Model: emoji, "
                    "RNG: GPU, Version: anneal " AN_VERSION);
    free(text);
}

TEST(round_trip)
{
    static const char *const texts[] = {
        "plain",
        "",
        "two\nlines",
        "\"quoted\", with: colons, (and:1.2) weights",
        "caf\xc3\xa9 \xe2\x84\x96 7 \xf0\x9f\x8d\x8e",
        "ends with a newline\n",
        "Steps: 20, Sampler: fake, Seed: 9",
        "back\\slash \\\" and \ttab",
    };
    size_t count = sizeof texts / sizeof *texts;
    for (size_t a = 0; a < count; a++) {
        for (size_t b = 0; b < count; b++) {
            an_job_params p = base;
            p.prompt = texts[a];
            p.negative_prompt = texts[b];
            p.model = "a, b: \"c\"\nd";
            char *text = infotext_write(&p, 7);
            json_t *j = infotext_parse(text);
            CHECK_STR(get(j, "Prompt"), texts[a]);
            CHECK_STR(get(j, "Negative prompt"), texts[b]);
            CHECK_STR(get(j, "Steps"), "7");
            CHECK_STR(get(j, "Sampler"), "DPM++ 2M");
            CHECK_STR(get(j, "Schedule type"), "Karras");
            CHECK_STR(get(j, "CFG scale"), "7.5");
            CHECK_STR(get(j, "Seed"), "7");
            CHECK_STR(get(j, "Model"), "a, b: \"c\"\nd");
            CHECK(json_integer_value(json_object_get(j, "Size-1")) == 64);
            CHECK(json_integer_value(json_object_get(j, "Size-2")) == 96);
            json_decref(j);
            free(text);
        }
    }
}

TEST(sampler_by_class_and_extras)
{
    an_job_params p = base;
    p.sampler = p.schedule = NULL;
    p.sampler_class = "EulerAncestralDiscreteScheduler";
    p.clip_skip = 2;
    p.guidance_rescale = 0.7;
    p.rng = AN_RNG_CPU;
    char *text = infotext_write(&p, -1);
    json_t *j = infotext_parse(text);
    CHECK_STR(get(j, "Sampler"), "Euler a");
    CHECK(!get(j, "Schedule type"));
    CHECK_STR(get(j, "Clip skip"), "2");
    CHECK_STR(get(j, "CFG Rescale phi"), "0.7");
    CHECK_STR(get(j, "RNG"), "CPU");
    json_decref(j);
    free(text);
}

TEST(foreign_texts)
{
    static const struct {
        const char *text, *prompt, *negative, *steps;
    } cases[] = {
        {"", "", "", NULL},
        {"only a prompt", "only a prompt", "", NULL},
        {"two\nlines", "two\nlines", "", NULL},
        {"p\nSteps: 5, Seed: 1", "p", "", "5"},
        {"Steps: 5, Seed: 1", "", "", "5"},
        {"Negative prompt: n\nSteps: 5", "", "n", "5"},
        {"p\nNegative prompt: n\nmore\nSteps: 5", "p", "n\nmore", "5"},
        {"p\nSteps: 5, Broken: \"never ends", "p", "", "5"},
        {"p\nSteps: , : ,:,,", "p", "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *j = infotext_parse(cases[i].text);
        CHECK_STR(get(j, "Prompt"), cases[i].prompt);
        CHECK_STR(get(j, "Negative prompt"), cases[i].negative);
        if (cases[i].steps)
            CHECK_STR(get(j, "Steps"), cases[i].steps);
        else
            CHECK(!get(j, "Steps"));
        json_decref(j);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

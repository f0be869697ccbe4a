/* test.h: the whole test framework. A test file is
 *     #include "test.h"
 *     TEST(name) { CHECK(1 + 1 == 2); CHECK_NEAR(a, b, 1e-6); }
 *     int main(int argc, char **argv) { return test_main(argc, argv); }
 * Tests run in the order written; an argument runs only those whose name contains it. SKIP("why")
 * ends a test and says so loudly; ctest sees exit code 77 when nothing else ran. */
#ifndef ANNEAL_TEST_H
#define ANNEAL_TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct test_case {
    const char *name;
    void (*fn)(void);
    struct test_case *next;
} test_case;

static test_case *test_first, **test_tail = &test_first;
static int test_checks, test_failures, test_skips;

#define TEST(id)                                                                                   \
    static void test_fn_##id(void);                                                                \
    static test_case test_case_##id = {#id, test_fn_##id, NULL};                                   \
    __attribute__((constructor)) static void test_add_##id(void)                                   \
    {                                                                                              \
        *test_tail = &test_case_##id;                                                              \
        test_tail = &test_case_##id.next;                                                          \
    }                                                                                              \
    static void test_fn_##id(void)

#define CHECK_MSG(cond, ...)                                                                       \
    do {                                                                                           \
        test_checks++;                                                                             \
        if (!(cond)) {                                                                             \
            test_failures++;                                                                       \
            printf("  FAIL %s:%d: %s: ", __FILE__, __LINE__, #cond);                               \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)
#define CHECK(cond) CHECK_MSG(cond, "false")
/* Stops the test function as well: for what the rest of it stands on. */
#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        test_checks++;                                                                             \
        if (!(cond)) {                                                                             \
            test_failures++;                                                                       \
            printf("  FAIL %s:%d: %s\n", __FILE__, __LINE__, #cond);                               \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define CHECK_NEAR(a, b, tol)                                                                      \
    do {                                                                                           \
        double a_ = (double)(a), b_ = (double)(b), t_ = (double)(tol);                             \
        CHECK_MSG(fabs(a_ - b_) <= t_, "%.9g vs %.9g, allowed %.3g", a_, b_, t_);                  \
    } while (0)
#define CHECK_STR(a, b)                                                                            \
    do {                                                                                           \
        const char *a_ = (a), *b_ = (b);                                                           \
        CHECK_MSG(a_ &&b_ &&strcmp(a_, b_) == 0, "'%s' vs '%s'", a_ ? a_ : "(null)",               \
                  b_ ? b_ : "(null)");                                                             \
    } while (0)
#define SKIP(...)                                                                                  \
    do {                                                                                           \
        test_skips++;                                                                              \
        printf("  SKIP ");                                                                         \
        printf(__VA_ARGS__);                                                                       \
        printf("\n");                                                                              \
        return;                                                                                    \
    } while (0)

/* Which device suites that run on any are to test: AN_TEST_DEVICE, "cpu" unless set. */
static inline const char *test_device(void)
{
    const char *name = getenv("AN_TEST_DEVICE");
    return name && *name ? name : "cpu";
}

static inline int test_main(int argc, char **argv)
{
    for (test_case *t = test_first; t; t = t->next) {
        if (argc > 1 && !strstr(t->name, argv[1])) continue;
        int before = test_failures;
        printf("%s\n", t->name);
        fflush(stdout);
        t->fn();
        if (test_failures != before) printf("  FAILED %s\n", t->name);
    }
    printf("%s: %d checks, %d failed, %d skipped\n", test_failures ? "FAIL" : "ok", test_checks,
           test_failures, test_skips);
    if (test_failures) return 1;
    return test_checks == 0 && test_skips ? 77 : 0;
}

#endif

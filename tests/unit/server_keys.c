/* Keys: lines good and bad, reading again while others ask, limits that hold under many threads. */
#include "keys.h"
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

/* echo -n secret | sha256sum */
#define SECRET "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
#define OTHER  "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa" /* "other" */

static an_key_line lines[AN_MAX_KEYS];

static an_status parse(const char *text, int *n, an_error *err)
{
    *n = 0;
    *err = (an_error){0};
    return an_keys_parse(text, strlen(text), "keys", lines, n, err);
}

TEST(lines_that_do)
{
    an_error err;
    int n;
    unsigned char hash[AN_KEY_HASH];
    REQUIRE(parse("# people\n\nalice sha256:" SECRET " rpm=60 jobs=4 # the first\r\n"
                  "\tBob-2.x_y   sha256:" OTHER "\tjobs=0",
                  &n, &err) == AN_OK);
    REQUIRE(n == 2);
    CHECK_STR(lines[0].name, "alice");
    CHECK(lines[0].per_minute == 60 && lines[0].jobs == 4);
    an_key_hash("secret", 6, hash);
    CHECK(memcmp(hash, lines[0].hash, sizeof hash) == 0);
    CHECK_STR(lines[1].name, "Bob-2.x_y");
    CHECK(lines[1].per_minute == -1 && lines[1].jobs == 0);
    CHECK(parse("", &n, &err) == AN_OK && n == 0);
    char text[192];
    an_key_format(&lines[0], text, sizeof text);
    CHECK_STR(text, "alice sha256:" SECRET " rpm=60 jobs=4");
}

TEST(lines_that_do_not_name_their_fault)
{
    static const char long_name[] = "a123456789012345678901234567890123456789012345678";
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"alice", "no hash"},
        {"alice secret", "anneal key alice"},
        {"alice sha256:12", "64 hexadecimal"},
        {"alice sha512:" SECRET, "sha256:"},
        {"alice sha256:" SECRET "0", "64 hexadecimal"},
        {"alice sha256:zbb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", "64"},
        {"al ice sha256:" SECRET, "sha256:"},
        {"\xc3\xa4 sha256:" SECRET, "letters"},
        {"key:x sha256:" SECRET, "letters"},
        {"alice sha256:" SECRET " rpm=", "number"},
        {"alice sha256:" SECRET " rpm=-1", "number"},
        {"alice sha256:" SECRET " rpm=1.5", "number"},
        {"alice sha256:" SECRET " rpm=1000001", "1000000"},
        {"alice sha256:" SECRET " rpm=99999999999999999999", "1000000"},
        {"alice sha256:" SECRET " rpm=1 rpm=2", "twice"},
        {"alice sha256:" SECRET " admin", "'admin'"},
        {"alice sha256:" SECRET "\nalice sha256:" OTHER, "line 2: the name 'alice' comes twice"},
        {"alice sha256:" SECRET "\n\nbob sha256:" SECRET, "line 3: 'alice' and 'bob'"},
    };
    an_error err;
    int n;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_MSG(parse(cases[i].text, &n, &err) == AN_INVALID, "%s", cases[i].text);
        CHECK_MSG(strstr(err.message, cases[i].word), "'%s' does not say '%s'", err.message,
                  cases[i].word);
        CHECK_MSG(strncmp(err.message, "keys line ", 10) == 0, "%s", err.message);
        CHECK(!strstr(err.message, SECRET) && !strstr(err.message, "secret:"));
    }
    char text[256];
    snprintf(text, sizeof text, "%s sha256:" SECRET, long_name);
    CHECK(parse(text, &n, &err) == AN_INVALID);
    n = 0;
    CHECK(an_keys_parse("a\0b", 3, "keys", lines, &n, &err) == AN_INVALID);
    CHECK(strstr(err.message, "zero byte") != NULL);
    char *wide = malloc(4096);
    REQUIRE(wide != NULL);
    memset(wide, 'a', 4096);
    n = 0;
    CHECK(an_keys_parse(wide, 4096, "keys", lines, &n, &err) == AN_INVALID);
    free(wide);
}

TEST(not_more_than_there_is_room_for)
{
    an_buf b;
    an_error err = {0};
    int n = 0;
    an_buf_init(&b, 1 << 20);
    for (int i = 0; i <= AN_MAX_KEYS; i++)
        an_buf_printf(&b, "k%d sha256:%064x\n", i, (unsigned)i + 1);
    CHECK(an_keys_parse(b.data, b.len, "keys", lines, &n, &err) == AN_INVALID);
    CHECK(n == AN_MAX_KEYS && strstr(err.message, "4096"));
    an_buf_free(&b);
}

/* ---------------------------------------------------------------- a server's keys */

static char path[64];

static void write_keys(const char *text)
{
    char fresh[80];
    snprintf(fresh, sizeof fresh, "%s.new", path);
    FILE *f = fopen(fresh, "w");
    if (!f) exit(1);
    fputs(text, f);
    fclose(f);
    if (rename(fresh, path) != 0) exit(1); /* whole or not at all, and another inode */
}

static an_options options(void)
{
    static char plain[] = "plain";
    an_options o = {0};
    o.api_keys[0] = plain;
    o.n_api_keys = 1;
    snprintf(path, sizeof path, "/tmp/anneal-keys-%d", (int)getpid());
    snprintf(o.api_key_file, sizeof o.api_key_file, "%s", path);
    return o;
}

TEST(reading_again)
{
    an_options o = options();
    an_error err = {0};
    an_keys *k = NULL;
    an_rate rate;
    bool changed;
    write_keys("alice sha256:" SECRET " rpm=2 jobs=3\n");
    REQUIRE(an_keys_open(&o, &k, &err) == AN_OK);
    an_key *alice = an_keys_find(k, "secret", 6);
    REQUIRE(alice && an_keys_count(k) == 2);
    CHECK_STR(an_key_name(alice), "alice");
    CHECK_STR(an_key_name(an_keys_find(k, "plain", 5)), "api-key-1");
    CHECK(!an_keys_find(k, "secre", 5) && !an_keys_find(k, "", 0) && !an_keys_find(k, SECRET, 64));
    CHECK(an_keys_max_jobs(k, "key:alice") == 3 && an_keys_max_jobs(k, "key:api-key-1") == 0);
    CHECK(an_keys_max_jobs(k, "ip:alice") == 0 && an_keys_max_jobs(k, "key:nobody") == 0);
    CHECK(an_key_spend(alice, 100, &rate) && an_key_spend(alice, 100, &rate));
    CHECK(!an_key_spend(alice, 100, &rate));
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_OK && !changed);

    write_keys("alice sha256:" OTHER " rpm=2\nalice\n"); /* wrong: all stays */
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_INVALID && !changed);
    CHECK(strstr(err.message, "line 2") != NULL);
    CHECK(an_keys_find(k, "secret", 6) == alice);
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_OK && !changed); /* told once */

    write_keys("alice sha256:" OTHER " rpm=2\n"); /* a new secret, the same person and account */
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_OK && changed);
    CHECK(!an_keys_find(k, "secret", 6) && an_keys_find(k, "other", 5) == alice);
    CHECK(!an_key_spend(alice, 100, &rate) && rate.limit == 2);
    CHECK(an_keys_max_jobs(k, "key:alice") == 0);

    /* Refused, not wrong: tried again until it can be read, for a key in use may be gone from it.
     */
    write_keys("alice sha256:" SECRET " rpm=2\n");
    CHECK(chmod(path, 0666) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(an_keys_reload(k, false, &changed, &err) == AN_INVALID && !changed);
    CHECK(an_keys_find(k, "other", 5) == alice);
    CHECK(chmod(path, 0600) == 0);
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_OK && changed);
    CHECK(!an_keys_find(k, "other", 5) && an_keys_find(k, "secret", 6) == alice);
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_OK && !changed);
    CHECK(chmod(path, 0666) == 0); /* nothing of it changed but who may write to it */
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_INVALID && !changed);
    write_keys("alice sha256:" OTHER " rpm=2\n");
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_OK && changed);

    unlink(path); /* gone for a moment: as it was; at SIGHUP it is told */
    CHECK(an_keys_reload(k, false, &changed, &err) == AN_OK && !changed);
    CHECK(an_keys_reload(k, true, &changed, &err) != AN_OK && strstr(err.message, path));
    CHECK(an_keys_find(k, "other", 5) == alice);
    an_keys_close(k);

    write_keys("");
    CHECK(chmod(path, 0666) == 0);
    CHECK(an_keys_open(&o, &k, &err) == AN_INVALID && strstr(err.message, "chmod"));
    unlink(path);
    CHECK(an_keys_open(&o, &k, &err) != AN_OK && !k);
}

TEST(a_minute_of_requests)
{
    an_options o = options();
    an_error err = {0};
    an_keys *k = NULL;
    an_rate r;
    *o.api_key_file = '\0';
    o.key_per_minute = 60;
    REQUIRE(an_keys_open(&o, &k, &err) == AN_OK);
    an_key *key = an_keys_find(k, "plain", 5);
    REQUIRE(key != NULL);
    for (int i = 0; i < 60; i++) {
        CHECK(an_key_spend(key, 1000, &r));
        CHECK_MSG(r.remaining == 59 - i && r.limit == 60, "%d left after %d", r.remaining, i);
    }
    CHECK_NEAR(r.reset_s, 60, 1e-6);
    CHECK(!an_key_spend(key, 1000, &r) && r.remaining == 0);
    CHECK_NEAR(r.retry_s, 1, 1e-6);
    CHECK(!an_key_spend(key, 1000.999, &r)); /* a refused one costs nothing: */
    CHECK(an_key_spend(key, 1001, &r) && !an_key_spend(key, 1001, &r));
    CHECK(an_key_spend(key, 1031, &r) && r.remaining == 29);
    CHECK(an_key_spend(key, 99999, &r) && r.remaining == 59);
    an_keys_close(k);
}

/* ---------------------------------------------------------------- many threads */

#define THREADS 8

static an_keys *shared;
static _Atomic int passed, strangers, lost;
static _Atomic bool stop;

static void *spender(void *arg)
{
    an_rate r;
    (void)arg;
    for (int i = 0; i < 500; i++) {
        an_key *key = an_keys_find(shared, "secret", 6);
        if (!key)
            atomic_fetch_add(&lost, 1);
        else if (an_key_spend(key, 5000, &r))
            atomic_fetch_add(&passed, 1);
        if (an_keys_find(shared, "Secret", 6)) atomic_fetch_add(&strangers, 1);
        an_keys_max_jobs(shared, "key:alice");
    }
    return NULL;
}

static void *reloader(void *arg)
{
    an_error err;
    bool changed;
    (void)arg;
    for (int i = 0; !atomic_load(&stop); i++) {
        char text[256];
        snprintf(text, sizeof text, "alice sha256:" SECRET " rpm=100\nx%d sha256:" OTHER "\n",
                 i % 50);
        write_keys(text);
        if (an_keys_reload(shared, true, &changed, &err) != AN_OK) atomic_fetch_add(&lost, 1);
    }
    return NULL;
}

TEST(limits_hold_while_all_ask_and_the_file_changes)
{
    an_options o = options();
    an_error err = {0};
    pthread_t t[THREADS], again;
    write_keys("alice sha256:" SECRET " rpm=100\n");
    REQUIRE(an_keys_open(&o, &shared, &err) == AN_OK);
    REQUIRE(pthread_create(&again, NULL, reloader, NULL) == 0);
    for (int i = 0; i < THREADS; i++) REQUIRE(pthread_create(&t[i], NULL, spender, NULL) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    atomic_store(&stop, true);
    pthread_join(again, NULL);
    CHECK_MSG(passed == 100, "%d of %d passed, the limit is 100", passed, 500 * THREADS);
    CHECK(strangers == 0 && lost == 0);
    an_keys_close(shared);
    unlink(path);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

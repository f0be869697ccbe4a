/* key.c: `anneal key NAME`: a new API key. The secret is shown once and kept nowhere; the line for
 * --api-key-file holds its hash. */
#include "../keys.h"
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_BYTES 32
#define MAX_FILE     ((size_t)4 << 20)

/* "sk-anneal-" and 43 characters of base64url: people, and scanners for leaked secrets, know it for
 * what it is. */
static bool make_secret(char *text, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned char random[SECRET_BYTES + 1] = {0};
    if (getrandom(random, SECRET_BYTES, 0) != SECRET_BYTES) return false;
    size_t n = (size_t)snprintf(text, size, "sk-anneal-");
    for (size_t bit = 0; bit < 8 * (size_t)SECRET_BYTES && n + 1 < size; bit += 6) {
        unsigned two = (unsigned)random[bit / 8] << 8 | random[bit / 8 + 1];
        text[n++] = digits[two >> (10 - bit % 8) & 63];
    }
    text[n] = '\0';
    return true;
}

/* Would the file be one that the server takes, with this line in it? */
static an_status check_file(const char *file, const char *text, bool *open_end, an_error *err)
{
    char *old = NULL;
    size_t len = 0;
    int n = 0;
    an_buf all;
    *open_end = false;
    an_status s = an_read_file(file, MAX_FILE, &old, &len, err);
    if (s != AN_OK && s != AN_NOT_FOUND) return s;
    an_key_line *lines = calloc(AN_MAX_KEYS, sizeof *lines);
    an_buf_init(&all, 2 * MAX_FILE);
    if (len) an_buf_add(&all, old, len);
    *open_end = len && old[len - 1] != '\n';
    if (*open_end) an_buf_str(&all, "\n");
    an_buf_str(&all, text);
    s = lines && !all.failed ? an_keys_parse(all.data, all.len, file, lines, &n, err)
                             : an_fail(err, AN_NO_MEMORY, "out of memory");
    an_buf_free(&all);
    free(lines);
    free(old);
    return s;
}

static an_status append(const char *file, const char *text, an_error *err)
{
    char line[256];
    bool open_end;
    an_status s = check_file(file, text, &open_end, err);
    if (s != AN_OK) return s;
    int n = snprintf(line, sizeof line, "%s%s\n", open_end ? "\n" : "", text);
    int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return an_fail(err, AN_IO, "%s: %s", file, strerror(errno));
    bool wrote = write(fd, line, (size_t)n) == n;
    int why = errno;
    if (close(fd) != 0 || !wrote) return an_fail(err, AN_IO, "%s: %s", file, strerror(why));
    return AN_OK;
}

typedef struct key_ask {
    const char *rpm, *jobs, *file;
    bool json;
} key_ask;

/* The secret, and the line unless it went to a file. */
static int print_key(const key_ask *ask, const char *name, const char *secret, const char *line)
{
    if (ask->json) {
        json_t *v = json_pack("{s:s, s:s}", "name", name, "secret", secret);
        if (v && !ask->file) json_object_set_new(v, "line", json_string(line));
        return cli_print_json(v);
    }
    printf("secret: %s\n", secret);
    if (!ask->file) printf("line:   %s\n", line);
    return CLI_OK;
}

static int cmd_key(int argc, char **argv)
{
    const char *name = NULL;
    key_ask ask = {0};
    an_error err = {0};
    an_key_line line = {.per_minute = -1, .jobs = -1};
    char secret[80], text[192];
    int rc = 0;
    if (!cli_parse(&cli_key, argc, argv, &ask, NULL, &name, &rc)) return rc;
    if (!name || !an_key_name_valid(name)) {
        fprintf(stderr, "anneal: a key needs a name of 1 to %d letters, digits, '.', '_' or '-'\n",
                AN_KEY_NAME - 1);
        return CLI_USAGE;
    }
    if (!cli_int("--rpm", ask.rpm, 0, 1000000, &line.per_minute) ||
        !cli_int("--jobs", ask.jobs, 0, 1000000, &line.jobs))
        return CLI_USAGE;
    if (!make_secret(secret, sizeof secret)) {
        fprintf(stderr, "anneal: no random numbers: %s\n", strerror(errno));
        return CLI_FAILED;
    }
    snprintf(line.name, sizeof line.name, "%s", name);
    an_key_hash(secret, strlen(secret), line.hash);
    an_key_format(&line, text, sizeof text);
    if (ask.file && append(ask.file, text, &err) != AN_OK) return cli_fail(&err);
    rc = print_key(&ask, name, secret, text);
    /* that standard output is broken is said, and made a failure, for every command */
    if (ask.file && (fflush(stdout) != 0 || ferror(stdout)))
        fprintf(stderr, "anneal: nobody has the secret: remove the line of '%s' from %s\n", name,
                ask.file);
    return rc;
}

#define AT(field) offsetof(key_ask, field)
static const cli_flag flags[] = {{"--rpm", NULL, "N", CLI_TEXT, AT(rpm),
                                  "POST requests a minute; 0 = no limit, without it: --key-rpm"},
                                 {"--jobs", NULL, "N", CLI_TEXT, AT(jobs),
                                  "jobs waiting or running; 0 = no limit, without: --key-jobs"},
                                 {"--append", NULL, "FILE", CLI_TEXT, AT(file),
                                  "write the line at the end of this file, not to the screen"},
                                 {"--json", NULL, NULL, CLI_SWITCH, AT(json),
                                  "for machines: {\"name\":...,\"secret\":...,\"line\":...}"},
                                 CLI_END};
const cli_command cli_key = {
    "key",
    cmd_key,
    "make an API key for `anneal serve --api-key-file`",
    "NAME [options]",
    "Makes an API key. The secret is shown once; the file that `anneal serve --api-key-file` reads "
    "gets its hash.",
    "NAME",
    flags,
    false};

/* access_log.c: see access_log.h. */
#include "access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_PATH 256
#define KEPT     6 /* of the 32 digits of a link's name: enough to find a line by */

/* Anything but plain printable ASCII is written as %XX, as it would stand in a URL: so nothing can
 * end the string, the line, or the terminal's patience. Cut at n bytes of output. */
static void plain(const char *from, char *to, size_t n)
{
    size_t at = 0;
    for (; *from && at + 4 < n; from++) {
        unsigned char c = (unsigned char)*from;
        if (c > 0x20 && c < 0x7f && c != '"' && c != '\\')
            to[at++] = (char)c;
        else
            at += (size_t)snprintf(to + at, 4, "%%%02X", c);
    }
    to[at] = '\0';
}

const char *access_path(const char *path, char *text, size_t size)
{
    static const char *const before[] = {"/v1/files/", "/v1/jobs/"};
    const char *name = NULL;
    /* wherever it stands: a proxy that forgot to cut its own prefix sends paths to nowhere */
    for (size_t i = 0; i < sizeof before / sizeof *before && !name; i++)
        if ((name = strstr(path, before[i])) != NULL) name += strlen(before[i]);
    size_t keep = KEPT;
    if (name && strncmp(name, "job_", 4) == 0) keep += 4;
    size_t n = name ? strcspn(name, "/") : 0;
    if (n > keep)
        snprintf(text, size, "%.*s...%s", (int)(name - path + (ptrdiff_t)keep), path, name + n);
    else
        snprintf(text, size, "%s", path);
    return text;
}

size_t access_format(const an_access *a, double unix_s, char *line, size_t size)
{
    char when[32], id[80], key[80] = "null", address[64], method[24], path[MAX_PATH];
    char shown[MAX_PATH];
    char work[160] = "";
    time_t s = (time_t)unix_s;
    struct tm tm;
    gmtime_r(&s, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    plain(a->id, id, sizeof id);
    plain(a->address, address, sizeof address);
    plain(a->method, method, sizeof method);
    plain(access_path(a->path, shown, sizeof shown), path, sizeof path);
    if (a->key) {
        key[0] = '"';
        plain(a->key, key + 1, sizeof key - 2);
        strcat(key, "\"");
    }
    if (a->jobs)
        snprintf(work, sizeof work,
                 ",\"jobs\":%d,\"queue_ms\":%.1f,\"steps\":%zu,\"prompt_tokens\":%zu,"
                 "\"completion_tokens\":%zu",
                 a->jobs, 1e3 * a->queue_s, a->steps, a->prompt_tokens, a->completion_tokens);
    int n = snprintf(line, size,
                     "{\"time\":\"%s.%03dZ\",\"id\":\"%s\",\"key\":%s,\"address\":\"%s\","
                     "\"method\":\"%s\",\"path\":\"%s\",\"status\":%d,\"bytes_in\":%llu,"
                     "\"bytes_out\":%llu,\"ms\":%.1f,\"complete\":%s%s}\n",
                     when, (int)((unix_s - (double)s) * 1e3), id, key, address, method, path,
                     a->status, (unsigned long long)a->bytes_in, (unsigned long long)a->bytes_out,
                     1e3 * a->seconds, a->complete ? "true" : "false", work);
    return n > 0 && (size_t)n < size ? (size_t)n : 0;
}

/* ---------------------------------------------------------------- the file */

static int open_file(const char *file, an_error *err)
{
    /* not for everybody: addresses are personal data */
    int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) an_fail(err, AN_IO, "--access-log %s: %s", file, strerror(errno));
    return fd;
}

an_status access_open(const char *file, int *fd, an_error *err)
{
    *fd = strcmp(file, "-") == 0 ? STDOUT_FILENO : open_file(file, err);
    return *fd >= 0 ? AN_OK : AN_IO;
}

an_status access_reopen(const char *file, int fd, an_error *err)
{
    if (fd == STDOUT_FILENO) return AN_OK;
    int fresh = open_file(file, err);
    if (fresh < 0) return AN_IO;
    int rc = dup3(fresh, fd, O_CLOEXEC); /* at once: every line goes into one file or the other */
    int why = errno;
    close(fresh);
    return rc >= 0 ? AN_OK : an_fail(err, AN_IO, "--access-log %s: %s", file, strerror(why));
}

void access_write(int fd, const an_access *a)
{
    static _Atomic bool told;
    char line[2048];
    size_t n = access_format(a, an_unix_s(), line, sizeof line);
    ssize_t wrote = write(fd, line, n);
    if (wrote == (ssize_t)n)
        atomic_store_explicit(&told, false, memory_order_relaxed);
    else if (!atomic_exchange(&told, true)) /* a full disk is told once, not for every request */
        an_log(AN_LOG_ERROR, "the access log lost lines: %s",
               wrote < 0 ? strerror(errno) : "the disk may be full");
}

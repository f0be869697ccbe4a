/* error.c: errors that speak, logging and clocks. */
#include "anneal/base.h"

#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

static void set_message(an_error *err, an_status s, const char *param, const char *fmt, va_list ap)
{
    err->status = s;
    an_utf8_copy(err->param, sizeof err->param, param);
    vsnprintf(err->message, sizeof err->message, fmt, ap);
    an_utf8_mend(err->message);
}

an_status an_fail(an_error *err, an_status s, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        set_message(err, s, "", fmt, ap);
        va_end(ap);
    }
    return s;
}

an_status an_fail_param(an_error *err, an_status s, const char *param, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        set_message(err, s, param, fmt, ap);
        va_end(ap);
    }
    return s;
}

an_status an_fail_prefix(an_error *err, an_status s, const char *fmt, ...)
{
    if (!err) return s;
    char prefix[256], rest[sizeof err->message];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    memcpy(rest, err->message, sizeof rest);
    size_t n = strlen(prefix);
    memcpy(err->message, prefix, n);
    snprintf(err->message + n, sizeof err->message - n, ": %s", rest);
    an_utf8_mend(err->message);
    return err->status;
}

const char *an_status_name(an_status s)
{
    static const char *const names[] = {"ok",       "invalid",   "not_found", "no_memory", "busy",
                                        "canceled", "too_large", "io",        "device",    "internal",
                                        "stopping"};
    return (unsigned)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

/* ---------------------------------------------------------------- logging */

static _Atomic int log_level = AN_LOG_INFO;
static const char *const level_names[] = {"debug", "info", "warn", "error"};

void an_log_set_level(an_log_level level)
{
    atomic_store(&log_level, (int)level);
}

bool an_log_parse_level(const char *name, an_log_level *out)
{
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *out = (an_log_level)i;
            return true;
        }
    }
    return false;
}

void an_log(an_log_level level, const char *fmt, ...)
{
    if ((int)level < atomic_load(&log_level)) return;
    char raw[2048], line[4096 + 64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    int head = snprintf(line, 64, "%02d:%02d:%02d.%03ld %-5s ", tm.tm_hour, tm.tm_min, tm.tm_sec,
                        ts.tv_nsec / 1000000, level_names[level]);
    size_t n = head > 0 ? (size_t)head : 0;
    for (const char *p = raw; *p; p++) {
        if ((unsigned char)*p < 32 && *p != '\t') {
            line[n++] = '\\';
            line[n++] = *p == '\n' ? 'n' : '?';
        } else {
            line[n++] = *p;
        }
    }
    line[n++] = '\n';
    fwrite(line, 1, n, stderr); /* one write a line: threads do not interleave inside it */
}

double an_now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

double an_unix_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

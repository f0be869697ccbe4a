/* base.h: what every room may use: status codes, errors that speak, checked arithmetic, logging,
 * clocks, bounded buffers, JSON files and bf16/f16 conversion. It knows nothing of tensors, models
 * or HTTP, and every other room includes it. */
#ifndef ANNEAL_BASE_H
#define ANNEAL_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define AN_VERSION "0.1.0"

/* ---------------------------------------------------------------- errors */

typedef enum an_status {
    AN_OK = 0,
    AN_INVALID,   /* the caller (a request, a file) is wrong: 400 */
    AN_NOT_FOUND, /* no such model, sampler, job: 404 */
    AN_NO_MEMORY, /* 503; 500 of a job that had begun, as the two below */
    AN_BUSY,      /* queue full: 429 */
    AN_CANCELED,  /* the client or an operator ended it: 499 */
    AN_TOO_LARGE, /* 413 */
    AN_IO,        /* a file could not be read: 500 */
    AN_DEVICE,    /* the device failed: 503 */
    AN_INTERNAL,  /* a bug: 500 */
    AN_STOPPING   /* the server is shutting down: 503 */
} an_status;

/* Filled by the function that failed; every fallible function takes an optional an_error * last. */
typedef struct an_error {
    an_status status;
    char param[64];     /* the request field at fault, "" if none */
    char message[1024]; /* names the object, what was found and what would work; UTF-8, also where
                           it quotes what was cut at some byte */
} an_error;

#define AN_PRINTF(a, b) __attribute__((format(printf, a, b)))

/* Writes err (may be NULL) and returns s, so that `return an_fail(err, AN_INVALID, ...)` reads well. */
an_status an_fail(an_error *err, an_status s, const char *fmt, ...) AN_PRINTF(3, 4);
/* The same, naming the request field. */
an_status an_fail_param(an_error *err, an_status s, const char *param, const char *fmt, ...)
    AN_PRINTF(4, 5);
/* Puts "prefix: " before the message already in err. Returns err's status (s when err is NULL). */
an_status an_fail_prefix(an_error *err, an_status s, const char *fmt, ...) AN_PRINTF(3, 4);
const char *an_status_name(an_status s); /* "invalid", "not_found", ... */

/* ---------------------------------------------------------------- checked arithmetic */

static inline bool an_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool an_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* ---------------------------------------------------------------- logging, clocks */

typedef enum { AN_LOG_DEBUG, AN_LOG_INFO, AN_LOG_WARN, AN_LOG_ERROR } an_log_level;
void an_log_set_level(an_log_level level);
bool an_log_parse_level(const char *name, an_log_level *out);
/* One line to stderr, time-stamped; control characters in it are escaped (log injection). */
void an_log(an_log_level level, const char *fmt, ...) AN_PRINTF(2, 3);

double an_now_s(void);   /* monotonic seconds */
double an_unix_s(void);  /* seconds since 1970 */

/* ---------------------------------------------------------------- bounded buffer */

/* A growable byte buffer born with its maximum size. A failed append sets `failed` and keeps what
 * was there; later appends do nothing, so a run of appends needs one check at its end. data is
 * always NUL-terminated (the NUL is not counted), or NULL when nothing was appended. */
typedef struct an_buf {
    char *data;
    size_t len, cap, max;
    bool failed;
} an_buf;

void an_buf_init(an_buf *b, size_t max);
void an_buf_free(an_buf *b);
bool an_buf_add(an_buf *b, const void *data, size_t len);
bool an_buf_str(an_buf *b, const char *s);
bool an_buf_printf(an_buf *b, const char *fmt, ...) AN_PRINTF(2, 3);
/* Takes the first n bytes out, and gives back the memory that is too much then. */
void an_buf_drop(an_buf *b, size_t n);
char *an_buf_take(an_buf *b); /* hands data to the caller (free()), the buffer becomes empty */

/* ---------------------------------------------------------------- strings, files */

char *an_strdup(const char *s); /* NULL stays NULL */
char *an_asprintf(const char *fmt, ...) AN_PRINTF(1, 2);
bool an_ends_with(const char *s, const char *suffix);
size_t an_utf8_char(const char *s,
                    size_t len); /* bytes of the character at s, 0 if there is none */
bool an_utf8_valid(const char *s, size_t len);
void an_utf8_mend(char *s); /* what is not UTF-8 becomes '?', byte for byte */
void an_utf8_copy(char *to, size_t size, const char *from); /* what fits, mended where it is cut */
/* Whole file, NUL-terminated; AN_TOO_LARGE past max bytes. *out is the caller's (free()). */
an_status an_read_file(const char *path, size_t max, char **out, size_t *len, an_error *err);
/* Where shipped data lies: REL ("demo", "clip/merges.txt") below $ANNEAL_DATA, the executable's
 * ../weights (a checkout) or ../share/anneal (an installation), or the source tree it was built
 * from. False if it is nowhere. */
bool an_data_path(const char *rel, char *buf, size_t size);
bool an_is_dir(const char *path);
bool an_is_file(const char *path);

/* ---------------------------------------------------------------- JSON (jansson) */

struct json_t;
#define AN_JSON_MAX_DEPTH 64
/* Requests: duplicates, NUL, bad UTF-8, depth over AN_JSON_MAX_DEPTH and trailing text are refused. */
an_status an_json_parse(const char *text, size_t len, struct json_t **out, an_error *err);
/* Model files: the same, but the literals Infinity, -Infinity and NaN that Python writes are read
 * (as +-DBL_MAX and null) and integers past 64 bits as reals; duplicates are refused too. */
an_status an_json_read_file(const char *path, size_t max, struct json_t **out, an_error *err);
an_status an_json_parse_lenient(const char *text, size_t len, struct json_t **out, an_error *err);

/* ---------------------------------------------------------------- 16-bit floats */

static inline float an_bf16_to_f32(uint16_t b)
{
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
/* Round to nearest even; NaN stays NaN. */
static inline uint16_t an_f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
float an_f16_to_f32(uint16_t h);
uint16_t an_f32_to_f16(float f);

/* FP8 as OCP's "OFP8" e4m3 and torch.float8_e4m3fn have it: a sign, 4 bits of exponent, 3 of
 * fraction, no infinities; 0x7f and 0xff are NaN. */
#define AN_E4M3_MAX 448.0f
static inline float an_e4m3_to_f32(uint8_t code)
{
    const uint32_t sign = (uint32_t)(code & 0x80) << 24, rest = code & 0x7f;
    uint32_t u = sign | ((rest << 20) + (120u << 23)); /* the exponents' biases: 7 and 127 */
    float f;
    if (rest < 8) { /* below 2^-6: so many times 2^-9 */
        f = (float)rest * 0x1p-9f;
        return sign ? -f : f;
    }
    if (rest == 0x7f) u = sign | 0x7fc00000u;
    memcpy(&f, &u, 4);
    return f;
}
/* Round to nearest even; what is larger than the largest (infinity too) becomes it; NaN stays NaN. */
static inline uint8_t an_f32_to_e4m3(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    const uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return sign | 0x7f;
    if (u >= 0x43e00000u) return sign | 0x7e; /* 448 */
    if (u < 0x3c800000u) { /* below 2^-6: a sum whose last place is 2^-9 rounds for us */
        const float sum = __builtin_fabsf(f) + 0x1p14f;
        memcpy(&u, &sum, 4);
        return (uint8_t)(sign | (u - 0x46800000u));
    }
    u += 0x7ffffu + (u >> 20 & 1u);
    return (uint8_t)(sign | ((u >> 20) - (120u << 3)));
}

#endif

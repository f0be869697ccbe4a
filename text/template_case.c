/* template_case.c: upper and lower case and the other conversions of strings that both filters and
 * methods have, as Python's str does them. */
#include "python_text.h"
#include "template_impl.h"

#include <stdlib.h>
#include <unicase.h>
#include <unictype.h>
#include <unistr.h>

typedef uint8_t *(*case_fn)(const uint8_t *s, size_t n, const char *language, uninorm_t nf,
                            uint8_t *result, size_t *length);

static bool convert(tm_run *r, const tm_val *s, case_fn fn, tm_val *out)
{
    size_t n = 0;
    *out = *s;
    if (s->s.n == 0) return true;
    if (!tm_step(r, s->s.n * 4)) return false;
    uint8_t *p = fn((const uint8_t *)s->s.p, s->s.n, NULL, NULL, NULL, &n);
    if (!p) return tm_fail(r, "out of memory for a string");
    char *copy = tm_alloc_text(r, n);
    if (copy) memcpy(copy, p, n);
    free(p);
    *out = tm_str(copy, n);
    return copy != NULL;
}

bool tm_lower(tm_run *r, const tm_val *s, tm_val *out)
{
    return convert(r, s, u8_tolower, out);
}

bool tm_upper(tm_run *r, const tm_val *s, tm_val *out)
{
    return convert(r, s, u8_toupper, out);
}

/* str.capitalize: the first character in title case, the rest in lower case. */
bool tm_capitalize(tm_run *r, const tm_val *s, tm_val *out)
{
    tm_val first, rest, low, up;
    *out = *s;
    if (s->s.n == 0) return true;
    size_t n = tm_char_len((unsigned char)*s->s.p);
    first = tm_str(s->s.p, n);
    rest = tm_str(s->s.p + n, s->s.n - n);
    return convert(r, &first, u8_totitle, &up) && tm_lower(r, &rest, &low) &&
           tm_concat(r, &up, &low, out);
}

/* To Jinja's filter words begin after - ( { [ < and white space, to str.title after whatever has no
 * case: "it's" is "It's" to the one and "It'S" to the other. */
bool tm_title(tm_run *r, const tm_val *s, bool filter, tm_val *out)
{
    tm_sb b = {0};
    const char *p = s->s.p, *end = p + s->s.n;
    bool inside = false;
    if (!tm_step(r, s->s.n)) return false;
    while (p < end) {
        size_t len;
        ucs4_t c = (ucs4_t)tm_char_at(p, end, &len);
        if (!tm_sb_char(r, &b, (uint32_t)(inside ? uc_tolower(c) : uc_totitle(c)))) return false;
        inside = filter ? !is_python_space(c) && !(c < 0x80 && strchr("-({[<", (int)c))
                        : uc_is_property_cased(c);
        p += len;
    }
    *out = tm_sb_done(r, &b);
    return true;
}

/* Up to max times, all when it is negative; an empty `old` is found before every character. */
bool tm_replace(tm_run *r, const tm_val *s, const tm_val *old, const tm_val *new, int64_t max,
                tm_val *out)
{
    tm_sb b = {0};
    const char *p = s->s.p, *end = p + s->s.n;
    if (!tm_step(r, s->s.n)) return false;
    for (; max != 0; max--) {
        const char *q = old->s.n ? memmem(p, (size_t)(end - p), old->s.p, old->s.n) : p;
        if (!q) break;
        if (!tm_step(r, new->s.n) || !tm_sb_add(r, &b, p, (size_t)(q - p)) ||
            !tm_sb_add(r, &b, new->s.p, new->s.n))
            return false;
        p = q + old->s.n;
        if (old->s.n) continue;
        if (p == end) break;
        size_t n = tm_char_len((unsigned char)*p);
        if (!tm_sb_add(r, &b, p, n)) return false;
        p += n;
    }
    if (!tm_sb_add(r, &b, p, (size_t)(end - p))) return false;
    *out = tm_sb_done(r, &b);
    return true;
}

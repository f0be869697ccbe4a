/* name.c: see pull.h. */
#include "pull.h"

#include <ctype.h>
#include <stdio.h>

const char *pull_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* One part of hf:owner/name: what the hub allows. */
static bool word(const char *from, size_t len, char *out, size_t size)
{
    if (!len || len >= size || *from == '.' || *from == '-') return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)from[i]) && !strchr("._-", from[i])) return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return !strstr(out, "..");
}

static bool revision(const char *from, size_t len, char *out, size_t size)
{
    if (!len || len >= size) return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)from[i]) && !strchr("._/-", from[i])) return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return pull_path_safe(out);
}

an_status pull_ref_parse(const char *text, pull_ref *out, an_error *err)
{
    *out = (pull_ref){.revision = "main"};
    const char *p = text + 3, *slash = strncmp(text, "hf:", 3) == 0 ? strchr(p, '/') : NULL;
    bool ok = slash && word(p, (size_t)(slash - p), out->owner, sizeof out->owner);
    if (ok) {
        size_t len = strcspn(slash + 1, "@:");
        const char *rest = slash + 1 + len;
        ok = word(slash + 1, len, out->name, sizeof out->name);
        if (ok && *rest == '@') {
            len = strcspn(++rest, ":");
            ok = revision(rest, len, out->revision, sizeof out->revision);
            rest += len;
        }
        if (ok && *rest == ':') {
            ok = pull_path_safe(rest + 1) && strlen(rest + 1) < sizeof out->select;
            if (ok) snprintf(out->select, sizeof out->select, "%s", rest + 1);
        }
    }
    if (ok) return AN_OK;
    return an_fail(err, AN_INVALID,
                   "'%.300s' names no model: hf:OWNER/NAME, then @REVISION (a branch, tag or "
                   "commit) and :FILE or :Q4_K_M (one of several GGUF files) if wanted",
                   text);
}

bool pull_path_safe(const char *path)
{
    const size_t len = strlen(path);
    if (!len || len >= PULL_PATH || !an_utf8_valid(path, len)) return false;
    for (const char *p = path; *p;) {
        const size_t part = strcspn(p, "/");
        if (!part || part > 255 || (part == 1 && *p == '.') ||
            (part == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        for (size_t i = 0; i < part; i++)
            if ((unsigned char)p[i] < 0x20 || p[i] == 0x7f || p[i] == '\\') return false;
        p += part;
        if (*p == '/' && !*++p) return false;
    }
    return true;
}

bool pull_name_safe(const char *name)
{
    /* a name is typed, completed and put into scripts: what a shell might run is refused */
    return pull_path_safe(name) && *name != '.' && !strpbrk(name, "/" PULL_SHELL) &&
           strlen(name) < PULL_NAME;
}

bool pull_escape(const char *text, bool slashes, char *out, size_t size)
{
    size_t n = 0;
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        const bool plain = isalnum(c) || strchr("-._~", c) || (c == '/' && !slashes);
        if (n + 4 > size) return false;
        n += (size_t)snprintf(out + n, size - n, plain ? "%c" : "%%%02X", c);
    }
    if (n >= size) return false;
    out[n] = '\0';
    return true;
}

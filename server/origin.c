/* origin.c: CORS, cross-site requests, DNS rebinding. */
#include "origin.h"

#include <ctype.h>
#include <strings.h>

const char *origin_allowed(const an_options *o, const char *origin)
{
    const char *any = NULL;
    for (int i = 0; i < o->n_cors_origins; i++) {
        if (strcmp(o->cors_origins[i], "*") == 0)
            any = "*"; /* also without an Origin, so that caches may keep the answer for all */
        else if (origin && strcasecmp(o->cors_origins[i], origin) == 0)
            return o->cors_origins[i];
    }
    return any;
}

/* The host and port of an URL or origin; "" if it has none. */
static const char *authority(const char *url)
{
    const char *p = strstr(url, "://");
    return p ? p + 3 : "";
}

bool origin_foreign(const an_options *o, const char *origin, const char *fetch_site,
                    const char *host)
{
    if (origin && origin_allowed(o, origin)) return false;
    if (fetch_site)
        return strcmp(fetch_site, "same-origin") != 0 && strcmp(fetch_site, "none") != 0;
    return origin && (!host || !*host || strcasecmp(authority(origin), host) != 0);
}

/* Is `name` the host of a "host[:port]" of n bytes? */
static bool same_name(const char *name, const char *host, size_t n)
{
    return strlen(name) == n && strncasecmp(name, host, n) == 0;
}

bool host_any(const an_options *o)
{
    for (int i = 0; i < o->n_allow_hosts; i++)
        if (strcmp(o->allow_hosts[i], "*") == 0) return true;
    return false;
}

bool host_foreign(const an_options *o, const char *host)
{
    static const char local[] = ".localhost";
    if (!host || *host == '[' || host_any(o)) return false;
    size_t n = strcspn(host, ":");
    while (n && host[n - 1] == '.') n--; /* "name." is "name" */
    const char *dot = memchr(host, '.', n);
    if (!dot || same_name(o->host, host, n)) return false;
    bool address = true;
    for (size_t i = 0; i < n; i++) address &= isdigit((unsigned char)host[i]) || host[i] == '.';
    if (address) return false;
    if (n > sizeof local - 1 && same_name(local, host + n - (sizeof local - 1), sizeof local - 1))
        return false;
    for (int i = 0; i < o->n_allow_hosts; i++)
        if (same_name(o->allow_hosts[i], host, n)) return false;
    const char *own = authority(o->public_url);
    size_t own_n = strcspn(own, ":/");
    return !(own_n == n && strncasecmp(own, host, n) == 0);
}

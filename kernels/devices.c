/* devices.c: the devices of a server, from a list of names. All of one kind: what a request becomes
 * must not depend on which of them had time for it. */
#include "backend.h"

#include <stdio.h>

/* What stands behind "cuda:0: ": which GPU it is. */
static const char *sort_of(const an_device *d)
{
    const char *end = strstr(d->description, ": ");
    return end ? end : d->description;
}

/* Kernels choose their tiles by what a GPU has: another one sums in another order. */
static void warn_of_another(const an_device *first, const an_device *d)
{
    if (strcmp(sort_of(first), sort_of(d)) != 0)
        an_log(AN_LOG_WARN,
               "these are different GPUs, and the last bits of an answer may depend on which one "
               "makes it: %s; %s",
               first->description, d->description);
}

/* One name of the list, or `all` of a kind, opened and added. */
static an_status open_name(const an_device_options *o, const char *name, an_device **out, int most,
                           int *n, an_error *err)
{
    if (*n == most)
        return an_fail_param(err, AN_INVALID, "device", "device '%s': more than %d devices",
                             o->device, most);
    an_device_options one = *o;
    one.device = name;
    an_status s = an_device_open(&one, &out[*n], err);
    if (s) return s;
    an_device *d = out[(*n)++];
    if (strcmp(an_device_name(d), an_device_name(out[0])) == 0) {
        warn_of_another(out[0], d);
        return AN_OK;
    }
    return an_fail_param(err, AN_INVALID, "device",
                         "device '%s': %s and %s would give one request different pictures; "
                         "devices of one server are of one kind",
                         o->device, an_device_name(out[0]), an_device_name(d));
}

/* "cuda:all": as many as the first one knows of. */
static an_status open_all(const an_device_options *o, const char *kind, an_device **out, int most,
                          int *n, an_error *err)
{
    an_status s = AN_OK;
    for (int i = 0, count = 1; i < count && !s; i++) {
        char name[64];
        snprintf(name, sizeof name, "%.40s:%d", kind, i);
        s = open_name(o, name, out, most, n, err);
        if (!s && i == 0) {
            const an_backend *b = out[*n - 1]->backend;
            count = b->count ? b->count() : 1;
        }
    }
    return s;
}

an_status an_devices_open(const an_device_options *o, an_device **out, int most, int *n,
                          an_error *err)
{
    const char *list = o->device ? o->device : "auto";
    an_status s = AN_OK;
    *n = 0;
    for (const char *at = list; !s;) {
        char name[64];
        const size_t len = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", len < sizeof name ? (int)len : 63, at);
        char *colon = strchr(name, ':');
        if (len == 0 && *list)
            s = an_fail_param(err, AN_INVALID, "device",
                              "device '%s': between two commas stands the name of a device", list);
        else if (colon && strcmp(colon, ":all") == 0) {
            *colon = '\0';
            s = open_all(o, name, out, most, n, err);
        } else
            s = open_name(o, name, out, most, n, err);
        if (at[len] == '\0') break;
        at += len + 1;
    }
    while (s && *n > 0) an_device_close(out[--*n]);
    return s;
}

/* data_path.c: where the shipped data lies, wherever the binary was put. */
#include "anneal/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef AN_SOURCE_DATA
#define AN_SOURCE_DATA ""
#endif

static bool exists(const char *root, const char *sub, const char *rel, char *buf, size_t size)
{
    int n = snprintf(buf, size, "%s%s%s", root, sub, rel);
    return *root && n > 0 && (size_t)n < size && access(buf, R_OK) == 0;
}

bool an_data_path(const char *rel, char *buf, size_t size)
{
    char exe[4096];
    const char *env = getenv("ANNEAL_DATA");
    if (env && exists(env, "/", rel, buf, size)) return true;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(exe, '/');
    if (slash) *slash = '\0';
    return exists(exe, "/../weights/", rel, buf, size) ||
           exists(exe, "/../share/anneal/", rel, buf, size) ||
           exists(AN_SOURCE_DATA, "/", rel, buf, size);
}

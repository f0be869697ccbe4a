/* weights_files.h: makes the little files that the tests of the weights room read. Everything lies
 * in one temporary folder that goes away at exit. */
#ifndef WEIGHTS_FILES_H
#define WEIGHTS_FILES_H

#include "anneal/weights.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char files_root[64];

static inline int files_remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st;
    (void)type;
    (void)f;
    return remove(path);
}

static inline void files_remove(void)
{
    nftw(files_root, files_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The path of a file in the temporary folder, in one of a few static buffers in turn; folders on
 * the way are made. */
static inline const char *files_path(const char *name)
{
    static char buf[8][256];
    static unsigned turn;
    if (!*files_root) {
        strcpy(files_root, "/tmp/anneal-weights-XXXXXX");
        if (!mkdtemp(files_root)) abort();
        atexit(files_remove);
    }
    char *p = buf[turn++ % 8];
    snprintf(p, sizeof buf[0], "%s/%s", files_root, name);
    for (char *s = p + strlen(files_root) + 1; (s = strchr(s, '/')) != NULL; s++) {
        *s = '\0';
        mkdir(p, 0700);
        *s = '/';
    }
    return p;
}

static inline const char *files_write(const char *name, const void *data, size_t len)
{
    const char *path = files_path(name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, len, f) != len) abort();
    fclose(f);
    return path;
}

static inline const char *files_text(const char *name, const char *text)
{
    return files_write(name, text, strlen(text));
}

/* A .safetensors file: the header as given, then `len` bytes 0, 1, 2... */
static inline const char *files_tensors(const char *name, const char *header, size_t len)
{
    size_t n = strlen(header);
    unsigned char *b = calloc(1, 8 + n + len);
    if (!b) abort();
    for (int i = 0; i < 8; i++) b[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(b + 8, header, n);
    for (size_t i = 0; i < len; i++) b[8 + n + i] = (unsigned char)i;
    const char *path = files_write(name, b, 8 + n + len);
    free(b);
    return path;
}

#endif

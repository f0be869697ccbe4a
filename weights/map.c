/* map.c: a file opened with care and mapped read-only. Private mapping, so nothing here can change
 * the file; a file that somebody truncates in place while its tensors are read is a SIGBUS, as for
 * every program that maps files. Writers that replace a file by rename are harmless. */
#include "set.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

an_status an_file_open(const char *path, int *fd, size_t *size, an_error *err)
{
    /* Not blocking: the path may be a FIFO, and is then refused. */
    int f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    *fd = -1;
    *size = 0;
    if (f < 0)
        return an_fail(err, errno == ENOENT ? AN_NOT_FOUND : AN_IO, "%s: %s", path,
                       strerror(errno));
    struct stat st;
    an_status s = AN_OK;
    if (fstat(f, &st) != 0)
        s = an_fail(err, AN_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        s = an_fail(err, AN_INVALID, "%s: not a regular file", path);
    if (s != AN_OK) {
        close(f);
        return s;
    }
    *fd = f;
    *size = (size_t)st.st_size;
    return AN_OK;
}

an_status an_set_map(an_weights *w, int fd, size_t size, an_error *err)
{
    an_map *m = calloc(1, sizeof *m);
    if (!m) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
    m->base = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (m->base == MAP_FAILED) {
        an_status s =
            an_fail(err, AN_IO, "%s: cannot map %zu bytes: %s", w->path, size, strerror(errno));
        free(m);
        return s;
    }
    m->size = size;
    an_status s = an_set_share(w, m, err);
    if (s != AN_OK) {
        munmap(m->base, size);
        free(m);
    }
    return s;
}

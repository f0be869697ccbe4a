/* map.c: a file opened with care and mapped read-only. Private mapping, so nothing here can change
 * the file. Writers that replace a file by rename are harmless; one that truncates or rewrites it
 * in place while its tensors are read must spoil that load, and nothing else. The kernel says so by
 * SIGBUS, which would end the process: so the handler below puts zeros in the place of what is gone
 * and notes it, and an_weights_check, asked when all has been read, refuses the file. */
#include "set.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---------------------------------------------------------------- pages that are gone */

/* All mappings. The lock is held for a few instructions that touch no mapped page, so that the
 * handler, which runs in the middle of one's reading, may wait for it. */
static atomic_flag busy = ATOMIC_FLAG_INIT;
static an_map *maps;
static struct sigaction before;
static long page_bytes;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void lock_maps(void)
{
    while (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
    }
}

static void unlock_maps(void)
{
    atomic_flag_clear_explicit(&busy, memory_order_release);
}

/* Zeros from the page of `at` to the mapping's end: where one page is gone, others are. Only calls
 * that are safe in a handler. Whoever reads of a mapping keeps it, so that its place is still its
 * own when the lock is given back; holding it across mmap would let other readers spin meanwhile.
 */
static bool put_zeros(const char *at)
{
    char *from = NULL, *end = NULL;
    lock_maps();
    for (an_map *m = maps; m && !from; m = m->next) {
        char *base = m->base;
        if (at < base || at >= base + m->size) continue;
        from = base + (at - base) / page_bytes * page_bytes;
        end = base + m->size;
        atomic_store(&m->spoilt, true);
    }
    unlock_maps();
    return from && mmap(from, (size_t)(end - from), PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == from;
}

/* Not ours. Whoever was asked before us is asked, and we stay for the next one; without such a
 * function the process ends, as it would have without us. A fault comes again by itself. */
static void pass_on(int sig, siginfo_t *info, void *context, bool sent)
{
    const bool ignored = before.sa_handler == SIG_IGN;
    if (ignored && sent) return;
    if (ignored || before.sa_handler == SIG_DFL) {
        sigaction(sig, &before, NULL);
        if (sent) raise(sig);
    } else if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(sig, info, context);
    } else {
        before.sa_handler(sig);
    }
}

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
    int kept = errno;
    /* by somebody, or the news of bad memory that nobody has touched: no fault of a reader */
    const bool sent = info->si_code <= 0 || info->si_code == BUS_MCEERR_AO;
    if (sent || !put_zeros(info->si_addr)) pass_on(sig, info, context, sent);
    errno = kept;
}

static void catch_bus_errors(void)
{
    struct sigaction a = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&a.sa_mask);
    page_bytes = sysconf(_SC_PAGESIZE);
    sigaction(SIGBUS, &a, &before);
}

/* ---------------------------------------------------------------- opening, mapping */

an_status an_file_open(const char *path, int *fd, struct stat *st, an_error *err)
{
    /* Not blocking: the path may be a FIFO, and is then refused. */
    int f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    *fd = -1;
    *st = (struct stat){0};
    if (f < 0)
        return an_fail(err, errno == ENOENT ? AN_NOT_FOUND : AN_IO, "%s: %s", path,
                       strerror(errno));
    an_status s = AN_OK;
    if (fstat(f, st) != 0)
        s = an_fail(err, AN_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st->st_mode))
        s = an_fail(err, AN_INVALID, "%s: not a regular file", path);
    if (s != AN_OK) {
        close(f);
        return s;
    }
    *fd = f;
    return AN_OK;
}

an_status an_set_map(an_weights *w, int fd, const struct stat *opened, an_error *err)
{
    const size_t size = (size_t)opened->st_size;
    an_map *m = calloc(1, sizeof *m);
    if (!m) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
    pthread_once(&once, catch_bus_errors);
    m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    m->base = m->fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (m->base == MAP_FAILED) {
        an_status s =
            an_fail(err, AN_IO, "%s: cannot map %zu bytes: %s", w->path, size, strerror(errno));
        if (m->fd >= 0) close(m->fd);
        free(m);
        return s;
    }
    m->size = size;
    m->changed = opened->st_mtim;
    lock_maps();
    m->next = maps;
    maps = m;
    unlock_maps();
    m->refs = 1;
    an_status s = an_set_share(w, m, err);
    an_map_drop(m);
    return s;
}

void an_map_drop(an_map *m)
{
    if (!m || --m->refs > 0) return;
    lock_maps();
    for (an_map **at = &maps; *at; at = &(*at)->next) {
        if (*at != m) continue;
        *at = m->next;
        break;
    }
    unlock_maps();
    munmap(m->base, m->size);
    close(m->fd);
    free(m);
}

/* What tells of a rewritten file: its length and the time of its last change. */
an_status an_weights_check(const an_weights *w, an_error *err)
{
    for (int i = 0; i < w->maps; i++) {
        an_map *m = w->map[i];
        struct stat st = {0};
        if (fstat(m->fd, &st) != 0)
            return an_fail(err, AN_IO, "%s: whether it changed while being read is not known: %s",
                           w->path, strerror(errno));
        bool same = (size_t)st.st_size == m->size && st.st_mtim.tv_sec == m->changed.tv_sec &&
                    st.st_mtim.tv_nsec == m->changed.tv_nsec;
        if (same && !atomic_load(&m->spoilt)) continue;
        if (same)
            return an_fail(err, AN_IO, "%s: could not be read: the file or its disk is damaged",
                           w->path);
        return an_fail(err, AN_IO,
                       "%s: changed while being read: it had %zu bytes, now %lld; a new version of "
                       "a model is best put in place by renaming",
                       w->path, m->size, (long long)st.st_size);
    }
    return AN_OK;
}

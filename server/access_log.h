/* access_log.h: a line of JSON for every answer. It holds what an operator needs to count and to
 * find, and nothing of what was asked: no bodies, no queries of URLs, no keys but their names. */
#ifndef ANNEAL_ACCESS_LOG_H
#define ANNEAL_ACCESS_LOG_H

#include "anneal/base.h"

typedef struct an_access {
    const char *id, *key, *address; /* of the request; the key's name, NULL without; "10.0.0.1" */
    const char *method, *path; /* as the client wrote them; the path goes through access_path */
    int status;
    uint64_t bytes_in, bytes_out; /* of bodies */
    double seconds;               /* from the headers to the answer's end */
    bool complete;                /* the answer was sent to its end */
    /* what its jobs did; jobs 0 = it had none, and the rest is not written */
    int jobs;
    double queue_s; /* the longest wait among them */
    size_t steps, prompt_tokens, completion_tokens;
} an_access;

/* A path as it may stand in a log: the name of a picture's link is the key to it, and a job's id
 * lets anybody with a key look at it, so only the beginnings of both are kept. Returns text. */
const char *access_path(const char *path, char *text, size_t size);

/* Writes the line's text, a newline at its end, and returns its length. Whatever the strings hold,
 * it is one line of printable ASCII and valid JSON; long paths are cut. size: at least 1024. */
size_t access_format(const an_access *a, double unix_s, char *line, size_t size);

/* FILE is appended to, "-" is standard output. *fd is what access_write gets. */
an_status access_open(const char *file, int *fd, an_error *err);
/* Opens the file anew under the same descriptor, for logrotate; other threads may be writing. */
an_status access_reopen(const char *file, int fd, an_error *err);
/* One write(2) a line: lines of several threads do not mix, and no lock is held. */
void access_write(int fd, const an_access *a);

#endif

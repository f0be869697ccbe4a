/* The accept thread under a flood: somebody always waits, and the server must end all the same. */
#include "server_private.h"
#include "test.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

static _Atomic int accepted;

/* Stands in for libc's: every client is gone again before it is looked at, and another waits. */
int accept4(int fd, __SOCKADDR_ARG from, socklen_t *restrict len, int flags)
{
    (void)fd, (void)from, (void)len, (void)flags;
    atomic_fetch_add(&accepted, 1);
    errno = ECONNABORTED;
    return -1;
}

TEST(a_flood_does_not_keep_the_server_from_ending)
{
    static an_server s; /* what the accept thread looks at of it */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *at = (struct sockaddr *)&a;
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(fd >= 0 && client >= 0);
    REQUIRE(bind(fd, at, n) == 0 && listen(fd, 8) == 0 && getsockname(fd, at, &n) == 0);
    REQUIRE(connect(client, at, n) == 0); /* waits in the backlog for ever */
    s.options.max_connections = 8;
    s.watch = watch_new();
    REQUIRE(s.watch != NULL);
    s.accept = accept_new(&s, fd);
    REQUIRE(s.accept && accept_start(s.accept));
    while (atomic_load(&accepted) < 1000) usleep(1000);
    alarm(60); /* a hang is a failure, not a day */
    accept_quiesce(s.accept);
    alarm(0);
    CHECK(atomic_load(&s.connections) == 0);
    accept_free(s.accept);
    watch_free(s.watch);
    close(client);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

/* Whom a request comes from: --trusted-proxy and X-Forwarded-For, as tables. */
#include "heads.h"
#include "proxies.h"
#include "test.h"

#include <arpa/inet.h>

/* A connection's other end, of either kind. */
static const struct sockaddr *end_of(const char *address, struct sockaddr_storage *room)
{
    memset(room, 0, sizeof *room);
    struct sockaddr_in *v4 = (void *)room;
    struct sockaddr_in6 *v6 = (void *)room;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        room->ss_family = AF_INET;
    } else {
        room->ss_family = AF_INET6;
        CHECK(inet_pton(AF_INET6, address, &v6->sin6_addr) == 1);
    }
    return (const struct sockaddr *)room;
}

static an_proxies *proxies(const char *const *list)
{
    an_error err = {0};
    an_proxies *p;
    int n = 0;
    while (list[n]) n++;
    CHECK(an_proxies_new((char *const *)(size_t)list, n, &p, &err) == AN_OK);
    return p;
}
#define PROXIES(...) proxies((const char *const[]){__VA_ARGS__, NULL})

TEST(what_is_no_address)
{
    static const char *const wrong[] = {"proxy",
                                        "10.0.0",
                                        "10.0.0.0/33",
                                        "10.0.0.0/",
                                        "10.0.0.0/-1",
                                        "10.0.0.0/8x",
                                        "10.0.0.0/08888",
                                        "fd00::/129",
                                        "fd00:::1",
                                        "10.0.0.1:80",
                                        "[fd00::1]",
                                        "256.0.0.1",
                                        "/8",
                                        " 10.0.0.1",
                                        "10.0.0.0/8/8",
                                        "::ffff:10.0.0.0/8",
                                        "*"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        an_error err = {0};
        an_proxies *p;
        char *list[] = {(char *)(size_t) "10.0.0.1", (char *)(size_t)wrong[i]};
        CHECK_MSG(an_proxies_new(list, 2, &p, &err) == AN_INVALID && !p, "%s", wrong[i]);
        CHECK(strstr(err.message, wrong[i]) != NULL);
    }
}

TEST(networks)
{
    static const struct {
        const char *network, *address;
        bool in;
    } cases[] = {
        {"10.0.0.2", "10.0.0.2", true},
        {"10.0.0.2", "10.0.0.3", false},
        {"10.0.0.2", "::ffff:10.0.0.2", true}, /* at a socket of both kinds */
        {"10.0.0.0/8", "10.255.255.255", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.1.2.3/8", "10.9.9.9", true},
        {"10.0.0.0/9", "10.127.0.1", true},
        {"10.0.0.0/9", "10.128.0.1", false},
        {"10.0.0.6/31", "10.0.0.7", true},
        {"10.0.0.6/31", "10.0.0.8", false},
        {"0.0.0.0/0", "8.8.8.8", true},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/0", "8.8.8.8", true},
        {"fd00::/8", "fdff::1", true},
        {"fd00::/8", "fe00::1", false},
        {"fd00::2", "fd00::2", true},
        {"fd00::2", "fd00::3", false},
        {"2001:db8::/33", "2001:db8:7fff::", true},
        {"2001:db8::/33", "2001:db8:8000::", false},
        {"::ffff:10.0.0.0/104", "10.9.9.9", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sockaddr_storage room;
        an_proxies *p = PROXIES("192.0.2.9", cases[i].network);
        CHECK_MSG(an_proxies_trust(p, end_of(cases[i].address, &room)) == cases[i].in, "%s in %s",
                  cases[i].address, cases[i].network);
        an_proxies_free(p);
    }
    struct sockaddr_storage room;
    CHECK(!an_proxies_trust(NULL, end_of("10.0.0.1", &room)));
    room.ss_family = AF_UNIX;
    an_proxies *p = PROXIES("::/0");
    CHECK(!an_proxies_trust(p, (const struct sockaddr *)&room) && !an_proxies_trust(p, NULL));
    an_proxies_free(p);
}

static void check_client(const an_proxies *p, const char *from, const char *const *lines, int n,
                         const char *client)
{
    struct sockaddr_storage room;
    char name[INET6_ADDRSTRLEN];
    an_proxies_client(p, end_of(from, &room), lines, n, name, sizeof name);
    CHECK_MSG(strcmp(name, client) == 0, "from %s, '%s': %s, wanted %s", from, n ? lines[0] : "",
              name, client);
}

TEST(clients)
{
    an_proxies *p = PROXIES("10.0.0.0/8", "fd00::/8");
    static const struct {
        const char *from, *line, *client;
    } cases[] = {
        {"192.0.2.1", "198.51.100.7", "192.0.2.1"}, /* who is no proxy says what he likes */
        {"10.0.0.1", "198.51.100.7", "198.51.100.7"},
        {"::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"},
        {"fd00::1", "2001:DB8::7", "2001:db8::7"},
        {"10.0.0.1", "8.8.8.8, 198.51.100.7", "198.51.100.7"}, /* the first is made up */
        {"10.0.0.1", "8.8.8.8, 198.51.100.7, 10.0.0.9", "198.51.100.7"},
        {"10.0.0.1", "8.8.8.8,198.51.100.7\t ,\t10.0.0.9 ", "198.51.100.7"},
        {"10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"}, /* one of us */
        {"10.0.0.1", "198.51.100.7:4711", "198.51.100.7"},
        {"10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"},
        {"10.0.0.1", "[2001:db8::7]", "2001:db8::7"},
        {"10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"},
        {"10.0.0.1", ", ,198.51.100.7,,", "198.51.100.7"},
        {"10.0.0.1", "", "10.0.0.1"},
        {"10.0.0.1", " , ", "10.0.0.1"},
        {"10.0.0.1", "unknown", "10.0.0.1"},
        {"10.0.0.1", "198.51.100.7, unknown", "10.0.0.1"},
        {"10.0.0.1", "198.51.100.7, unknown, 10.0.0.9", "10.0.0.9"},
        {"10.0.0.1", "198.51.100.7 10.0.0.9", "10.0.0.1"},
        {"10.0.0.1", "[198.51.100.7]", "10.0.0.1"},
        {"10.0.0.1", "[2001:db8::7", "10.0.0.1"},
        {"10.0.0.1", "[2001:db8::7]4711", "10.0.0.1"},
        {"10.0.0.1", "\"198.51.100.7\"", "10.0.0.1"},
        {"10.0.0.1", "1111111111111111111111111111111111111111111111111111111111111", "10.0.0.1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_client(p, cases[i].from, &cases[i].line, 1, cases[i].client);
    check_client(p, "10.0.0.1", NULL, 0, "10.0.0.1");
    check_client(NULL, "10.0.0.1", (const char *const[]){"198.51.100.7"}, 1, "10.0.0.1");
    /* a line of each proxy is one list */
    const char *const lines[] = {"8.8.8.8", "198.51.100.7", "10.0.0.8, 10.0.0.9", ""};
    check_client(p, "10.0.0.1", lines, 4, "198.51.100.7");
    check_client(p, "10.0.0.1", lines + 2, 2, "10.0.0.8");
    an_proxies_free(p);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}

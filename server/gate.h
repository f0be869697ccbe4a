/* gate.h: what stands before the routes, and is read from files: keys, the certificate, the access
 * log. Opened before anything that takes time; renewed while the server runs. */
#ifndef ANNEAL_GATE_H
#define ANNEAL_GATE_H

#include "keys.h"
#include "proxies.h"

typedef struct an_gate {
    const an_options *o;
    an_keys *keys;
    an_proxies *proxies; /* --trusted-proxy */
    int access_fd;       /* -1 = no access log */
    bool need_key, tls;
    bool loopback;   /* an_gate_check_address has seen it */
    bool check_host; /* keyless on loopback: names in Host tell a stranger's page */
    struct gate_private *p;
} an_gate;

/* o must outlive it. AN_INVALID, AN_IO, AN_NOT_FOUND with what is wrong in which file. */
an_status an_gate_open(const an_options *o, an_gate **out, an_error *err);
void an_gate_close(an_gate *g); /* when the server has stopped */
/* Looks at the socket's address: AN_INVALID if others could reach it, there is no key, and nobody
 * said that this is meant. */
an_status an_gate_check_address(an_gate *g, int fd, an_error *err);
/* SIGHUP: keys, certificate and access log anew. What is wrong is logged, and stays as it was. */
void an_gate_reload(an_gate *g);
/* Once a second: the key file, if it changed. */
void an_gate_tick(an_gate *g);

#endif

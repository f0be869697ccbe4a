/* tls.h: the certificate of HTTPS: read with errors that say what does not fit, and replaced while
 * connections go on. The handshakes are GnuTLS's, through libmicrohttpd. */
#ifndef ANNEAL_TLS_H
#define ANNEAL_TLS_H

#include "options.h"

/* Ciphers with authentication and forward secrecy only, TLS 1.2 and 1.3. */
#define AN_TLS_PRIORITIES                                                                          \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA:-CIPHER-ALL:+AES-256-GCM:"                    \
    "+CHACHA20-POLY1305:+AES-128-GCM:%SERVER_PRECEDENCE"

/* Reads --tls-cert and --tls-key, and uses them for every handshake from now on. The one in use
 * stays if they do not do: AN_IO, AN_INVALID with what was found. One thread at a time. */
an_status tls_load(const an_options *o, an_error *err);
/* What libmicrohttpd calls in a handshake (a gnutls_certificate_retrieve_function2). */
void *tls_certificate_callback(void);
/* When no handshake runs any more. */
void tls_free(void);

#endif

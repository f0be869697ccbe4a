/* tls.c: see tls.h. GnuTLS's callback has no argument of ours, so the certificate is the process's.
 * One that was replaced may still be in the hands of a handshake, and GnuTLS does not tell when it
 * is not: so all are kept until the end. That is a few KB for each renewal. */
#include "tls.h"

#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define MAX_FILE  ((size_t)1 << 20)
#define MAX_CHAIN 16

typedef struct certificate {
    struct certificate *older;
    gnutls_pcert_st chain[MAX_CHAIN];
    unsigned n;
    gnutls_privkey_t key;
} certificate;

static _Atomic(certificate *) current;

static int retrieve(gnutls_session_t session, const gnutls_datum_t *authorities, int n_authorities,
                    const gnutls_pk_algorithm_t *algorithms, int n_algorithms,
                    gnutls_pcert_st **chain, unsigned *n, gnutls_privkey_t *key)
{
    (void)session;
    (void)authorities;
    (void)n_authorities;
    (void)algorithms;
    (void)n_algorithms;
    certificate *c = atomic_load(&current);
    if (!c) return -1;
    *chain = c->chain;
    *n = c->n;
    *key = c->key;
    return 0;
}

void *tls_certificate_callback(void)
{
    return (void *)(uintptr_t)retrieve;
}

/* ---------------------------------------------------------------- reading */

static an_status unreadable(const char *flag, const char *file, int rc, an_error *err)
{
    if (rc == GNUTLS_E_DECRYPTION_FAILED || rc == GNUTLS_E_NO_CERTIFICATE_FOUND)
        return an_fail(err, AN_INVALID, "%s %s: %s", flag, file,
                       rc == GNUTLS_E_DECRYPTION_FAILED
                           ? "the key has a password; `openssl pkey` writes it without"
                           : "there is no certificate in it");
    return an_fail(err, AN_INVALID, "%s %s is not what it should be, in PEM: %s", flag, file,
                   gnutls_strerror(rc));
}

/* Does the key belong to the first certificate? GnuTLS knows only when it is told to use both. */
static an_status check_pair(const an_options *o, const gnutls_datum_t *cert,
                            const gnutls_datum_t *key, an_error *err)
{
    gnutls_certificate_credentials_t both;
    int rc = gnutls_certificate_allocate_credentials(&both);
    if (rc < 0) return an_fail(err, AN_NO_MEMORY, "TLS: %s", gnutls_strerror(rc));
    rc = gnutls_certificate_set_x509_key_mem(both, cert, key, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(both);
    if (rc == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
        return an_fail(err, AN_INVALID,
                       "the key in --tls-key %s is not that of the first certificate in --tls-cert "
                       "%s",
                       o->tls_key, o->tls_cert);
    if (rc < 0)
        return an_fail(err, AN_INVALID, "--tls-cert %s and --tls-key %s: %s", o->tls_cert,
                       o->tls_key, gnutls_strerror(rc));
    return AN_OK;
}

static void free_certificate(certificate *c)
{
    for (unsigned i = 0; i < c->n; i++) gnutls_pcert_deinit(&c->chain[i]);
    if (c->key) gnutls_privkey_deinit(c->key);
    free(c);
}

static an_status parse(const an_options *o, const gnutls_datum_t *cert, const gnutls_datum_t *key,
                       certificate *c, an_error *err)
{
    unsigned n = MAX_CHAIN;
    int rc = gnutls_pcert_list_import_x509_raw(c->chain, &n, cert, GNUTLS_X509_FMT_PEM, 0);
    if (rc < 0) return unreadable("--tls-cert", o->tls_cert, rc, err);
    c->n = n;
    rc = gnutls_privkey_init(&c->key);
    if (rc == 0) rc = gnutls_privkey_import_x509_raw(c->key, key, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (rc < 0) return unreadable("--tls-key", o->tls_key, rc, err);
    return check_pair(o, cert, key, err);
}

/* Whom it is for, and until when: what one wants to see after a renewal. */
static void tell(const certificate *c)
{
    gnutls_x509_crt_t crt;
    char name[256] = "?", until[32];
    size_t size = sizeof name;
    if (gnutls_pcert_export_x509((gnutls_pcert_st *)&c->chain[0], &crt) < 0) return;
    gnutls_x509_crt_get_dn(crt, name, &size);
    time_t end = gnutls_x509_crt_get_expiration_time(crt);
    gnutls_x509_crt_deinit(crt);
    struct tm tm;
    gmtime_r(&end, &tm);
    strftime(until, sizeof until, "%Y-%m-%d", &tm);
    bool over = end <= time(NULL);
    an_log(over ? AN_LOG_WARN : AN_LOG_INFO, "TLS: the certificate of %s %s %s", name,
           over ? "has expired:" : "is good until", until);
}

an_status tls_load(const an_options *o, an_error *err)
{
    gnutls_datum_t cert = {0}, key = {0};
    char *text[2] = {NULL, NULL};
    size_t len[2] = {0, 0};
    certificate *c = calloc(1, sizeof *c);
    if (!c) return an_fail(err, AN_NO_MEMORY, "out of memory");
    an_status s = an_read_file(o->tls_cert, MAX_FILE, &text[0], &len[0], err);
    if (s != AN_OK) {
        an_fail_prefix(err, s, "--tls-cert");
    } else {
        s = an_read_file(o->tls_key, MAX_FILE, &text[1], &len[1], err);
        if (s != AN_OK) an_fail_prefix(err, s, "--tls-key");
    }
    if (s == AN_OK) {
        cert = (gnutls_datum_t){(unsigned char *)text[0], (unsigned)len[0]};
        key = (gnutls_datum_t){(unsigned char *)text[1], (unsigned)len[1]};
        s = parse(o, &cert, &key, c, err);
    }
    if (text[1]) gnutls_memset(text[1], 0, len[1]);
    free(text[0]);
    free(text[1]);
    if (s != AN_OK) {
        free_certificate(c);
        return s;
    }
    c->older = atomic_load(&current);
    atomic_store(&current, c);
    tell(c); /* who reads it finds it so */
    return AN_OK;
}

void tls_free(void)
{
    certificate *c = atomic_exchange(&current, NULL);
    while (c) {
        certificate *older = c->older;
        free_certificate(c);
        c = older;
    }
}

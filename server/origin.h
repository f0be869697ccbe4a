/* origin.h: what a web page may do. A browser runs strangers' pages beside the user's own server,
 * and sends requests for them: these are the rules that keep such pages out. No key is needed for
 * any of it. */
#ifndef ANNEAL_ORIGIN_H
#define ANNEAL_ORIGIN_H

#include "options.h"

/* The value of Access-Control-Allow-Origin for a page of this origin, "*" or the origin as the
 * options have it; NULL if its pages may not read answers. origin may be NULL. */
const char *origin_allowed(const an_options *o, const char *origin);
/* Does a request that changes something come from a page of another site that is not allowed to?
 * By Sec-Fetch-Site where the browser tells it, else by Origin against Host; programs that are no
 * browsers send neither. The values of the headers, or NULL. */
bool origin_foreign(const an_options *o, const char *origin, const char *fetch_site,
                    const char *host);
/* Could this Host be a name that a stranger's page gave to this machine's loopback address (DNS
 * rebinding)? Not if it is absent, an address, a name without a dot, below .localhost, or one of
 * --allow-host, --host and --public-url. */
bool host_foreign(const an_options *o, const char *host);

/* Does `--allow-host '*'` let in whatever the Host is, also one that is no host's name? */
bool host_any(const an_options *o);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The bundles that SPIRE's agent has sent: one whole set after the other. Control thread. */
#ifndef PROXY_IDENTITY_SPIRE_TRUST_H
#define PROXY_IDENTITY_SPIRE_TRUST_H

#include "proxy/tls/bundles.h"

/* Zeroed is none; spire_trust_clear(). */
struct spire_trust {
    struct bundles *bundles; /* those in force; NULL: none have come yet */
    struct bundles *next;    /* while a message is read */
    unsigned bad;            /* trust domains of the last message whose bundle cannot be used */
};

/* A message is read: spire_trust_put() for each trust domain, then spire_trust_end(). 0 or -ENOMEM. */
int spire_trust_begin(struct spire_trust *trust);
/* A spire_bundle_fn. What cannot be used leaves the trust domain's last roots in force, and is logged. 0,
 * -E2BIG or -ENOMEM. */
int spire_trust_put(void *trust, const char *trust_domain, STACK_OF(X509) * roots, const char *error);
/* Ends it. good: the whole message is, and what was put is in force now; returns whether that trusts others
 * than before. Otherwise nothing changes. */
bool spire_trust_end(struct spire_trust *trust, bool good);
/* Frees what it has, and empties it. */
void spire_trust_clear(struct spire_trust *trust);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Roots of trust domains that this one is federated with: each is good for identities of its own trust
 * domain, and for no others. Made on the control thread, read-only once others know it.
 */
#ifndef PROXY_TLS_BUNDLES_H
#define PROXY_TLS_BUNDLES_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>

#define BUNDLES_MAX 128 /* trust domains of a set */

struct bundle {
    char *trust_domain;
    STACK_OF(X509) * roots;
    unsigned char digest[32]; /* of the roots, in their order */
};

struct bundles {
    int references; /* atomic */
    size_t len;
    struct bundle items[BUNDLES_MAX];
};

/* Every certificate of a PEM text: at least one, and nothing that is damaged. The caller frees *ret. 0;
 * -EBADMSG with what is wrong in error. */
int pem_certificates(const char *pem, STACK_OF(X509) * *ret, char *error, size_t error_size);

/* An empty set with one reference, or NULL without memory. */
struct bundles *bundles_new(void);
/* Takes roots, also on failure. A trust domain that is there already is replaced. 0, -E2BIG, or -ENOMEM. */
int bundles_put(struct bundles *set, const char *trust_domain, STACK_OF(X509) * roots);
/* Adds those of the other set whose trust domains are not there yet. NULL adds nothing. As bundles_put(). */
int bundles_fill(struct bundles *set, const struct bundles *other);
/* The trust domain's, or NULL; lives as long as the set. set may be NULL. */
const struct bundle *bundles_find(const struct bundles *set, const char *trust_domain, size_t len);
/* Whether they trust the same. NULL is as an empty one. */
bool bundles_same(const struct bundles *a, const struct bundles *b);

/* One more reference, of any thread; returns set, which may be NULL. */
struct bundles *bundles_ref(struct bundles *set);
/* Gives one back, on any thread; NULL is fine. */
void bundles_unref(struct bundles *set);

#endif
